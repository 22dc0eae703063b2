"""A ranking of tones, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tonescope_server.reports.tones.resampling import (
    Float64Array,
    Resampled,
    Sources,
    resample_recordings,
    resample_windows,
)
from tonescope_server.types import BoolArray, IntArray

FEWEST_RECORDINGS = 3
DRAWS = 2000


class Over(StrEnum):
    """What was drawn again to see how sure a ranking is."""

    WINDOWS = "windows"
    RECORDINGS = "recordings"


@dataclass(frozen=True, eq=False)
class Ranking:
    """Tones from the most important one down.

    Shapes:
        mean, standard_error, standard_error_recordings: ``[n_tones]``.
        rank_low, rank_high: ``[n_tones]``; 0 for a tone that is not ranked.
        order: ``[n_ranked]``.

    Attributes:
        order: the rows, most important first; only rows that may be chosen.
        mean: mean importance over the windows, of every row, ranked or not.
        standard_error: of that mean, for these recordings (``resample_windows``).
        standard_error_recordings: of that mean, for recordings like these; None where there are too few to tell.
        in_top: by K, the probability that each row is among the K most important: the share of draws.
        rank_low, rank_high: between which ranks nine draws in ten put it; the most important is 1.
        over: what the draws of ``in_top`` and of the ranks are over.
        effective_windows: how many independent windows these are worth: the median over tones.
        blocks: windows in a block, for each recording.
    """

    order: IntArray
    mean: Float64Array
    standard_error: Float64Array
    standard_error_recordings: Float64Array | None
    in_top: Mapping[int, Float64Array]
    rank_low: IntArray
    rank_high: IntArray
    over: Over
    effective_windows: float
    blocks: tuple[int, ...]


def order_of(importance: Float64Array, eligible: BoolArray) -> IntArray:
    """Order the eligible rows by their mean importance, the greatest first; of equals, the first row first.

    Shapes:
        importance: ``[n, n_tones]``.
    """
    order = np.argsort(-importance.mean(axis=0), kind="stable")
    return np.asarray(order[eligible[order]], np.int64)


def rank_tones(
    importance: Float64Array,
    sources: Sources,
    eligible: BoolArray,
    ks: Sequence[int],
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Ranking:
    """Rank tones by their mean importance over windows.

    From three recordings on, probabilities are over recordings: what another recording would say. With fewer they are
    over windows, and say nothing of another room or day.

    Shapes:
        importance: ``[n, n_tones]``, not negative.

    Args:
        importance: of each tone in each window.
        sources: where the windows come from.
        eligible: which rows may be chosen.
        ks: for which K to tell the probability of being in the top K.
        rng: what the draws come from.
        draws: how many.
    """
    by_window = resample_windows(importance, sources, draws, rng)
    by_recording = None
    if sources.n_recordings >= FEWEST_RECORDINGS:
        by_recording = resample_recordings(importance, sources, draws, rng)
    drawn = by_window if by_recording is None else by_recording
    ranks = _ranks(drawn.means, eligible)
    low, high = np.percentile(ranks, (5, 95), axis=0)
    return Ranking(
        order_of(importance, eligible),
        importance.mean(axis=0),
        by_window.standard_error,
        None if by_recording is None else by_recording.standard_error,
        {k: ((ranks <= k) & eligible).mean(axis=0) for k in ks},
        np.where(eligible, np.floor(low), 0).astype(np.int64),
        np.where(eligible, np.ceil(high), 0).astype(np.int64),
        Over.WINDOWS if by_recording is None else Over.RECORDINGS,
        _effective(importance, by_window, eligible),
        by_window.blocks,
    )


def _ranks(means: Float64Array, eligible: BoolArray) -> IntArray:
    """Rank the eligible rows in every draw from 1 on; the others come after them: ``[draws, n_tones]``."""
    order = np.argsort(np.where(eligible, -means, np.inf), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, means.shape[1] + 1)[None].repeat(len(means), 0), axis=1)
    return np.asarray(ranks, np.int64)


def _effective(importance: Float64Array, drawn: Resampled, eligible: BoolArray) -> float:
    """Say how many independent windows would have means as sure as these; never more than there are."""
    if len(importance) < 2:
        return float(len(importance))
    variance, error = importance.var(axis=0, ddof=1), drawn.standard_error
    told = eligible & (error > 0)
    if not told.any():
        return float(len(importance))
    return float(min(np.median(variance[told] / error[told] ** 2), len(importance)))
