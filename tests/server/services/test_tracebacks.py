from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pytest
import structlog

from tonescope_server.app import configure_logging
from tonescope_server.config import Config
from tonescope_server.services.tracebacks import described

# Four exceptions of sixteen frames, each frame a path, a name and 160 characters of source at most.
BOUND = 30_000


def fail(depth: int, windows: list[list[float]]) -> None:
    if depth:
        fail(depth - 1, windows)
    try:
        raise ValueError(f"first {windows}")
    except ValueError as error:
        raise RuntimeError(f"shape (2, 56, 20) of {np.array(windows)}") from error


@pytest.mark.parametrize("mode", ["console", "json"])
def test_an_unexpected_exception_is_one_event_of_bounded_size_without_the_values_of_arrays(
    mode: Literal["console", "json"], capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(Config(log_format=mode))
    windows = [[7.25 + i, float("nan"), 7.25] * 50 for i in range(50)]
    try:
        fail(200, windows)
    except RuntimeError:
        structlog.get_logger("tonescope.test").exception("unexpected error", request_id="r1")
    said = capfd.readouterr().err
    assert len(said) < BOUND
    assert "7.25" not in said
    assert "ValueError: first" in said
    assert "RuntimeError: shape (2, 56, 20)" in said, "where it came from stays"
    if mode == "json":
        assert json.loads(said)["request_id"] == "r1"


def test_the_first_cause_comes_first_and_the_innermost_lines_stay() -> None:
    try:
        fail(100, [[1.0]])
    except RuntimeError as error:
        text = described(error)
    assert text.index("ValueError") < text.index("caused") < text.index("RuntimeError")
    assert "in fail: raise RuntimeError" in text.replace("RuntimeError(f", "RuntimeError")


def test_exceptions_that_cause_each_other_come_to_an_end() -> None:
    error = ValueError("again")
    other = ValueError("and again")
    error.__context__, other.__context__ = other, error
    assert described(error).count("ValueError") == 4
