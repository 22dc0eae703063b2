"""Cumulative prediction difference and preservation: every change that each step of a removal makes, added up."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from tonescope_plugins.metrics._order import Rank, StepParameters, counts, descending
from tonescope_plugins.metrics.flipping import LEAST, MOST, removed
from tonescope_server.plugin import Judged, Measured, Metric, Need, hookimpl
from tonescope_server.plugin.metric import Float64Array
from tonescope_server.types import IntArray


class CumulativeParameters(StepParameters):
    """Parameters of the cumulative metrics."""

    rank: Rank = Field("absolute", description="By what features are ranked: 'absolute' or 'signed'.")
    share: float = Field(0.25, gt=0, le=1, description="The share of the features that goes, one after the other.")


class _Cumulative(Metric):
    """What both share: the sum of |f after a step − f before it| over the first features of an order.

    Changes of either sign count, so that features that speak for and against the target do not hide each other. With
    an attribution of zero the order is random; at least one feature always goes.
    """

    needs = frozenset({Need.SCORES})
    unit = "target"
    Parameters = CumulativeParameters


class CumulativeDeletion(_Cumulative):
    """How much the target moves, step by step, as the most relevant features go.

    Source: Jang et al., "TIMING: Temporality-Aware Integrated Gradients for Time Series Explanation", 2025 (cumulative
    prediction difference). Departures: the target's value is followed instead of all of the prediction, and features
    are tones or cells as the judgement has them.
    """

    name = "cumulative_deletion"
    summary = "How much the target moves, step by step, as the most relevant features are removed."
    source = "Jang et al. 2025"
    higher_is_better = True

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Remove the first features of the order and add up the steps."""
        order = descending(judged, parameters.rank)
        return _steps(judged, order, parameters, MOST)


class CumulativePreservation(_Cumulative):
    """How much the target moves, step by step, as the least relevant features go: little, where they are irrelevant.

    Source: Jang et al. 2025 (cumulative prediction preservation). Departures as ``cumulative_deletion``.
    """

    name = "cumulative_preservation"
    summary = "How much the target moves, step by step, as the least relevant features are removed."
    source = "Jang et al. 2025"
    higher_is_better = False

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Remove the last features of the order and add up the steps."""
        order = descending(judged, parameters.rank)[:, ::-1]
        return _steps(judged, order, parameters, LEAST)


def _steps(judged: Judged, order: IntArray, parameters: Any, name: str) -> Measured:
    most = max(round(parameters.share * judged.n_features), 1)
    gone = counts(most, parameters.max_steps)
    values = removed(judged, order, gone)
    moved: Float64Array = np.abs(np.diff(values, axis=1)).cumsum(axis=1)
    at = gone / judged.n_features
    return Measured(moved[:, -1], {name: np.pad(moved, ((0, 0), (1, 0)))}, {name: at})


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer both."""
    return [CumulativeDeletion(), CumulativePreservation()]
