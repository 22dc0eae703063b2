"""Deconvnet: the gradient with every ReLU replaced by a ReLU of what flows back."""

from __future__ import annotations

from typing import Any

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape


class Deconvnet(plugin.GraphMethod):
    """The gradient with every ReLU replaced by a ReLU of what flows back, per cell, signed.

    The rule applies to ReLU nodes of the graph; other activations keep the plain gradient.

    Source: Zeiler & Fergus 2014, arXiv:1311.2901.
    """

    name = "deconvnet"
    summary = "The gradient with every ReLU replaced by a ReLU of what flows back."
    source = "Zeiler & Fergus 2014, arXiv:1311.2901"
    rule_set = "deconvnet"

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Differentiate under the rule set of that name."""
        cells = tape.evaluate("deconvnet").gradient
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer deconvnet."""
    return [Deconvnet()]
