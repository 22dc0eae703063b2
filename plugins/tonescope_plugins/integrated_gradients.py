"""Integrated gradients: the gradient, averaged along the straight line from a baseline to the window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_server import plugin
from tonescope_server.gradients.points import weighted_gradient, where_counted
from tonescope_server.gradients.tape import Tape
from tonescope_server.types import ResultWarning

# Points evaluated in one run. More buys nothing on a CPU and holds more memory; deadlines are honoured between runs.
POINTS_PER_RUN = 64
# Where the number of nodes is raised as needed: the fewest.
FEWEST = {"adaptive": 8, "progressive": 5}
# What rounding in float32 leaves of a sum, as a share of the scores at both ends: no number of nodes helps there.
ROUNDING = 1e-6


class PathParameters(plugin.Parameters):
    """Parameters of an integral along a path."""

    n_steps: int = Field(
        50, ge=2, le=4096, description="Quadrature nodes on the path, for rules that have a fixed number."
    )
    rule: Literal["gauss_legendre", "trapezoid", "riemann_trapezoid", "adaptive", "progressive"] = Field(
        "gauss_legendre",
        description="Quadrature: Gauss-Legendre; the trapezoid; Captum's riemann_trapezoid, whose weights sum to "
        "(n-1)/n; adaptive: Gauss-Legendre, its nodes doubled until the tolerance is met; or progressive: the "
        "trapezoid, halved until it is, all nodes used again.",
    )
    tolerance: float = Field(
        1e-3,
        ge=0,
        le=1,
        description="Of rules adaptive and progressive: the convergence delta that is good enough, as a share of the "
        "change of the target.",
    )
    max_steps: int = Field(
        1024, ge=8, le=16384, description="Of rules adaptive and progressive: the most nodes that one quadrature has."
    )


class IntegratedGradientsParameters(PathParameters, plugin.BaselineParameters):
    """Parameters of integrated gradients."""


@dataclass(frozen=True)
class Level:
    """One quadrature of several, each better than the one before.

    Attributes:
        steps: how many nodes it has in all.
        nodes: those that are evaluated for it, on [0, 1]; weights: theirs.
        keep: what the one before is multiplied with and added: 0 where it is made anew.
    """

    steps: int
    nodes: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    keep: float = 0.0


class IntegratedGradients(plugin.GraphMethod):
    """``(x − b) · Σ w_i ∇f(b + α_i (x − b))``, with its convergence delta.

    Gauss-Legendre is spectral only for smooth nets; on ReLU nets the delta says what 50 nodes leave. With the rules
    adaptive and progressive each window has as many nodes as it needs: one that has converged takes no more, whatever
    the others in its batch do; the map ``n_steps`` says how many it took, and a warning where not enough were allowed.

    Source: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks" (2017), equation 3; their advice to
    raise the number of steps until the delta is small is what the last two rules do. For a predicted target the class
    is that of ``x``, all along the path.
    """

    name = "integrated_gradients"
    summary = "Each cell's share in the change of the target from a baseline to the window."
    source = "Sundararajan et al. 2017, arXiv:1703.01365"
    complete = True
    Parameters: ClassVar[type[plugin.Parameters]] = IntegratedGradientsParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Evaluate at the window, the baseline and the path's points in one pass; weight, sum, and multiply."""
        baseline = tape.feed_var("baseline", tape.x.shape)
        ones = (1,) * len(tape.x.shape)
        # Each run starts with the window and the baseline, at weight 0: predictions and the delta are read there.
        to_go = tape.feed_var("to_go", (-1, *ones))
        weights = tape.feed_var("quadrature", (-1, *ones))
        span = tape.x - baseline
        # Counted from the window, so that the first point is the window to the last bit.
        found = tape.evaluate_path(tape.x.unsqueeze(0) - to_go * span.unsqueeze(0), anchor=0)
        if parameters.rule in FEWEST:  # windows that have converged weigh all points 0
            mean = (weights * where_counted(found.gradient, weights)).sum(0)
        else:
            mean = weighted_gradient(tape, found, weights, skipped=2)
        cells = span * where_counted(mean, span)  # what does not change has no part in the change
        if parameters.rule in FEWEST:
            cells = cells + tape.feed_var("carried", tape.x.shape)
            tape.result("steps", tape.feed_var("more_steps", (1,)) * 1.0)
            tape.result("unfinished", tape.feed_var("begun", (1,)) * 1.0)
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))
        tape.result("end_scores", found.score.slice(0, 0, 2) * tape.feed_var("first", (1,)))

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Say whether the number of nodes is raised as needed."""
        return (parameters.rule in FEWEST,)

    def is_bounded(self, parameters: Any) -> bool:
        """Say that the rules which raise the number of nodes cost what the windows make them cost."""
        return parameters.rule not in FEWEST

    def compared_with(self, windows: plugin.Windows, parameters: Any) -> npt.NDArray[Any]:
        """Return where the paths start: ``(1, *input shape)``, or one per window."""
        baseline: npt.NDArray[Any] = parameters.baseline_of(windows)
        return baseline

    def feeds(self, windows: plugin.Windows, parameters: Any) -> plugin.Feeds:
        """Yield the path in runs of a bounded number of points, level by level until every window has converged."""
        baseline = self.compared_with(windows, parameters)
        if parameters.rule not in FEWEST:
            nodes, weights = quadrature(parameters.rule, parameters.n_steps)
            for number, run in enumerate(_runs(nodes.size)):
                yield {"baseline": baseline, **_points(windows, nodes[run], weights[run], first=number == 0)}
            return
        yield from _raised(windows, baseline, parameters)

    def points(self, parameters: Any) -> int:
        """Say how many points one run holds, at most."""
        most = parameters.max_steps if parameters.rule in FEWEST else parameters.n_steps
        return int(min(most, POINTS_PER_RUN)) + 2

    def points_of_run(self, fed: Mapping[str, npt.NDArray[Any]], parameters: Any) -> int:
        """Count the points of this run."""
        return int(fed["to_go"].shape[1])

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Report the delta; and, of rules that raise the number of nodes, what they came to."""
        cells, ends = totals["cells"], totals["end_scores"].astype(np.float64)
        delta = _left(cells, ends)
        found = plugin.Estimate(cells, totals["tones"], delta.astype(np.float32))
        if parameters.rule not in FEWEST:
            return found
        steps = totals["steps"][:, 0]
        late = plugin.windows_where(~_converged(delta, ends, parameters.tolerance))
        return plugin.Estimate(
            found.cells,
            found.tones,
            found.convergence_delta,
            maps={"n_steps": np.broadcast_to(steps, (len(cells),)).astype(np.float32)},
            warnings=tuple(_not_converged(row, delta, ends, parameters) for row in late),
        )

    def progress(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate | None:
        """Return the estimate as of the last level; None within a level."""
        if parameters.rule not in FEWEST or totals["unfinished"].any():
            return None
        return self.finish(totals, windows, parameters)


def levels(rule: str, most: int) -> Iterator[Level]:
    """Yield quadratures of more and more nodes, of at most ``most``.

    Adaptive: Gauss-Legendre, each made anew. Progressive: the trapezoid with twice the intervals each time, which adds
    nodes between those there are.
    """
    n = FEWEST[rule]
    if rule == "adaptive":
        while n <= most:
            yield Level(n, *quadrature("gauss_legendre", n))
            n *= 2
        return
    yield Level(n, *quadrature("trapezoid", n))
    while 2 * n - 1 <= most:
        intervals = 2 * (n - 1)
        nodes = np.arange(1, intervals, 2) / intervals
        yield Level(2 * n - 1, nodes, np.full(nodes.size, 1.0 / intervals), keep=0.5)
        n = 2 * n - 1


def _raised(windows: plugin.Windows, baseline: npt.NDArray[Any], parameters: Any) -> plugin.Feeds:
    """Yield level after level; the totals of windows that have converged are left as they are."""
    batch, dtype = len(windows.x), windows.x.dtype
    open_ = np.ones(batch, bool)
    found: npt.NDArray[Any] = np.zeros_like(windows.x)
    ends, steps, first = np.zeros((batch, 2)), 0, True
    spread = (batch, *[1] * (windows.x.ndim - 1))
    for level in levels(parameters.rule, parameters.max_steps):
        # Results are summed over runs: what a level does not keep of the one before is taken away again.
        carried = np.where(open_.reshape(spread), (level.keep - 1.0) * found, 0.0)
        runs = list(_runs(level.nodes.size))
        for number, run in enumerate(runs):
            begins, ends_here = number == 0, number == len(runs) - 1
            weights = level.weights[run] * open_[:, None]
            results = yield {
                "baseline": baseline,
                **_points(windows, level.nodes[run], weights, first=first),
                "carried": (carried if begins else np.zeros((1, *found.shape[1:]))).astype(dtype),
                "more_steps": ((level.steps - steps) * open_[:, None] * ends_here).astype(dtype),
                "begun": np.full((1, 1), float(begins) - float(ends_here), dtype),
            }
            found = found + results["cells"]
            ends, first = ends + results["end_scores"], False
        steps = level.steps
        open_ = ~_converged(_left(found, ends), ends, parameters.tolerance)
        if plugin.is_over(~open_):
            return


def _runs(total: int) -> Iterator[slice]:
    return plugin.even_runs(total, POINTS_PER_RUN)


def _points(
    windows: plugin.Windows, nodes: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], *, first: bool
) -> dict[str, npt.NDArray[Any]]:
    """Return what a run is fed of the path: the window, the baseline, and nodes with their weights."""
    dtype, ones = windows.x.dtype, [1] * (windows.x.ndim - 1)
    rows = np.atleast_2d(weights)
    weighted = np.concatenate([np.zeros((len(rows), 2)), rows], axis=1)
    return {
        "to_go": np.concatenate([[0.0, 1.0], 1.0 - nodes]).astype(dtype).reshape(1, -1, *ones),
        "quadrature": weighted.astype(dtype).reshape(len(rows), -1, *ones),
        "first": np.full((1, 1), first, dtype),  # the scores at both ends are those of the first run alone
    }


def _left(cells: npt.NDArray[Any], ends: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the convergence delta: ``Σ cells − (f(x) − f(baseline))``."""
    total: npt.NDArray[np.float64] = cells.reshape(len(cells), -1).sum(axis=1, dtype=np.float64)
    return total - (ends[:, 0] - ends[:, 1])


def _converged(
    delta: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], tolerance: float
) -> npt.NDArray[np.bool_]:
    rounding = ROUNDING * np.abs(ends).sum(axis=1)
    result: npt.NDArray[np.bool_] = np.abs(delta) <= tolerance * np.abs(ends[:, 0] - ends[:, 1]) + rounding
    return result


def _not_converged(
    row: int, delta: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], parameters: Any
) -> ResultWarning:
    return ResultWarning(
        "NOT_CONVERGED",
        f"the convergence delta is {delta[row]:.2g} where the target changes by {ends[row, 0] - ends[row, 1]:.2g}: "
        f"more than the tolerance of {parameters.tolerance:g}: raise max_steps ({parameters.max_steps}), or tolerance",
        row,
    )


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
