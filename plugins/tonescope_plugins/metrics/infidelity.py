"""Infidelity: how far what an attribution says of a perturbation is from what the perturbation does."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from tonescope_plugins.metrics._subsets import SubsetParameters, draw_subsets, lost_without
from tonescope_server.plugin import Judged, Measured, Metric, Need, hookimpl
from tonescope_server.plugin.metric import Float64Array


class InfidelityParameters(SubsetParameters):
    """Parameters of ``infidelity``."""

    perturbation: Literal["removal", "noise"] = Field(
        "removal",
        description="'removal' puts random sets of features at the baseline, and reads the attribution as what each "
        "contributes; 'noise' adds normal noise, the same to all cells of a feature, and reads it as a gradient.",
    )
    noise_level: float = Field(
        0.05, gt=0, le=10, description="The noise's standard deviation, as a share of each window's largest − smallest."
    )
    scaled: bool = Field(
        False, description="Whether each window's attribution is scaled first, by the factor that suits it best."
    )


class Infidelity(Metric):
    """E[(IᵀΦ − (f(x) − f(x − I)))²] over random perturbations I.

    For a removal I marks the features that go, so that IᵀΦ is what they are said to contribute together. For an
    attribution of zero it is E[Δf²]. Scaled, no factor is better than the best one: an attribution that says nothing of
    Δf has E[Δf²], too.

    Source: Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", 2019, with its optimal scale.
    """

    name = "infidelity"
    summary = "Mean squared error of what the attribution says that random perturbations do."
    source = "Yeh et al. 2019"
    higher_is_better = False
    needs = frozenset({Need.SCORES})
    unit = "target²"
    Parameters = InfidelityParameters

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Perturb, score, and take the mean squared error."""
        perturb = _by_noise if parameters.perturbation == "noise" else _by_removal
        said, done = perturb(judged, parameters)
        if parameters.scaled:
            size = (said**2).sum(axis=1)
            factor = np.where(size > 0, (said * done).sum(axis=1) / np.where(size > 0, size, 1.0), 0.0)
            said = said * factor[:, None]
        return Measured(((said - done) ** 2).mean(axis=1))


def _by_removal(judged: Judged, parameters: Any) -> tuple[Float64Array, Float64Array]:
    """Return what the attribution says that each set is worth, and what the target loses without it."""
    subsets = draw_subsets(judged, parameters.n, parameters.share)
    return judged.attribution @ subsets.T.astype(np.float64), lost_without(judged, subsets)


def _by_noise(judged: Judged, parameters: Any) -> tuple[Float64Array, Float64Array]:
    """Return IᵀΦ for noise I, and f(x) − f(x − I)."""
    n, x = parameters.n, judged.x.reshape(len(judged.x), -1)
    drawn = np.stack([judged.generator("noise", i).standard_normal(judged.n_features) for i in range(n)])
    sigma = parameters.noise_level * (x.max(axis=1) - x.min(axis=1)).astype(np.float64)
    spread = np.append(drawn, np.zeros((n, 1)), axis=1)[:, judged.feature_of_cell]
    intact = judged.score(judged.x, judged.everyone)
    done = np.empty((len(x), n))
    for number, noise in enumerate(spread):
        points = (x - sigma[:, None] * noise).astype(judged.x.dtype).reshape(judged.x.shape)
        done[:, number] = intact - judged.score(points, judged.everyone)
    return sigma[:, None] * (judged.attribution @ drawn.T), done


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer infidelity."""
    return [Infidelity()]
