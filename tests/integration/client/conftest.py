"""A daemon in a process of its own, and a client of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tonescope

from .daemons import Daemon


@pytest.fixture(scope="module")
def daemon(tiny_store: Path) -> Iterator[Daemon]:
    running = Daemon(tiny_store)
    yield running
    running.stop()


@pytest.fixture
def mortal(tiny_store: Path) -> Iterator[Daemon]:
    """A daemon that a test may kill."""
    running = Daemon(tiny_store)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGKILL)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[tonescope.Client]:
    with tonescope.connect(daemon.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((6, 56, 4)).astype(np.float32)
