"""On how few features an attribution lies: sparseness and complexity. That says how it reads, not if it is right."""

from __future__ import annotations

from typing import Any

import numpy as np

from tonescope_plugins.metrics._shares import entropy, shares
from tonescope_server.plugin import Chance, Judged, Measured, Metric, hookimpl


class Sparseness(Metric):
    """The Gini index of |φ|: 0 where all features have the same, near 1 where one has all.

    0 for an attribution of zero, and for one feature.

    Source: Chalasani et al., "Concise Explanations of Neural Networks using Adversarial Training", 2020; Hurley &
    Rickard 2009 for the index.
    """

    name = "sparseness"
    summary = "The Gini index of the absolute attribution: 0 is even, near 1 is all on one feature."
    source = "Chalasani et al. 2020"
    higher_is_better = True
    chance = Chance.NORMAL

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Sort the shares and weigh them."""
        m = judged.n_features
        ranks = 2 * np.arange(1, m + 1) - m - 1
        return Measured((np.sort(shares(judged.attribution), axis=1) * ranks).sum(axis=1) / m)


class Complexity(Metric):
    """The Shannon entropy of |φ| / Σ|φ|, in nats.

    ln of the number of features for an attribution of zero; 0 for one feature.

    Source: Bhatt et al. 2020, definition of complexity.
    """

    name = "complexity"
    summary = "The entropy of the absolute attribution's shares: the fewer features it takes, the lower."
    source = "Bhatt et al. 2020"
    higher_is_better = False
    chance = Chance.NORMAL
    unit = "nats"

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Take the entropy of the shares."""
        return Measured(entropy(judged.attribution))


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer both."""
    return [Sparseness(), Complexity()]
