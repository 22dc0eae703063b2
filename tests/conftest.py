"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and reference vectors: never part of the repository, so it may be absent."""
    path = Path(os.environ.get("TONESCOPE_SHARED") or _BESIDE_THE_REPOSITORY)
    if not path.is_dir():
        pytest.skip(f"needs the shared folder of real data and golden vectors: {path} is not there")
    return path
