"""Expected gradients (GradientSHAP): integrated gradients, averaged over a set of baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_server import plugin
from tonescope_server.gradients.points import sum_over_tones_at, where_counted
from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Var
from tonescope_server.types import FloatArray


class ExpectedGradientsParameters(plugin.Parameters):
    """Parameters of expected gradients."""

    background: plugin.Background = None
    n: int = Field(200, ge=2, le=65536, description="How many points are drawn on paths from baselines to the window.")
    seed: plugin.Seed = 0


class ExpectedGradients(plugin.GraphMethod):
    """The mean of ``(x − b) · ∇f(b + α (x − b))`` over baselines ``b`` and over ``α`` between 0 and 1.

    Its convergence delta is against the mean score of the baselines that were used: they are scored as well, once each.
    The standard error per tone is that of the mean over the set as given: it is from the spread among the draws of each
    baseline, where there are two or more of each, else among all.

    Source: Erion, Janizek, Sturmfels, Lundberg & Lee, "Improving performance of deep learning models with axiomatic
    attribution priors and expected gradients" (2021), equation 3; Lundberg & Lee's GradientExplainer. Departures:
    baselines are not drawn with replacement but dealt, each as often as the others, which varies less; draws are the
    same for every window; no noise is added to the window.
    """

    name = "expected_gradients"
    summary = "Integrated gradients, averaged over a set of baselines at random points; also called GradientSHAP."
    source = "Erion et al. 2021, arXiv:1906.10670"
    Parameters = ExpectedGradientsParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Evaluate at the window, at baselines and at the points drawn, in one pass."""
        ones = (1,) * len(tape.x.shape)
        baselines = tape.feed_var("baselines", (-1, *tape.x.shape))
        to_go = tape.feed_var("to_go", (-1, *ones))
        drawn = tape.feed_var("drawn", (-1, *ones))
        scored = tape.feed_var("scored", (-1,))
        span = tape.x.unsqueeze(0) - baselines
        # Counted from the window, so that the first point is the window to the last bit.
        found = tape.evaluate_path(tape.x.unsqueeze(0) - to_go * span, anchor=0)
        counted = span * drawn
        cells = counted * where_counted(found.gradient, counted)
        tones = sum_over_tones_at(tape, cells)
        tape.result("cells", cells.sum(0))
        strata = tape.feed_var("strata", (-1, -1))
        sums = tape.context.op("MatMul", strata.value, tones.value)
        tape.result("tone_sums", Var(tape, sums, (-1, *tones.shape[1:])))
        tape.result("drawn_of", strata.sum(1))
        tape.result("tone_squares", (tones * tones).sum(0))
        tape.result("baseline_score", (found.score * scored).sum(0))
        tape.result("samples", drawn.sum(0))

    def feeds(self, windows: plugin.Windows, parameters: Any) -> plugin.Feeds:
        """Yield runs of a bounded number of points: each baseline that is used, to be scored, and then the draws."""
        background = plugin.background_of(windows, parameters.background)
        dealt, to_go = _draws(len(background), parameters)
        used, counts = np.unique(dealt, return_counts=True)
        which = np.concatenate([used, dealt])
        strata = _strata(dealt, used.size)
        # A baseline is scored where its path begins, with the share that it has in the draws.
        left = np.concatenate([np.ones(used.size), to_go])
        scored = np.concatenate([counts / dealt.size, np.zeros(dealt.size)])
        ones, dtype = [1] * (windows.x.ndim - 1), windows.x.dtype
        for run in _runs(which.size):
            yield {
                "baselines": background[np.concatenate([which[run][:1], which[run]])][None],
                "to_go": _led(left[run], 0.0).astype(dtype).reshape(1, -1, *ones),
                "drawn": _led(scored[run] == 0.0, 0.0).astype(dtype).reshape(1, -1, *ones),
                "scored": _led(scored[run], 0.0).astype(dtype),
                "strata": _of_run(strata, run, used.size).astype(dtype),
            }

    def points(self, parameters: Any) -> int:
        """Say how many points one run holds, at most."""
        return plugin.SAMPLES_PER_RUN + 1

    def points_of_run(self, fed: Mapping[str, npt.NDArray[Any]], parameters: Any) -> int:
        """Count the points of this run."""
        return int(fed["to_go"].shape[1])

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Divide the sums by the number of draws."""
        samples = round(float(totals["samples"].flat[0]))
        cells = (totals["cells"] / samples).astype(windows.x.dtype, copy=False)
        change = totals["score"].astype(np.float64) - totals["baseline_score"]
        delta = cells.reshape(len(cells), -1).sum(axis=1, dtype=np.float64) - change
        error, freedom = _standard_error(totals)
        return plugin.Estimate(cells, None, delta.astype(windows.x.dtype), standard_error=error, batches=freedom + 1)

    def progress(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate | None:
        """Return the estimate over the draws so far; None while baselines are still being scored."""
        return self.finish(totals, windows, parameters) if totals["samples"].flat[0] else None


def _draws(
    baselines: int, parameters: ExpectedGradientsParameters
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each draw its baseline, and how far from the window it is on its path."""
    rounds = -(-parameters.n // baselines)
    dealt = np.concatenate(
        [plugin.generator(parameters.seed, "baselines", i).permutation(baselines) for i in range(rounds)]
    )
    return dealt[: parameters.n], plugin.generator(parameters.seed, "path", 0).random(parameters.n)


def _strata(dealt: npt.NDArray[np.int64], baselines: int) -> npt.NDArray[np.bool_]:
    """Return which draws are compared with each other, ``(strata, n)``: those of one baseline, or else all."""
    if dealt.size < 2 * baselines:
        return np.ones((1, dealt.size), bool)
    found: npt.NDArray[np.bool_] = dealt == np.unique(dealt)[:, None]
    return found


def _of_run(strata: npt.NDArray[np.bool_], run: slice, scored: int) -> npt.NDArray[np.bool_]:
    """Return the strata of one run's points: the window and the baselines that are scored are of none."""
    ahead = max(min(run.stop, scored) - run.start, 0)
    drawn = strata[:, max(run.start - scored, 0) : max(run.stop - scored, 0)]
    return np.pad(drawn, ((0, 0), (1 + ahead, 0)))[None]


def _standard_error(totals: plugin.Totals) -> tuple[FloatArray | None, int]:
    """Return the standard error of the mean, and its degrees of freedom; None where it has none."""
    counts = totals["drawn_of"].reshape(-1).astype(np.float64)
    draws, freedom = counts.sum(), round(float(np.maximum(counts - 1, 0).sum()))
    if freedom < 1:
        return None, 0
    means = totals["tone_sums"].astype(np.float64) / np.maximum(counts, 1)[:, None]
    within = np.maximum(totals["tone_squares"] - (means**2 * counts[:, None]).sum(axis=1), 0.0) / freedom
    # Of a round that is not finished, which baselines had their turn is chance as well.
    more = (counts - counts.min()).sum()
    between = means.var(axis=1, ddof=1) * more * (1 - more / counts.size) / draws**2 if 0 < more < counts.size else 0.0
    return np.sqrt(within / draws + between).astype(np.float32), freedom


def _runs(points: int) -> Iterator[slice]:
    return plugin.even_runs(points)


def _led(values: npt.NDArray[Any], by: float) -> npt.NDArray[np.float64]:
    """Put the window's own value in front, one row."""
    return np.concatenate([[by], values])[None]


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer expected gradients."""
    return [ExpectedGradients()]
