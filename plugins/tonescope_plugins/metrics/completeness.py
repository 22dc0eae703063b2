"""Completeness: whether an attribution adds up to the change of the target that it explains."""

from __future__ import annotations

from typing import Any

import numpy as np

from tonescope_server.plugin import Chance, Judged, Measured, Metric, Need, hookimpl


class Completeness(Metric):
    """|Σ φ − (f(x) − f(baseline))|, with what lies on tones that carry no signal.

    An attribution of zero misses all of the change. The baseline is the judgement's: a method that was asked to compare
    with another one adds up to something else.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017, proposition 1.
    """

    name = "completeness"
    summary = "How far the attribution is from adding up to f(x) − f(baseline)."
    source = "Sundararajan et al. 2017"
    higher_is_better = False
    needs = frozenset({Need.SCORES})
    chance = Chance.NORMAL
    unit = "target"

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Add up, and compare."""
        everyone = judged.everyone
        start = np.broadcast_to(judged.baseline, judged.x.shape).astype(judged.x.dtype)
        change = judged.score(judged.x, everyone) - judged.score(start, everyone)
        return Measured(np.abs(judged.attribution.sum(axis=1) + judged.elsewhere - change))


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer completeness."""
    return [Completeness()]
