"""Saliency: the gradient of the target by every cell."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape


class SaliencyParameters(plugin.Parameters):
    """Parameters of saliency."""

    absolute: bool = Field(True, description="Take the absolute value of each cell; false gives the signed gradient.")


class Saliency(plugin.GraphMethod):
    """``|∂f/∂x|`` per cell, or the signed gradient.

    Source: Simonyan, Vedaldi & Zisserman, "Deep Inside Convolutional Networks" (2013), section 3. No maximum over
    channels is taken: every cell keeps its own value.
    """

    name = "saliency"
    summary = "How strongly the target reacts to a small change of each cell."
    source = "Simonyan et al. 2013, arXiv:1312.6034"
    Parameters = SaliencyParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Take the gradient, and its absolute value where asked to."""
        gradient = tape.evaluate().gradient
        cells = abs(gradient) if parameters.absolute else gradient
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Say that the absolute value is part of the graph."""
        return (parameters.absolute,)


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer saliency."""
    return [Saliency()]
