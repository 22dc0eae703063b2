"""DeepLIFT: what each cell's difference from a reference adds to the target's."""

from __future__ import annotations

from typing import Any

import numpy as np

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape


class DeepLiftParameters(plugin.BaselineParameters):
    """Parameters of DeepLIFT."""


class DeepLift(plugin.GraphMethod):
    """``multiplier · (x − reference)`` per cell; the cells add up to the change of the target, to rounding.

    Source: Shrikumar, Greenside & Kundaje, "Learning Important Features Through Propagating Activation Differences"
    (2017), the rescale rule. Departures: every function of one element is rescaled, so are rounding and comparisons;
    products use the averages of both ends, quotients weigh them by what they divide by, and softmax is split through
    log p, so that nothing is left over and no large parts cancel; a maximum uses the cross-maximum.
    """

    name = "deep_lift"
    summary = "What each cell's difference from a reference adds to the target's; exactly complete."
    source = "Shrikumar et al. 2017, arXiv:1704.02685"
    rule_set = "deep_lift"
    complete = True
    Parameters = DeepLiftParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Multiply the difference from the reference by its multiplier."""
        reference = tape.feed_var("baseline", tape.x.shape)
        found = tape.evaluate("deep_lift", reference=reference)
        cells = (tape.x - reference) * found.gradient
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))
        if found.reference_score is not None:
            tape.result("reference_score", found.reference_score)

    def feeds(self, windows: plugin.Windows, parameters: Any) -> plugin.Feeds:
        """Yield the reference."""
        yield {"baseline": parameters.baseline_of(windows)}

    def points(self, parameters: Any) -> int:
        """Say that the model is evaluated at the window and at the reference."""
        return 2

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Report what the cells leave over."""
        cells = totals["cells"]
        change = totals["score"].astype(np.float64) - totals["reference_score"]
        delta = cells.reshape(len(cells), -1).sum(axis=1, dtype=np.float64) - change
        return plugin.Estimate(cells, totals["tones"], delta.astype(np.float32))


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer DeepLIFT."""
    return [DeepLift()]
