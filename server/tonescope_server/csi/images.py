"""Inputs that are images: which axis holds their channels, and when a window is taken for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import CellMap

CHANNELS = (1, 3)


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Give the axis of one or three channels, first or last, of an input in two dimensions; None where it has none."""
    if len(shape) != 3:
        return None
    fits = (axis for axis in (0, 2) if shape[axis] in CHANNELS and min(shape[:axis] + shape[axis + 1 :]) > 1)
    return next(fits, None)


def is_image(cells: CellMap) -> bool:
    """Say whether a window is an image for all that is known: of that shape, and with no word about tones."""
    return cells.table.is_unknown and not cells.has_parts and channel_axis(cells.shape) is not None


def as_image(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring an input with a channel axis to ``(rows, columns, channels)``."""
    axis = channel_axis(values.shape)
    return values if axis is None else np.moveaxis(values, axis, 2)
