"""Integrated gradients: the gradient, averaged along the straight line from a baseline to the window."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape

# Points evaluated in one run. More buys nothing on a CPU and holds more memory; deadlines are honoured between runs.
POINTS_PER_RUN = 64


class IntegratedGradientsParameters(plugin.Parameters):
    """Parameters of integrated gradients."""

    n_steps: int = Field(50, ge=2, le=4096, description="Quadrature nodes on the path.")
    rule: Literal["gauss_legendre", "trapezoid", "riemann_trapezoid"] = Field(
        "gauss_legendre",
        description="Quadrature: Gauss-Legendre; the trapezoid; or Captum's riemann_trapezoid, whose weights sum to "
        "(n-1)/n.",
    )
    baseline: plugin.Baseline = None


class IntegratedGradients(plugin.GraphMethod):
    """``(x − b) · Σ w_i ∇f(b + α_i (x − b))``, with its convergence delta.

    Gauss-Legendre is spectral only for smooth nets; on ReLU nets the delta says what 50 nodes leave.

    Source: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks" (2017), equation 3. For a predicted
    target the class is that of ``x``, all along the path.
    """

    name = "integrated_gradients"
    summary = "Each cell's share in the change of the target from a baseline to the window."
    source = "Sundararajan et al. 2017, arXiv:1703.01365"
    complete = True
    Parameters = IntegratedGradientsParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Evaluate at the window, the baseline and the path's points in one pass; weight, sum, and multiply."""
        baseline = tape.feed_var("baseline", tape.x.shape)
        ones = (1,) * len(tape.x.shape)
        # Each run starts with the window and the baseline, at weight 0: predictions and the delta are read there.
        alphas = tape.feed_var("alphas", (-1, *ones))
        weights = tape.feed_var("quadrature", (-1, *ones))
        span = tape.x - baseline
        points = baseline.unsqueeze(0) + alphas * span.unsqueeze(0)
        found = tape.evaluate_path(points, anchor=0)
        cells = span * (weights * found.gradient).sum(0)
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))
        tape.result("end_scores", found.score.slice(0, 0, 2))

    def feeds(self, windows: plugin.Windows, parameters: Any) -> plugin.Feeds:
        """Yield the path in runs of a bounded number of points."""
        nodes, weights = quadrature(parameters.rule, parameters.n_steps)
        baseline = plugin.baseline_of(windows, parameters.baseline)
        shape = (1, -1, *[1] * (windows.x.ndim - 1))
        for start in range(0, nodes.size, POINTS_PER_RUN):
            stop = start + POINTS_PER_RUN
            yield {
                "baseline": baseline,
                "alphas": np.concatenate([[1.0, 0.0], nodes[start:stop]]).astype(windows.x.dtype).reshape(shape),
                "quadrature": np.concatenate([[0.0, 0.0], weights[start:stop]]).astype(windows.x.dtype).reshape(shape),
            }

    def points(self, parameters: Any) -> int:
        """Say how many points one run holds."""
        return int(min(parameters.n_steps, POINTS_PER_RUN)) + 2

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Report the delta; the scores at both ends were summed over the runs."""
        runs = -(-parameters.n_steps // POINTS_PER_RUN)
        ends = totals["end_scores"].astype(np.float64) / runs
        cells = totals["cells"]
        delta = cells.reshape(len(cells), -1).sum(axis=1, dtype=np.float64) - (ends[:, 0] - ends[:, 1])
        return plugin.Estimate(cells, totals["tones"], delta.astype(np.float32))


@lru_cache(maxsize=64)
def quadrature(rule: str, n: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return nodes and weights on [0, 1]."""
    if rule == "gauss_legendre":
        from scipy.special import roots_legendre  # NumPy's takes 9 s for 4096 nodes, this 0.4; and imports are paid for

        nodes, weights = roots_legendre(n)
        return (nodes + 1.0) / 2.0, weights / 2.0
    nodes = np.linspace(0.0, 1.0, n)
    weights = np.full(n, 1.0 / (n - 1 if rule == "trapezoid" else n))
    weights[[0, -1]] /= 2.0
    return nodes, weights


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer integrated gradients."""
    return [IntegratedGradients()]
