"""Faithfulness correlation: whether what a set of features is said to be worth goes with what the target loses."""

from __future__ import annotations

from typing import Any

import numpy as np

from tonescope_plugins.metrics._subsets import SubsetParameters, draw_subsets, lost_without
from tonescope_server.plugin import Judged, Measured, Metric, Need, hookimpl
from tonescope_server.plugin.metric import Float64Array


class FaithfulnessCorrelation(Metric):
    """Pearson's correlation, over random sets of features, of Σ attribution in the set and f(x) − f(without it).

    0 where either is the same for all sets: nothing goes with a constant.

    Source: Bhatt et al., "Evaluating and Aggregating Feature-based Model Explanations", 2020.
    """

    name = "faithfulness_correlation"
    summary = "Correlation of the summed attribution of random sets with what the target loses without them."
    source = "Bhatt et al. 2020"
    higher_is_better = True
    needs = frozenset({Need.SCORES})
    Parameters = SubsetParameters

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Draw sets, sum, score, and correlate."""
        subsets = draw_subsets(judged, parameters.n, parameters.share)
        said = judged.attribution @ subsets.T.astype(np.float64)
        return Measured(correlation(said, lost_without(judged, subsets)))


def correlation(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return Pearson's correlation row by row; 0 where a row is constant, to rounding."""
    sizes = np.abs(a).max(axis=1), np.abs(b).max(axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    flat = (np.abs(a).max(axis=1) <= 1e-12 * sizes[0]) | (np.abs(b).max(axis=1) <= 1e-12 * sizes[1])
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(flat, 0.0, (a * b).sum(axis=1) / np.where(spread > 0, spread, 1.0))


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer the correlation."""
    return [FaithfulnessCorrelation()]
