"""Parameter randomisation: an attribution that is still the same when the weights are random did not explain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pydantic import Field

from tonescope_plugins.metrics._shares import entropy
from tonescope_server.plugin import Chance, Judged, LayerOrder, Measured, Metric, Need, Parameters, hookimpl
from tonescope_server.plugin.metric import Attribute, Float64Array

SIMILARITY, RISE = "similarity", "entropy rise"


class RandomisationParameters(Parameters):
    """Parameters of the two tests."""

    order: LayerOrder = Field(
        LayerOrder.BOTTOM_UP,
        description="'bottom_up' randomises from the layer that reads the input, 'top_down' from the output; layers "
        "that came before stay random.",
    )
    max_steps: int = Field(8, ge=1, le=256, description="Steps at most: in deep models several layers go at a time.")
    models: int = Field(3, ge=1, le=64, description="How many times all weights are drawn; results are averaged.")
    copies: int = Field(
        0,
        ge=0,
        le=256,
        description="Noisy copies of each window whose attributions are averaged; 0 for the window itself.",
    )
    noise_level: float = Field(
        0.05, gt=0, le=10, description="The noise's standard deviation, as a share of each window's largest − smallest."
    )


class _Randomisation(Metric):
    """What both share."""

    needs = frozenset({Need.RANDOMISED_WEIGHTS, Need.ATTRIBUTIONS})
    Parameters = RandomisationParameters


class ParameterRandomisation(_Randomisation):
    """How like the attribution of the model with all its weights randomised is to that of the model itself.

    Both are divided by the root of their second moment; the similarity is the mean of their product: 1 for the same, −1
    for the opposite. Two that are zero are alike, 1; zero and anything else are not, 0. The curve has the similarity
    after each layer. Attributions that have one sign are never unlike each other: compare with the random baseline.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", 2018; the order and the second moment: Binder et al.,
    "Shortcomings of Top-Down Randomization-Based Sanity Checks", 2023; noisy copies: Hedström et al., "Sanity Checks
    Revisited", 2024 (smooth MPRT). Departure: a product in place of a structural similarity, which is for images.
    """

    name = "parameter_randomisation"
    summary = "Similarity to the attribution of the same model with random weights; curve: layer by layer."
    source = "Adebayo et al. 2018; Binder et al. 2023; Hedström et al. 2024"
    higher_is_better = False

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Explain the model and what becomes of it, and compare."""
        names, values = _compared(judged, parameters, similarity)
        return Measured(values[:, -1], {SIMILARITY: values}, steps={SIMILARITY: names})


class EntropyRise(_Randomisation):
    """By which part the entropy of the attribution rises when all weights are randomised.

    Entropy is that of ``complexity``. Where the model's own has none, all on one feature, the rise is told in nats.

    Source: Hedström et al. 2024 (efficient MPRT). Departure: the entropy of the shares of |φ|, where the paper takes
    that of a histogram of values, which for a few dozen features depends on its bins.
    """

    name = "randomisation_entropy_rise"
    summary = "By which part the attribution's entropy rises when all weights are random."
    source = "Hedström et al. 2024"
    higher_is_better = True
    chance = Chance.NORMAL

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Explain the model and what becomes of it, and compare entropies."""
        names, values = _compared(judged, parameters, rise)
        return Measured(values[:, -1], {RISE: values}, steps={RISE: names})


def similarity(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return the mean product of rows that are divided by the root of their second moment."""
    moments = np.sqrt((a**2).mean(axis=1)), np.sqrt((b**2).mean(axis=1))
    zero = moments[0] == 0, moments[1] == 0
    product = (
        a / np.where(zero[0], 1.0, moments[0])[:, None] * (b / np.where(zero[1], 1.0, moments[1])[:, None])
    ).mean(1)
    return np.where(zero[0] & zero[1], 1.0, product)


def rise(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return by which part the entropy of rows rises from a to b; in nats where a has none."""
    before = entropy(a)
    return np.asarray((entropy(b) - before) / np.where(before > 1e-12, before, 1.0))


def _compared(
    judged: Judged, parameters: Any, compare: Callable[[Float64Array, Float64Array], Float64Array]
) -> tuple[tuple[str, ...], Float64Array]:
    """Compare the model's own attribution with what it is after each layer: names, and ``(n, steps)``."""
    own = judged.attribution
    if parameters.copies:
        own = _smooth(judged, judged.attribute, parameters)
    values = []
    for draw in range(parameters.models):
        steps = list(judged.randomised(parameters.order, parameters.max_steps, draw))
        others = (_smooth(judged, attribute, parameters) for _, attribute in steps)
        values.append(np.stack([compare(own, each) for each in others], axis=1))
    return tuple(name for name, _ in steps), np.asarray(np.mean(values, axis=0))


def _smooth(judged: Judged, attribute: Attribute, parameters: Any) -> Float64Array:
    if not parameters.copies:
        return attribute(judged.x, judged.everyone)
    found = [attribute(points, judged.everyone) for points in _noisy(judged, parameters)]
    return np.asarray(np.mean(found, axis=0))


def _noisy(judged: Judged, parameters: Any) -> Iterator[Any]:
    x = judged.x.reshape(len(judged.x), -1)
    sigma = parameters.noise_level * (x.max(axis=1, keepdims=True) - x.min(axis=1, keepdims=True)).astype(np.float64)
    for number in range(parameters.copies):
        noise = judged.generator("copies", number).standard_normal(x.shape[1]) * (judged.feature_of_cell >= 0)
        yield (x + sigma * noise).astype(judged.x.dtype).reshape(judged.x.shape)


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer both."""
    return [ParameterRandomisation(), EntropyRise()]
