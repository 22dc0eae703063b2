"""Gateways, and daemons that they forward to."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..client.daemons import Daemon
from .gateways import Gateway


@pytest.fixture(scope="module")
def daemon(tiny_store: Path) -> Iterator[Daemon]:
    running = Daemon(tiny_store)
    yield running
    running.stop()


@pytest.fixture
def mortal(tiny_store: Path) -> Iterator[Daemon]:
    """A daemon that a test may kill or hold up."""
    running = Daemon(tiny_store)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGKILL)


@pytest.fixture
def start() -> Iterator[type[Gateway]]:
    started: list[Gateway] = []

    class Started(Gateway):
        def __init__(self, server: str, *flags: object) -> None:
            started.append(self)
            super().__init__(server, *flags)

    yield Started
    for each in started:
        each.close()
