"""Random attributions of the same distribution as a method's: what every metric is compared with.

The same draw is used for every window, as one explanation of the model that knows nothing of any of them would be; and
wherever the method is asked again, of other points or of a model with random weights, another draw is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from tonescope_server.plugin.metric import Attribute, Chance, Float64Array, Judged, LayerOrder
from tonescope_server.types import FloatArray, IntArray

_CALLS = 1 << 32  # more than a metric asks for in one draw


def by_chance(judged: Judged, chance: Chance, draw: int) -> Judged:
    """Return what is judged, with random attributions in place of the method's.

    Args:
        judged: the method's.
        chance: what random attributions are.
        draw: which of the draws.
    """
    calls = count(draw * _CALLS)

    def drawn(attribution: Float64Array) -> Float64Array:
        random = judged.generator(f"chance {chance}", next(calls))
        if chance is Chance.PERMUTED:
            permuted: Float64Array = attribution[:, random.permutation(judged.n_features)]
            return permuted
        mean, spread = attribution.mean(axis=1, keepdims=True), attribution.std(axis=1, keepdims=True)
        normal: Float64Array = mean + spread * random.standard_normal(judged.n_features)
        return normal

    def instead_of(attribute: Attribute) -> Attribute:
        def instead(points: FloatArray, window: IntArray) -> Float64Array:
            return drawn(attribute(points, window))

        return instead

    def randomised(order: LayerOrder, most: int, weights: int) -> Iterator[tuple[str, Attribute]]:
        for name, attribute in judged.randomised(order, most, weights):
            yield name, instead_of(attribute)

    return replace(
        judged, attribution=drawn(judged.attribution), attribute=instead_of(judged.attribute), randomised=randomised
    )
