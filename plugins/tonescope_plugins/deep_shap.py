"""DeepSHAP: DeepLIFT, averaged over a set of references."""

from __future__ import annotations

from typing import Any

import numpy as np

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape


class DeepShapParameters(plugin.Parameters):
    """Parameters of DeepSHAP."""

    background: plugin.Background = None


class DeepShap(plugin.GraphMethod):
    """The mean of DeepLIFT's ``multiplier · (x − reference)`` over a set of references.

    Complete against the mean score of the references, to rounding. The standard error per tone is that of the mean
    over references, taken as draws from whatever they were drawn from.

    Source: Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions" (2017), section 4.2; Chen, Lundberg
    & Lee, "Explaining a series of models by propagating Shapley values" (2022), who average over references in place
    of taking the average reference. The rules are those of ``deep_lift``, with its departures.
    """

    name = "deep_shap"
    summary = "DeepLIFT, averaged over a set of references; complete against their mean score."
    source = "Chen, Lundberg & Lee 2022, arXiv:2105.00108"
    rule_set = "deep_lift"
    complete = True
    Parameters = DeepShapParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Multiply the difference from one reference by its multiplier."""
        reference = tape.feed_var("reference", tape.x.shape)
        found = tape.evaluate("deep_lift", reference=reference)
        cells = (tape.x - reference) * found.gradient
        tones = tape.sum_over_tones(cells)
        tape.result("cells", cells)
        tape.result("tones", tones)
        tape.result("tone_squares", tones * tones)
        tape.result("references", tape.feed_var("counted", ()) * 1.0)
        if found.reference_score is not None:
            tape.result("reference_score", found.reference_score)

    def feeds(self, windows: plugin.Windows, parameters: Any) -> plugin.Feeds:
        """Yield one reference after another."""
        for reference in plugin.background_of(windows, parameters.background):
            yield {"reference": reference[None], "counted": np.ones(1, windows.x.dtype)}

    def points(self, parameters: Any) -> int:
        """Say that a run evaluates the model at the window and at one reference."""
        return 2

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Divide the sums by the number of references, and report what the cells leave over."""
        count, dtype = round(float(totals["references"].flat[0])), windows.x.dtype
        cells, tones = (totals[name] / count for name in ("cells", "tones"))
        change = totals["score"].astype(np.float64) - totals["reference_score"] / count
        delta = cells.reshape(len(cells), -1).sum(axis=1, dtype=np.float64) - change
        error = plugin.standard_error(totals["tones"], totals["tone_squares"], count)
        is_sampled = len(plugin.background_of(windows, parameters.background)) > 1
        return plugin.Estimate(
            cells.astype(dtype, copy=False),
            tones.astype(dtype, copy=False),
            delta.astype(dtype),
            standard_error=error,
            batches=count if is_sampled else None,
        )

    def progress(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Return the mean over the references so far."""
        return self.finish(totals, windows, parameters)


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer DeepSHAP."""
    return [DeepShap()]
