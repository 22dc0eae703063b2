"""Guided backprop: the gradient without its negative parts at every ReLU."""

from __future__ import annotations

from typing import Any

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape


class GuidedBackprop(plugin.GraphMethod):
    """The gradient without its negative parts at every ReLU, per cell, signed.

    The rule applies to ReLU nodes of the graph; other activations keep the plain gradient.

    Source: Springenberg et al. 2014, arXiv:1412.6806.
    """

    name = "guided_backprop"
    summary = "The gradient without its negative parts at every ReLU."
    source = "Springenberg et al. 2014, arXiv:1412.6806"
    rule_set = "guided_backprop"

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Differentiate under the rule set of that name."""
        cells = tape.evaluate("guided_backprop").gradient
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer guided backprop."""
    return [GuidedBackprop()]
