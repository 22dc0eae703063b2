"""Checks of the arrays that a model is asked about."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.errors import DtypeError, NonFiniteError, ShapeError
from tonescope_server.models.model import Model
from tonescope_server.types import FloatArray


def checked(model: Model, x: npt.ArrayLike) -> FloatArray:
    """Return windows as the contiguous array that the model takes.

    Shapes:
        ``x`` (batch, *input shape), of any real type.

    Raises:
        DtypeError: complex, text or objects.
        ShapeError: another shape, or no window at all.
        NonFiniteError: NaN or infinity; the message says where the first one is, and in which of several windows.
    """
    name, expected = model.input.name, model.input.shape[1:]
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ShapeError(f"input '{name}': expected (batch, {_sizes(expected)}), got a ragged list") from error
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"input '{name}': expected real numbers ({model.input.dtype}), got {array.dtype}")
    fits = array.ndim == len(expected) + 1 and (
        array.shape[1:] == expected
        or all(want in (-1, got) for want, got in zip(expected, array.shape[1:], strict=True))
    )
    if not fits or len(array) == 0:
        raise ShapeError(f"input '{name}': expected (batch, {_sizes(expected)}), got {array.shape}")
    dtype = np.dtype(model.input.dtype)
    windows = np.ascontiguousarray(array if array.dtype == dtype else _converted(array, dtype))
    finite = np.isfinite(windows)
    if not finite.all():
        window, *where = (int(i) for i in np.argwhere(~finite)[0])
        which = f"window {window}: " if len(windows) > 1 else ""
        got = windows[(window, *where)]
        raise NonFiniteError(f"{which}input '{name}': expected finite numbers, got {got} at {tuple(where)}")
    return windows


def _converted(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):  # what overflows the model's type becomes infinite, and is refused
        return array.astype(dtype)


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join("any" if d < 0 else str(d) for d in shape)
