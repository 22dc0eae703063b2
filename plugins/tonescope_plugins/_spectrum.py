"""Occlusion by frequency of the time axis: how fast the values of a tone change, and what that is worth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tonescope_plugins import _parts
from tonescope_plugins._masking import POINTS
from tonescope_server import plugin
from tonescope_server.errors import ParameterError
from tonescope_server.types import BoolArray, FloatArray

Float64Array = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]


def bands(windows: plugin.Windows, size: int, stride: int, edges: list[float] | None) -> BoolArray:
    """Return which frequencies of a real spectrum over the frames each band has, ``(bands, frequencies)``.

    Raises:
        ParameterError: edges that do not rise within 0 to 0.5, a band between two frequencies, or too large a size.
    """
    frequencies = np.fft.rfftfreq(int(windows.frame_of_cell.max()) + 1)
    if edges is None:
        slabs = _parts.slabs(np.arange(frequencies.size), size, stride)
        if not slabs.any(axis=0).all():
            _parts.refuse_stride(size, stride, np.flatnonzero(~slabs.any(axis=0)), "frequencies")
        return slabs
    limits = np.asarray(edges, np.float64)
    if limits.size < 2 or not (np.diff(limits) > 0).all() or limits[0] < 0 or limits[-1] > 0.5:
        raise ParameterError(
            f"parameter 'band_edges': expected at least two rising cycles per frame from 0 to 0.5, got {edges}"
        )
    found: BoolArray = (frequencies >= limits[:-1, None]) & (frequencies < limits[1:, None])
    found[-1] |= frequencies == limits[-1]
    if not found.any(axis=1).all():
        empty = int(np.flatnonzero(~found.any(axis=1))[0])
        raise ParameterError(
            f"parameter 'band_edges': expected a frequency in every band, got none from {edges[empty]} to "
            f"{edges[empty + 1]}: the windows' spectrum has one every {frequencies[1:2].sum():.3g} cycles per frame"
        )
    return found


def occluded(
    model: plugin.ModelAccess, windows: plugin.Windows, hidden: BoolArray, fill: FloatArray
) -> plugin.Estimate:
    """Give each band of all tones the spectrum of the filling, and share what the target loses by energy lost."""
    cells = _parts.cells_of_series(windows)
    batch, frames = len(windows.x), cells.shape[1]
    flat = windows.x.reshape(batch, -1)
    beyond = np.fft.rfft((flat - fill)[:, cells].astype(np.float64))  # the filling: (batch, series, frequencies)
    everyone = np.arange(batch, dtype=np.int64)
    values = np.empty((batch, len(hidden)), np.float32)
    intact = model.score(windows.x, everyone)
    at_once = max(POINTS // batch, 1)
    for start in range(0, len(hidden), at_once):
        some = slice(start, min(start + at_once, len(hidden)))
        lost = np.fft.irfft(beyond * hidden[some, None, None, :], frames)
        points = np.empty((len(lost), *flat.shape), flat.dtype)
        points[..., cells] = flat[:, cells] - lost
        scores = model.score(points.reshape(-1, *windows.x.shape[1:]), np.tile(everyone, len(lost)))
        values[:, some] = intact[:, None] - scores.reshape(-1, batch).T
    shares = _by_energy(values, beyond, hidden, frames)
    spread = np.empty(flat.shape, np.float32)
    spread[:, cells] = shares[..., None] / frames
    return plugin.Estimate(spread.reshape(windows.x.shape), units=values)


def _by_energy(values: FloatArray, beyond: ComplexArray, hidden: BoolArray, frames: int) -> Float64Array:
    """Share each band's value among series by the energy they lose, ``(batch, series)``.

    Where bands overlap, a frequency gets the average over the bands that cover it. A band without energy lost nothing.
    """
    twice = np.full(beyond.shape[2], 2.0)  # a real spectrum stands for both signs of a frequency
    twice[0] = 1.0
    if frames % 2 == 0:
        twice[-1] = 1.0
    energy = twice * np.abs(beyond) ** 2
    total = energy.sum(axis=1) @ hidden.T
    rates = np.divide(values, total, out=np.zeros_like(total), where=total > 0)
    shares: Float64Array = np.einsum("bsf,bf->bs", energy, rates @ hidden / np.maximum(hidden.sum(axis=0), 1))
    return shares
