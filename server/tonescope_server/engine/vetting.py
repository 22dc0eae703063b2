"""What a method's estimate must be before it becomes an answer: a wrong one is the method's fault, and said to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.plugin.api import Estimate
from tonescope_server.types import FloatArray, IntArray, ResultWarning

OVERFLOW = "MODEL_NOT_FINITE"


def fault_of(estimate: Any, shape: tuple[int, ...], n_tones: int) -> str:
    """Say what is wrong with the form of an estimate; "" where nothing is.

    Args:
        estimate: what the method gave.
        shape: of the windows, ``(batch, *input shape)``.
        n_tones: rows of the tone table.
    """
    if not isinstance(estimate, Estimate):
        return f"expected an Estimate, got {type(estimate).__name__}"
    if not isinstance(estimate.batches, int | None):
        return f"expected batches to be a whole number, got {estimate.batches!r}"
    if not (isinstance(estimate.warnings, tuple) and all(isinstance(w, ResultWarning) for w in estimate.warnings)):
        return "expected warnings to be a tuple of ResultWarning"
    for name, array, expected in _arrays(estimate, shape, n_tones):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            return f"expected {name} to be an array of floating-point numbers, got {_kind(array)}"
        if array.shape[: len(expected)] != expected or (name in _WHOLE and array.ndim != len(expected)):
            said = ", ".join(map(str, expected)) + ("" if name in _WHOLE else ", …")
            return f"expected {name} of shape ({said}), got {array.shape}"
    return ""


_WHOLE = {"cells", "tones", "standard_error"}


def _arrays(estimate: Estimate, shape: tuple[int, ...], n_tones: int) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield every array that an estimate has, by name, with its shape or the first of it."""
    batch = shape[:1]
    expected = {
        "cells": shape,
        "tones": (*batch, n_tones),
        "standard_error": (*batch, n_tones),
        "convergence_delta": batch,
        "units": batch,
    }
    for name, form in expected.items():
        if (array := getattr(estimate, name)) is not None:
            yield name, array, form
    for name, array in estimate.maps.items():
        yield f"map '{name}'", array, batch


def _kind(array: Any) -> str:
    return f"{array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__


def is_finite(values: FloatArray) -> bool:
    """Say whether all values are finite, in a fraction of a microsecond where they are of the usual size."""
    square = np.vdot(values, values).item()
    return square - square == 0.0 or bool(np.isfinite(values).all())  # a sum of squares may overflow by itself


def rows_not_finite(values: FloatArray) -> IntArray:
    """Return the windows that have a value which is not finite."""
    flat = values.reshape(len(values), -1)
    return np.flatnonzero(~np.isfinite(flat).all(axis=1))


def first_not_finite(values: npt.NDArray[Any]) -> str:
    """Say what the first value of a window is that is not finite, and where."""
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    return f"{values[place]} at {place}"


def overflow(window: int, what: str) -> ResultWarning:
    """Tell a user that there is nothing to attribute."""
    message = f"the model's {what} is not finite on this window, and so its attribution says nothing"
    return ResultWarning(OVERFLOW, message, window, is_fault=True)
