"""Max-sensitivity: how much an attribution can change when its window hardly does."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from tonescope_server.plugin import Judged, Measured, Metric, Need, Parameters, hookimpl


class MaxSensitivityParameters(Parameters):
    """Parameters of ``max_sensitivity``."""

    n: int = Field(
        10, ge=1, le=1000, description="How many perturbed windows are explained; the largest change counts."
    )
    radius: float = Field(
        0.02, gt=0, le=10, description="The most that a cell changes, as a share of the window's largest − smallest."
    )


class MaxSensitivity(Metric):
    """max ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖ over δ drawn evenly from [−r, r] in every cell that carries a feature.

    Where Φ(x) is zero the change is divided by ‖Φ(x + δ)‖ instead: 1 where it becomes anything, 0 where it stays zero.

    Source: Yeh et al. 2019, definition 3 (estimated by sampling, as there). Departure: relative to the attribution's
    own size, so that methods of different units can be compared.
    """

    name = "max_sensitivity"
    summary = "The largest relative change of the attribution under small noise in the window."
    source = "Yeh et al. 2019"
    higher_is_better = False
    needs = frozenset({Need.ATTRIBUTIONS})
    Parameters = MaxSensitivityParameters

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Perturb, explain again, and take the largest change."""
        x = judged.x.reshape(len(judged.x), -1)
        radius = parameters.radius * (x.max(axis=1, keepdims=True) - x.min(axis=1, keepdims=True)).astype(np.float64)
        size = np.linalg.norm(judged.attribution, axis=1)
        worst = np.zeros(len(x))
        for number in range(parameters.n):
            noise = judged.generator("radius", number).uniform(-1, 1, x.shape[1]) * (judged.feature_of_cell >= 0)
            points = (x + radius * noise).astype(judged.x.dtype).reshape(judged.x.shape)
            again = judged.attribute(points, judged.everyone)
            of = np.where(size > 0, size, np.linalg.norm(again, axis=1))
            change = np.linalg.norm(again - judged.attribution, axis=1) / np.where(of > 0, of, 1.0)
            worst = np.maximum(worst, change)
        return Measured(worst)


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer max-sensitivity."""
    return [MaxSensitivity()]
