"""Subcarrier flipping: what the target does as features go to the baseline, or come back, by their relevance."""

from __future__ import annotations

from typing import Any

from tonescope_plugins.metrics._order import StepParameters, area, counts, descending, first_gone
from tonescope_server.plugin import Judged, Measured, Metric, Need, hookimpl
from tonescope_server.plugin.metric import Float64Array
from tonescope_server.types import IntArray

MOST, LEAST, INSERTED = "most relevant first", "least relevant first", "inserted"


class _Flipping(Metric):
    """What curves of removal share: features of each window in order, and the target's value after each step.

    Where all features are equally relevant the order is random; with one feature there are two points.
    """

    needs = frozenset({Need.SCORES})
    unit = "target"
    Parameters = StepParameters


class Deletion(_Flipping):
    """The area under the target's value while the most relevant features are removed first.

    Source: Petsiuk et al., "RISE", 2018, and Samek et al., "Evaluating the Visualization of What a Deep Neural Network
    Has Learned", 2017. Departure: the area is that of the target's own value, in its own units, and not of a
    probability; what random orders come to is told beside it.
    """

    name = "deletion"
    summary = "Area under the target's value while the most relevant features are removed first."
    source = "Petsiuk et al. 2018; Samek et al. 2017"
    higher_is_better = False

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Remove, score, and take the area."""
        gone = counts(judged.n_features, parameters.max_steps)
        values = removed(judged, descending(judged, parameters.rank), gone)
        at = gone / judged.n_features
        return Measured(area(values, at), {MOST: values}, {MOST: at})


class SubcarrierFlipping(_Flipping):
    """What lies between the two: the area of least relevant first less that of most relevant first.

    Zero for a random order, in the mean; it cannot be raised by a target that falls whatever is removed.

    Source: Samek et al. 2017; Schulz et al. 2020 (the area between MoRF and LeRF). Departure as ``deletion``.
    """

    name = "subcarrier_flipping"
    summary = "Area between the curves of least and of most relevant features removed first."
    source = "Samek et al. 2017; Schulz et al. 2020"
    higher_is_better = True

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Remove in both orders, score, and take the area between."""
        gone, order = counts(judged.n_features, parameters.max_steps), descending(judged, parameters.rank)
        most, least = removed(judged, order, gone), removed(judged, order[:, ::-1], gone)
        at = gone / judged.n_features
        return Measured(area(least, at) - area(most, at), {MOST: most, LEAST: least}, {MOST: at, LEAST: at})


class Insertion(_Flipping):
    """The area under the target's value as features come back to the baseline, the most relevant first.

    It is also the area under the target's value while the least relevant features are removed first (LeRF), read from
    the other end: the same windows are scored.

    Source: Petsiuk et al. 2018. Departure as ``deletion``.
    """

    name = "insertion"
    summary = "Area under the target's value while features come back to the baseline, the most relevant first."
    source = "Petsiuk et al. 2018"
    higher_is_better = True

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Bring back, score, and take the area."""
        back = counts(judged.n_features, parameters.max_steps)
        values = judged.score_without(~first_gone(descending(judged, parameters.rank), back))
        at = back / judged.n_features
        return Measured(area(values, at), {INSERTED: values}, {INSERTED: at})


def removed(judged: Judged, order: IntArray, gone: IntArray) -> Float64Array:
    """Return the target's value with the first features of each window's order removed: ``(n, len(gone))``."""
    return judged.score_without(first_gone(order, gone))


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer the three areas."""
    return [Deletion(), SubcarrierFlipping(), Insertion()]
