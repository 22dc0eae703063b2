"""Occlusion: what the target loses when a part of the window is replaced."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_server import plugin
from tonescope_server.errors import ParameterError
from tonescope_server.types import FloatArray, IntArray


class OcclusionParameters(plugin.Parameters):
    """Parameters of occlusion."""

    along: Literal["tone", "band", "frame", "tone_frame"] | int = Field(
        "tone",
        description="What is hidden: each tone, each band of tones that are neighbours in frequency (within a training "
        "field, null tones apart), each frame, each patch of tones by frames, or each slab along one axis of the input "
        "(a number; axis 0 is the batch). Tones that are hidden together otherwise are neighbours in the tone table.",
    )
    size: int = Field(
        1, ge=1, description="Tones, frames or slabs that are hidden together; of a band or patch, its tones."
    )
    stride: int = Field(1, ge=1, description="From one hidden part to the next; at most `size`.")
    patch_frames: int = Field(1, ge=1, description="Frames in a patch, where `along` is tone_frame.")
    fill: Literal["baseline", "zero", "mean"] = Field(
        "baseline",
        description="What is put in its place: the manifest's baseline, zero, or the window's mean over the tone.",
    )


class Occlusion(plugin.ProceduralMethod):
    """``f(x) − f(x with a part replaced)``; where parts overlap, a cell gets the average over the parts that cover it.

    A part's value is shared evenly among its cells, so that the sum over a tone's cells is the tone's own value when
    tones are hidden one by one. ``units`` holds the value of every part, in order.

    Source: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 4.2, and Ancona et
    al. (2018) for the difference of scores in place of probabilities.
    """

    name = "occlusion"
    summary = "What the target loses when a tone, a band, a frame or a patch is hidden; needs predictions only."
    source = "Zeiler & Fergus 2014, arXiv:1311.2901"
    Parameters = OcclusionParameters

    def attribute(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Hide each part in turn, all windows at once."""
        batch = len(windows.x)
        flat = windows.x.reshape(batch, -1)
        fill = _fill(windows, parameters.fill)
        masks = parts(windows, parameters)
        everyone: IntArray = np.arange(batch, dtype=np.int64)
        intact = model.score(windows.x, everyone)
        values = np.empty((batch, len(masks)), np.float32)
        for i, mask in enumerate(masks):
            hidden = np.where(mask, fill, flat).reshape(windows.x.shape)
            values[:, i] = intact - model.score(hidden, everyone)
        sizes = np.maximum(masks.sum(axis=1), 1)
        covered = np.maximum(masks.sum(axis=0), 1)
        shares: npt.NDArray[np.float64] = masks / sizes[:, None] / covered[None, :]
        cells: FloatArray = (values @ shares).astype(np.float32).reshape(windows.x.shape)
        return plugin.Estimate(cells, units=values)

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the parts, and the intact window."""
        return len(parts(windows, parameters)) + 1


def parts(windows: plugin.Windows, parameters: OcclusionParameters) -> npt.NDArray[np.bool_]:
    """Return which cells each part hides, ``(parts, cells)``.

    Raises:
        ParameterError: a size that there is not, or a stride that leaves something which is never hidden.
    """
    masks = _parts(windows, parameters)
    never = ~masks.any(axis=0)
    if never.any():
        where, what = windows.tone_of_cell, "tones"
        if parameters.along == "frame":
            where, what = windows.frame_of_cell, "frames"
        elif isinstance(parameters.along, int):
            where, what = _along(windows, parameters.along), "slabs"
        left = np.unique(where[never]).tolist()
        shown = f"{', '.join(map(str, left[:8]))}{', …' if len(left) > 8 else ''}"
        raise ParameterError(
            f"parameter 'stride': expected at most the size, {parameters.size}, got {parameters.stride}: "
            f"{what} {shown} would never be hidden"
        )
    return masks


def _along(windows: plugin.Windows, axis: int) -> IntArray:
    """Return the place of every cell along one axis of the input."""
    shape = windows.x.shape[1:]
    places = np.arange(shape[axis - 1]).reshape([-1 if a == axis - 1 else 1 for a in range(len(shape))])
    return np.broadcast_to(places, shape).ravel()


def _parts(windows: plugin.Windows, parameters: OcclusionParameters) -> npt.NDArray[np.bool_]:
    shape = windows.x.shape[1:]
    if isinstance(parameters.along, int):
        if not 1 <= parameters.along <= len(shape):
            raise ParameterError(f"parameter 'along': expected an axis from 1 to {len(shape)}, got {parameters.along}")
        return _slabs(_along(windows, parameters.along), parameters.size, parameters.stride)
    if parameters.along == "band":
        return _bands(windows, parameters.size, parameters.stride)
    tones = _slabs(windows.tone_of_cell, parameters.size, parameters.stride, windows.n_tones)
    if parameters.along == "tone":
        return tones
    if parameters.along == "frame":
        return _slabs(windows.frame_of_cell, parameters.size, parameters.stride)
    frames = _slabs(windows.frame_of_cell, parameters.patch_frames, parameters.patch_frames, name="patch_frames")
    return (tones[:, None, :] & frames[None, :, :]).reshape(-1, tones.shape[1])


def _bands(windows: plugin.Windows, size: int, stride: int) -> npt.NDArray[np.bool_]:
    """Return which cells each band hides: group after group, and in each in the order of the spectrum.

    A group that is smaller than a band (the null tones, mostly) is hidden as a whole.
    """
    largest = max(len(group) for group in windows.tone_groups)
    if size > largest:
        raise ParameterError(f"parameter 'size': expected at most {largest}, got {size}")
    bands = []
    for group in windows.tone_groups:
        place = np.full(windows.n_tones, -1, np.int64)  # of each tone in the group
        place[group] = np.arange(len(group))
        bands.append(_slabs(place[windows.tone_of_cell], min(size, len(group)), stride, len(group)))
    return np.concatenate(bands)


def _slabs(
    index: IntArray, size: int, stride: int, count: int | None = None, *, name: str = "size"
) -> npt.NDArray[np.bool_]:
    """Return, per slab of ``size`` neighbouring indices, which cells have one of them.

    The last slab is cut short where the indices end, so that none of them goes without for lying at the end.
    """
    total = int(index.max()) + 1 if count is None else count
    if size > total:
        raise ParameterError(f"parameter '{name}': expected at most {total}, got {size}")
    starts = np.arange(0, min(total - size + stride, total), stride)
    slabs: npt.NDArray[np.bool_] = (index[None] >= starts[:, None]) & (index[None] < starts[:, None] + size)
    return slabs


def _fill(windows: plugin.Windows, kind: str) -> FloatArray:
    """Return what is put in place of hidden cells, broadcastable to ``(batch, cells)``."""
    flat = windows.x.reshape(len(windows.x), -1)
    if kind == "zero":
        return np.zeros((1, flat.shape[1]), np.float32)
    if kind == "baseline":
        return windows.baseline.reshape(1, -1)
    one_hot = np.eye(windows.n_tones, dtype=np.float32)[windows.tone_of_cell]
    means = (flat @ one_hot) / np.maximum(one_hot.sum(axis=0), 1)
    filled: FloatArray = means[:, windows.tone_of_cell].astype(np.float32)
    return filled


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer occlusion."""
    return [Occlusion()]
