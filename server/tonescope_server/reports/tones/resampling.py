"""How sure a mean over windows is, where windows overlap and follow each other in time.

Neighbouring windows share frames, and what moves in a room goes on moving: n windows are worth fewer than n independent
ones. So blocks of consecutive windows are drawn in place of single ones. Windows stand in the order of their file, in
which the nodes of a recording take turns: a block then holds what all nodes saw at one time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonescope_server.types import IntArray

Float64Array = npt.NDArray[np.float64]
FEWEST_FOR_BLOCKS = 8
DRAWS_AT_ONCE = 256
DRAWS_OF_ERROR = 1000
MOST_PERSISTENT = 0.95  # an autoregression's coefficient: above it, a mean over a recording says nothing


@dataclass(frozen=True, eq=False)
class Sources:
    """Where windows come from, in the order of their files.

    Shapes:
        recordings, nodes: ``[n]``.

    Attributes:
        recordings: the number of the recording of each window.
        nodes: its node.
        overlap: how many consecutive windows share frames, for each recording; 1 where none do, or nobody knows.
    """

    recordings: IntArray
    nodes: IntArray
    overlap: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.recordings)

    @property
    def n_recordings(self) -> int:
        """Count the recordings."""
        return len(self.overlap)

    def only(self, chosen: IntArray, overlap: Sequence[int] | None = None) -> Sources:
        """Return the sources of these windows."""
        kept = self.overlap if overlap is None else tuple(overlap)
        return Sources(self.recordings[chosen], self.nodes[chosen], kept)


@dataclass(frozen=True, eq=False)
class Resampled:
    """Means over windows, drawn again.

    Shapes:
        means: ``[draws, columns]``.

    Attributes:
        blocks: windows in a block, for each recording.
    """

    means: Float64Array
    blocks: tuple[int, ...] = ()

    @property
    def standard_error(self) -> Float64Array:
        """The spread of the mean, for each column."""
        error: Float64Array = self.means.std(axis=0, ddof=1)
        return error


def resample_windows(values: Float64Array, sources: Sources, draws: int, rng: np.random.Generator) -> Resampled:
    """Draw the mean over windows again, by blocks of consecutive windows; the recordings stay the same.

    What differs between nodes as such is no chance, and stays out of it. Two things make blocks tell too little, and
    are put back: a recording's own mean takes a part of each block's deviation with it, by √(n / (n − block)); and what
    goes on for longer than a block is cut off (``_cut_off``).

    Shapes:
        values: ``[n, columns]``.

    Source: Politis & Romano 1992 (the circular block bootstrap), and ``block_length`` for the blocks.
    """
    total = np.zeros((draws, values.shape[1]))
    blocks = []
    for number in range(sources.n_recordings):
        mine = sources.recordings == number
        n, nodes = int(mine.sum()), sources.nodes[mine]
        residuals = _without_node_means(values[mine], nodes)
        by_node = [residuals[nodes == node] for node in np.unique(nodes)]
        turns = max(max(block_length(each) for each in by_node), math.ceil(sources.overlap[number] / len(by_node)))
        block = min(turns * len(by_node), max(n // 3, 1))
        blocks.append(block)
        if n > 1:
            widened = math.sqrt(n / (n - block) * _cut_off(by_node, block / len(by_node)))
            total += widened * _block_sums(residuals, block, draws, rng)
    return Resampled(values.mean(axis=0) + total / len(values), tuple(blocks))


def error_of_mean(values: Float64Array, nodes: IntArray, overlap: int = 1) -> Float64Array | None:
    """Return the standard error of the mean over the windows of one recording, for each column; None for one window.

    Shapes:
        values: ``[n, columns]``, in order of time; nodes: ``[n]``.

    Args:
        values: of each window.
        nodes: whose it is.
        overlap: how many consecutive windows share frames; 1 where none do, or nobody knows.
    """
    if len(values) < 2:
        return None
    sources = Sources(np.zeros(len(values), np.int64), nodes, (overlap,))
    drawn = resample_windows(values, sources, DRAWS_OF_ERROR, np.random.Generator(np.random.Philox(key=1)))
    return drawn.standard_error


def overlap_of(frames: int, hop: int, nodes: IntArray) -> int:
    """Return how many consecutive windows of a recording share frames, where its nodes take turns."""
    return math.ceil(frames / (hop or frames)) * len(np.unique(nodes))


def resample_recordings(values: Float64Array, sources: Sources, draws: int, rng: np.random.Generator) -> Resampled:
    """Draw the mean over windows again, by whole recordings: what another room or another day would change is in it.

    Few recordings make it too narrow: the spread is widened by √(R / (R − 1)), which is right for its square.

    Shapes:
        values: ``[n, columns]``.

    Source: Davison & Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8: clusters are drawn, and
    what is in them is left alone.
    """
    n = sources.n_recordings
    sums = np.stack([values[sources.recordings == number].sum(axis=0) for number in range(n)])
    sizes = np.bincount(sources.recordings, minlength=n).astype(np.float64)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    means = (counts @ sums) / (counts @ sizes)[:, None]
    mean = values.mean(axis=0)
    return Resampled(mean + math.sqrt(n / (n - 1)) * (means - mean))


def block_length(values: Float64Array) -> int:
    """Choose how many consecutive windows to draw together: the median of what suits each column.

    Shapes:
        values: ``[n, columns]``, in order of time.

    Source: Politis & White 2004, "Automatic block-length selection for the dependent bootstrap", with the correction of
    Patton, Politis & White 2009, for circular blocks; at most min(3√n, n / 3), as they advise.
    """
    n = len(values)
    if n < FEWEST_FOR_BLOCKS:
        return 1
    varying = values[:, values.std(axis=0) > 0]
    lengths = [_block_length_of(column) for column in varying.T]
    most = min(math.ceil(3 * math.sqrt(n)), n // 3)
    return int(np.clip(math.ceil(float(np.median(lengths))), 1, most)) if lengths else 1


def _cut_off(by_node: Sequence[Float64Array], block: float) -> float:
    """Return by how much the variance of a mean is greater than blocks of that length tell.

    What they tell of a first-order autoregression is known exactly, so that what they miss of it is too. Its one
    coefficient is the median over columns and nodes, each corrected for the length of the series. Windows that overlap
    without more ado are taken for a little more persistent than they are, which is the safe side.

    Source: Künsch 1989 for the blocks' expectation; Kendall 1954 for the correction, (1 + 3ρ) / n.
    """
    found = []
    for series in by_node:
        varying = series[:, series.std(axis=0) > 0]
        if len(series) >= FEWEST_FOR_BLOCKS and varying.shape[1]:
            rho = (varying[1:] * varying[:-1]).sum(axis=0) / (varying**2).sum(axis=0)
            found.append(rho + (1 + 3 * rho) / len(series))
    rho = min(max(float(np.median(np.concatenate(found))), 0.0), MOST_PERSISTENT) if found else 0.0
    lags = np.arange(1, max(math.floor(block), 1) + 1)
    told = 1 + 2 * float((np.clip(1 - lags / max(block, 1), 0, None) * rho**lags).sum())
    return (1 + rho) / (1 - rho) / told


def _block_length_of(column: Float64Array) -> float:
    n = len(column)
    covariance = _autocovariance(column)
    correlation = covariance / covariance[0]
    quiet = max(5, math.ceil(math.sqrt(math.log10(n))))
    most = min(math.ceil(math.sqrt(n)) + quiet, n - 1)
    small = np.abs(correlation[1 : most + 1]) < 2 * math.sqrt(math.log10(n) / n)
    runs = (lag for lag in range(len(small) - quiet + 1) if small[lag : lag + quiet].all())
    last = next(runs, most)
    bandwidth = min(2 * max(last, 1), most)
    lags = np.arange(-bandwidth, bandwidth + 1)
    share = np.abs(lags) / bandwidth
    taper = np.where(share <= 0.5, 1.0, 2 * (1 - share))
    weighted = taper * covariance[np.abs(lags)]
    slope, spectrum = float((weighted * np.abs(lags)).sum()), float(weighted.sum())
    if spectrum <= 0:
        return 1.0
    return float((2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * n ** (1 / 3))


def _autocovariance(column: Float64Array) -> Float64Array:
    n = len(column)
    centred = column - column.mean()
    spectrum = np.fft.rfft(centred, 2 * n)
    covariance: Float64Array = np.fft.irfft(spectrum * spectrum.conj())[:n] / n
    return covariance


def _without_node_means(values: Float64Array, nodes: IntArray) -> Float64Array:
    residuals = values.copy()
    for node in np.unique(nodes):
        residuals[nodes == node] -= values[nodes == node].mean(axis=0)
    return residuals


def _block_sums(residuals: Float64Array, block: int, draws: int, rng: np.random.Generator) -> Float64Array:
    """Return the sum over as many windows as there are, drawn in circular blocks: ``[draws, columns]``."""
    n = len(residuals)
    n_blocks = -(-n // block)
    sums = np.empty((draws, residuals.shape[1]))
    for start in range(0, draws, DRAWS_AT_ONCE):
        here = min(DRAWS_AT_ONCE, draws - start)
        first = rng.integers(0, n, (here, n_blocks, 1))
        picked = ((first + np.arange(block)) % n).reshape(here, -1)[:, :n]
        counts = np.zeros((here, n))
        np.add.at(counts, (np.arange(here)[:, None], picked), 1.0)
        sums[start : start + here] = counts @ residuals
    return sums
