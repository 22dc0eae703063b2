"""Whether a ranking stays the same over time, and is the same at every node and in every recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import hypergeom, kendalltau, spearmanr

from tonescope_server.reports.tones.ranking import order_of
from tonescope_server.reports.tones.resampling import Float64Array, Sources
from tonescope_server.types import BoolArray, IntArray

TIME_PARTS = 4
FEWEST_WINDOWS = 2
_Parts = Sequence[tuple[str, IntArray]]


@dataclass(frozen=True)
class Pair:
    """Two parts of the data compared.

    Attributes:
        first, second: their names.
        jaccard: by K, the tones that both have in their top K, of those that either has.
        spearman, kendall: rank correlation of the importance of all tones that may be chosen; None where one of the two
            is the same for all tones.
    """

    first: str
    second: str
    jaccard: Mapping[int, float]
    spearman: float | None
    kendall: float | None


@dataclass(frozen=True)
class Stability:
    """All pairs of one kind.

    Attributes:
        over: ``"halves"``, ``"time"`` (quarters of a recording), ``"nodes"`` or ``"recordings"``.
        pairs: in order.
        by_chance: by K, the expected Jaccard index of two random sets of K tones.
    """

    over: str
    pairs: tuple[Pair, ...]
    by_chance: Mapping[int, float]

    def jaccard(self, k: int) -> tuple[float, float]:
        """Return the mean and the least Jaccard index of the pairs."""
        values = [pair.jaccard[k] for pair in self.pairs]
        return float(np.mean(values)), float(min(values))

    def correlation(self, name: str) -> float | None:
        """Return the mean of ``spearman`` or ``kendall`` over the pairs that have one."""
        values = [value for pair in self.pairs if (value := getattr(pair, name)) is not None]
        return float(np.mean(values)) if values else None


def compare_all(
    importance: Float64Array, sources: Sources, eligible: BoolArray, ks: Sequence[int], names: Sequence[str]
) -> tuple[Stability, ...]:
    """Compare halves and quarters of each recording, nodes, and recordings; kinds with nothing to compare are left out.

    Shapes:
        importance: ``[n, n_tones]``.

    Args:
        importance: of each tone in each window.
        sources: where the windows come from.
        eligible: which rows may be chosen.
        ks: sizes of the sets to compare.
        names: of the recordings.
    """
    chance = {k: jaccard_by_chance(int(eligible.sum()), k) for k in ks}

    def compared(over: str, groups: Sequence[_Parts]) -> Stability:
        pairs = [_pair(a, b, importance, eligible, ks) for parts in groups for a, b in combinations(_enough(parts), 2)]
        return Stability(over, tuple(pairs), chance)

    found = (
        compared("halves", _in_time(sources, names, 2)),
        compared("time", _in_time(sources, names, TIME_PARTS)),
        compared("nodes", [_by_node(sources)]),
        compared("recordings", [_by_recording(sources, names)]),
    )
    return tuple(each for each in found if each.pairs)


def jaccard(first: IntArray, second: IntArray) -> float:
    """Return |A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    union = len(np.union1d(first, second))
    return len(np.intersect1d(first, second)) / union if union else 1.0


def jaccard_by_chance(n: int, k: int) -> float:
    """Return the expected Jaccard index of two random sets of ``k`` of ``n`` tones."""
    shared = np.arange(max(0, 2 * k - n), k + 1)
    return float((hypergeom.pmf(shared, n, k, k) * shared / (2 * k - shared)).sum())


def _pair(
    first: tuple[str, IntArray],
    second: tuple[str, IntArray],
    importance: Float64Array,
    eligible: BoolArray,
    ks: Sequence[int],
) -> Pair:
    a, b = importance[first[1]], importance[second[1]]
    orders = order_of(a, eligible), order_of(b, eligible)
    means = a.mean(axis=0)[eligible], b.mean(axis=0)[eligible]
    told = all(len(set(mean.tolist())) > 1 for mean in means)
    return Pair(
        first[0],
        second[0],
        {k: jaccard(orders[0][:k], orders[1][:k]) for k in ks},
        float(spearmanr(*means).statistic) if told else None,
        float(kendalltau(*means).statistic) if told else None,
    )


def _enough(parts: _Parts) -> _Parts:
    return [part for part in parts if len(part[1]) >= FEWEST_WINDOWS]


def _in_time(sources: Sources, names: Sequence[str], n_parts: int) -> list[_Parts]:
    """Cut every recording into consecutive parts: only parts of one recording are compared with each other."""
    whole = (np.flatnonzero(sources.recordings == number) for number in range(sources.n_recordings))
    return [
        [(f"{name}, part {i + 1} of {n_parts}", part) for i, part in enumerate(np.array_split(rows, n_parts))]
        for name, rows in zip(names, whole, strict=True)
    ]


def _by_node(sources: Sources) -> _Parts:
    return [(f"node {node}", np.flatnonzero(sources.nodes == node)) for node in np.unique(sources.nodes)]


def _by_recording(sources: Sources, names: Sequence[str]) -> _Parts:
    return [(name, np.flatnonzero(sources.recordings == number)) for number, name in enumerate(names)]
