"""Input × gradient: the first-order share of every cell in the target."""

from __future__ import annotations

from typing import Any

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape


class InputXGradient(plugin.GraphMethod):
    """``x · ∂f/∂x`` per cell, signed.

    Source: Shrikumar et al., "Not Just a Black Box" (2016). A cell that is exactly zero gets nothing, whatever the
    model makes of it: on windows that are not normalised, null tones cannot show up here.
    """

    name = "input_x_gradient"
    summary = "Each cell's value times the target's reaction to it."
    source = "Shrikumar et al. 2016, arXiv:1605.01713"

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Multiply the window by its gradient."""
        cells = tape.x * tape.evaluate().gradient
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer input × gradient."""
    return [InputXGradient()]
