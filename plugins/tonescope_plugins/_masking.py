"""Scores of windows of which some cells are shown, and others hold something else: many at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tonescope_server import plugin
from tonescope_server.types import BoolArray, FloatArray

# Points that are made and scored at a time: one run of the model. More would only hold more memory.
POINTS = 256


def masked_scores(
    model: plugin.ModelAccess,
    windows: plugin.Windows,
    count: int,
    shown: Callable[[slice], BoolArray],
    filling: FloatArray,
) -> FloatArray:
    """Return the target's value with each of ``count`` masks, ``(batch, count)``.

    Args:
        model: what is asked.
        windows: the windows that are shown in part.
        count: how many masks there are.
        shown: gives some of the masks: which cells are shown, ``(n, cells)``.
        filling: what the others hold, broadcastable to ``(batch, cells)``.
    """
    flat = windows.x.reshape(len(windows.x), -1)
    everyone: npt.NDArray[np.int64] = np.arange(len(flat), dtype=np.int64)
    at_once = max(POINTS // len(flat), 1)
    found = np.empty((count, len(flat)), np.float32)
    for start in range(0, count, at_once):
        some = slice(start, min(start + at_once, count))
        masks = shown(some)
        points = np.empty((len(masks), *flat.shape), flat.dtype)
        points[...] = filling
        np.copyto(points, flat, where=masks[:, None])
        window = np.tile(everyone, len(masks))
        found[some] = model.score(points.reshape(-1, *windows.x.shape[1:]), window).reshape(len(masks), -1)
    return found.T


def masked_losses(
    model: plugin.ModelAccess,
    windows: plugin.Windows,
    hidden: BoolArray,
    filling: FloatArray,
) -> FloatArray:
    """Return what the target loses where cells hold something else, ``(batch, masks)``.

    A mask under which a window stays what it is costs exactly nothing: scores alone would differ by how runs of other
    sizes are rounded.

    Args:
        model: what is asked.
        windows: the windows that are hidden in part.
        hidden: which cells each mask hides, ``(masks, cells)``.
        filling: what they hold then, broadcastable to ``(batch, cells)``.
    """
    intact = model.score(windows.x, np.arange(len(windows.x), dtype=np.int64))
    scores = masked_scores(model, windows, len(hidden), lambda some: ~hidden[some], filling)
    differs = windows.x.reshape(len(windows.x), -1) != filling
    changed = differs.astype(np.float32) @ hidden.T.astype(np.float32) > 0
    losses: FloatArray = np.where(changed, intact[:, None] - scores, np.float32(0.0))
    return losses
