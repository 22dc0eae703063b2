"""The baseline that a method compares with: how it is given as a parameter, and what array it comes to."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.plugin.api import Windows


def _as_lists(value: Any) -> Any:
    """Let an array stand for the nested lists that travel on the wire."""
    return value.tolist() if isinstance(value, np.ndarray) else value


Baseline = Annotated[
    float | list[Any] | None,
    BeforeValidator(_as_lists),
    Field(
        description="What the window is compared with: one number for every cell, or an array of the input's shape, "
        "with or without a leading axis of 1 or of the batch; absent means the manifest's baseline, else zero."
    ),
]
"""The type of a parameter that is a baseline."""


def baseline_of(windows: Windows, given: float | list[Any] | None) -> npt.NDArray[Any]:
    """Return the baseline, ``(1, *input shape)`` or one per window, of the windows' element type.

    Raises:
        ParameterError: not numbers, or not finite ones.
        ShapeError: an array of another shape.
    """
    if given is None:
        return windows.baseline
    shape = windows.x.shape
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused below
            array = np.asarray(given, np.float64).astype(windows.x.dtype)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"parameter 'baseline': expected a number or nested lists of numbers ({error})") from error
    if not np.isfinite(array).all():
        raise ParameterError("parameter 'baseline': expected finite numbers, got NaN or infinity")
    if array.ndim == 0:
        return np.full((1, *shape[1:]), array, windows.x.dtype)
    if array.shape == shape[1:]:
        return array[None]
    if array.shape[1:] == shape[1:] and len(array) == 1:
        return array
    if array.shape[1:] == shape[1:] and len(array) > int(windows.rows.max()):
        return array[windows.rows]
    raise ShapeError(
        "parameter 'baseline': "
        f"expected {shape[1:]}, alone or with a leading axis of 1 or of the batch; got {array.shape}"
    )
