"""Occlusion: what the target loses when a part of the window is replaced."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_plugins import _parts, _spectrum
from tonescope_plugins._masking import masked_losses
from tonescope_server import plugin
from tonescope_server.errors import ParameterError
from tonescope_server.types import FloatArray


class OcclusionParameters(plugin.Parameters):
    """Parameters of occlusion."""

    along: Literal["tone", "band", "frame", "tone_frame", "link", "component", "time_frequency"] | int = Field(
        "tone",
        description="What is hidden: each tone, each band of tones that are neighbours in frequency (within a training "
        "field, null tones apart), each frame, each patch of tones by frames, each antenna link, each component of a "
        "complex value, each band of frequencies of the time axis (how fast values change), or each slab along one "
        "axis of the input (a number; axis 0 is the batch). Tones that are hidden together otherwise are neighbours in "
        "the tone table.",
    )
    size: int = Field(
        1,
        ge=1,
        description="Tones, frames, frequencies or slabs that are hidden together; of a band or patch, its tones.",
    )
    stride: int = Field(1, ge=1, description="From one hidden part to the next; at most `size`.")
    patch_frames: int = Field(1, ge=1, description="Frames in a patch, where `along` is tone_frame.")
    band_edges: list[float] | None = Field(
        None,
        description="Edges of the bands, in cycles per frame from 0 to 0.5, where `along` is time_frequency: each band "
        "has its lower edge, and the last one both. Absent means bands of `size` frequencies of the window's "
        "spectrum, by `stride`.",
    )
    fill: Literal["baseline", "zero", "mean"] = Field(
        "baseline",
        description="What is put in its place: the manifest's baseline, zero, or the window's mean over the tone.",
    )


class Occlusion(plugin.ProceduralMethod):
    """``f(x) − f(x with a part replaced)``; where parts overlap, a cell gets the average over the parts that cover it.

    A part's value is shared evenly among its cells, so that the sum over a tone's cells is the tone's own value when
    tones are hidden one by one. ``units`` holds the value of every part, in order. A band of the time axis has no cells
    of its own: it is hidden in all tones at once, and its value is shared among
    tones by the energy that they lose, evenly over frames.

    Source: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 4.2, and Ancona et
    al. (2018) for the difference of scores in place of probabilities.
    """

    name = "occlusion"
    summary = "What the target loses when a tone, band, frame, patch, link or frequency is hidden; predictions only."
    source = "Zeiler & Fergus 2014, arXiv:1311.2901"
    Parameters = OcclusionParameters

    def attribute(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Hide each part in turn, all windows at once."""
        fill = _fill(windows, parameters.fill)
        if parameters.along == "time_frequency":
            bands = _spectrum.bands(windows, parameters.size, parameters.stride, parameters.band_edges)
            return _spectrum.occluded(model, windows, bands, fill)
        masks = parts(windows, parameters)
        values = masked_losses(model, windows, masks, fill)
        sizes = np.maximum(masks.sum(axis=1), 1)
        covered = np.maximum(masks.sum(axis=0), 1)
        shares: npt.NDArray[np.float64] = masks / sizes[:, None] / covered[None, :]
        cells: FloatArray = (values @ shares).astype(np.float32).reshape(windows.x.shape)
        return plugin.Estimate(cells, units=values)

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the parts, and the intact window."""
        if parameters.along == "time_frequency":
            count = len(_spectrum.bands(windows, parameters.size, parameters.stride, parameters.band_edges))
        else:
            count = len(parts(windows, parameters))
        return count + 1


def parts(windows: plugin.Windows, parameters: OcclusionParameters) -> _parts.Masks:
    """Return which cells each part hides, ``(parts, cells)``.

    Raises:
        ParameterError: a size that there is not, edges that nothing reads, or a stride that leaves something which is
            never hidden.
    """
    if parameters.band_edges is not None:
        raise ParameterError("parameter 'band_edges': expected it with along='time_frequency' only")
    masks = _masks(windows, parameters)
    never = ~masks.any(axis=0)
    if never.any():
        where, what = windows.tone_of_cell, "tones"
        if parameters.along == "frame":
            where, what = windows.frame_of_cell, "frames"
        elif isinstance(parameters.along, int):
            where, what = _parts.row_of_cell(windows, parameters.along, "along"), "slabs"
        _parts.refuse_stride(parameters.size, parameters.stride, where[never], what)
    return masks


def _masks(windows: plugin.Windows, parameters: OcclusionParameters) -> _parts.Masks:
    along, size, stride = parameters.along, parameters.size, parameters.stride
    if isinstance(along, int):
        return _parts.of_axis(windows, along, size, stride)
    if along == "band":
        return _parts.of_bands(windows, size, stride)
    if along == "frame":
        return _parts.of_frames(windows, size, stride)
    if along == "link":
        return _parts.of_links(windows, size, stride)
    if along == "component":
        return _parts.of_components(windows, size, stride)
    tones = _parts.of_tones(windows, size, stride)
    if along == "tone":
        return tones
    frames = _parts.of_frames(windows, parameters.patch_frames, parameters.patch_frames, name="patch_frames")
    return (tones[:, None, :] & frames[None, :, :]).reshape(-1, tones.shape[1])


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
