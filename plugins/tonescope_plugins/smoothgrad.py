"""SmoothGrad and its kin: what the gradient is on average, and how much it varies, in noise around the window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from tonescope_server import plugin
from tonescope_server.errors import ShapeError
from tonescope_server.gradients.points import pair_differences, spread_of_cells, sum_over_tones_at, where_counted
from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Evaluation, Var
from tonescope_server.types import FloatArray

# A stream asks for the same draws again and again: so many of a run are kept, and no more, for images are large.
KEPT_DRAWS = 2**18


class SmoothGradParameters(plugin.Parameters):
    """Parameters of the methods that add noise to the window."""

    n: int = Field(50, ge=2, le=65536, description="How many times noise is added; not used where noise is given.")
    noise_level: float = Field(
        0.15,
        ge=0,
        le=1e6,
        description="The noise's standard deviation, as a share of the window's largest less its smallest value.",
    )
    seed: plugin.Seed = 0
    noise: Annotated[list[Any] | None, BeforeValidator(plugin.as_lists)] = Field(
        None,
        description="The noise itself, in units of the input, in place of drawn noise: an array (n, *input shape), "
        "n at least 2, the same for every window.",
    )


class _NoisyGradients(plugin.GraphMethod):
    """Gradients at noisy copies of the window: what the methods below share.

    Draws are counter-based and the same for every window, so that an answer depends on nothing else in the batch. In
    each run point 0 is the window itself: predictions are read there, and sums are of differences from what is there,
    which leaves no small difference of large sums.
    """

    Parameters = SmoothGradParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Evaluate at the window and at its noisy copies in one pass, and sum what the method makes of it."""
        noise = tape.feed_var("noise", (-1, *tape.x.shape))
        if parameters.noise is None:
            level = tape.feed_var("noise_level", (1,) * len(tape.x.shape))
            noise = (spread_of_cells(tape, tape.x) * level).unsqueeze(0) * noise
        found = tape.evaluate_path(tape.x.unsqueeze(0) + noise, anchor=0)
        # 0 for the window itself, 1 for its noisy copies.
        counted = tape.feed_var("counted", (-1, *(1,) * len(tape.x.shape)))
        tape.result("samples", counted.sum(0))
        self._sum_up(tape, replace(found, gradient=where_counted(found.gradient, counted)), counted)

    def _sum_up(self, tape: Tape, found: Evaluation, counted: Var) -> None:
        """Name the results: what the cells are made of, and what their standard error is."""
        raise NotImplementedError

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Say that noise of one's own is not scaled."""
        return (parameters.noise is None,)

    def feeds(self, windows: plugin.Windows, parameters: Any) -> plugin.Feeds:
        """Yield the noise in runs of a bounded number of draws."""
        given = None if parameters.noise is None else _given(windows, parameters.noise)
        shape, dtype = windows.x.shape[1:], windows.x.dtype
        for run in _runs(parameters):
            drawn = _drawn(parameters.seed, run, shape) if given is None else given[run]
            drawn = windows.input("noise", drawn, run.start, drawn=given is None)
            counted = np.ones((1, len(drawn) + 1, *[1] * len(shape)), dtype)
            counted[:, 0] = 0
            fed = {"noise": np.concatenate([np.zeros_like(drawn[:1]), drawn])[None].astype(dtype), "counted": counted}
            if given is None:
                fed["noise_level"] = np.full((1,) * windows.x.ndim, parameters.noise_level, dtype)
            yield fed

    def points(self, parameters: Any) -> int:
        """Say how many points one run holds."""
        return 1 + max((run.stop - run.start for run in _runs(parameters)), default=0)

    def points_of_run(self, fed: Mapping[str, npt.NDArray[Any]], parameters: Any) -> int:
        """Count the points of this run."""
        return int(fed["noise"].shape[1])

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Divide the sums by the number of samples."""
        samples = round(float(totals["samples"].flat[0]))
        draws = self._draws(samples, parameters)
        error = plugin.standard_error(totals["tone_sums"], totals["tone_squares"], draws)
        return plugin.Estimate(self._cells(totals, samples), standard_error=error, batches=draws)

    def progress(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Return the estimate over the samples so far."""
        return self.finish(totals, windows, parameters)

    def _cells(self, totals: plugin.Totals, samples: int) -> FloatArray:
        return _divided(totals["cells"], samples)

    def _draws(self, samples: int, parameters: SmoothGradParameters) -> int:
        """Return how many independent draws the standard error is of."""
        return samples


class SmoothGrad(_NoisyGradients):
    """The mean gradient over noisy copies of the window, with its sign.

    Source: Smilkov, Thorat, Kim, Viégas & Wattenberg, "SmoothGrad: removing noise by adding noise" (2017), section 3.
    Departures: the mean is signed (the paper's pictures are of absolute values); for a predicted target the class is
    that of the window itself, in every copy.
    """

    name = "smoothgrad"
    summary = "The mean gradient over noisy copies of the window, with its sign."
    source = "Smilkov et al. 2017, arXiv:1706.03825"

    def _sum_up(self, tape: Tape, found: Evaluation, counted: Var) -> None:
        tape.result("cells", (found.gradient * counted).sum(0))
        tones = sum_over_tones_at(tape, found.gradient)
        _sum_tones(tape, tones - tones.slice(0, 0, 1))


class SmoothGradSquared(_NoisyGradients):
    """The mean of the squared gradient over noisy copies of the window.

    Source: Hooker, Erhan, Kindermans & Kim, "A Benchmark for Interpretability Methods in Deep Neural Networks" (2019),
    section 3.2, SmoothGrad².
    """

    name = "smoothgrad_squared"
    summary = "The mean of the squared gradient over noisy copies of the window."
    source = "Hooker et al. 2019, arXiv:1806.10758"

    def _sum_up(self, tape: Tape, found: Evaluation, counted: Var) -> None:
        squares = found.gradient * found.gradient
        tape.result("cells", (squares * counted).sum(0))
        tones = sum_over_tones_at(tape, squares)
        _sum_tones(tape, tones - tones.slice(0, 0, 1))


class VarGrad(_NoisyGradients):
    """The variance of the gradient over noisy copies of the window: how little can be told from a single gradient.

    It is the population variance, over n. The sums behind it are of differences from the gradient at the window, so
    that a small variance of large gradients is not lost in rounding. Its standard error is that of the mean over
    independent pairs of draws of ``(g₁ − g₂)² / 2``, which is a little larger than the estimate's own.

    Source: Adebayo et al., "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values"
    (2018); Hooker et al. (2019), section 3.2.
    """

    name = "vargrad"
    summary = "The variance of the gradient over noisy copies of the window."
    source = "Adebayo et al. 2018, arXiv:1810.03307"

    def _sum_up(self, tape: Tape, found: Evaluation, counted: Var) -> None:
        away = found.gradient - found.gradient.slice(0, 0, 1)
        tape.result("sums", away.sum(0))
        tape.result("squares", (away * away).sum(0))
        between = pair_differences(tape, away)
        _sum_tones(tape, sum_over_tones_at(tape, between * between) * 0.5)

    def _cells(self, totals: plugin.Totals, samples: int) -> FloatArray:
        mean = _divided(totals["sums"], samples)
        # Rounding may leave a variance of nothing a little below zero.
        return np.maximum(_divided(totals["squares"], samples) - mean * mean, 0)

    def _draws(self, samples: int, parameters: SmoothGradParameters) -> int:
        return sum((run.stop - run.start) // 2 for run in _runs(parameters) if run.stop <= samples)


def _runs(parameters: SmoothGradParameters) -> list[slice]:
    return list(plugin.even_runs(parameters.n if parameters.noise is None else len(parameters.noise)))


def _sum_tones(tape: Tape, tones: Var) -> None:
    tape.result("tone_sums", tones.sum(0))
    tape.result("tone_squares", (tones * tones).sum(0))


def _divided(sums: npt.NDArray[Any], count: int) -> FloatArray:
    result: FloatArray = (sums / count).astype(sums.dtype, copy=False)
    return result


def _drawn(seed: int, run: slice, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return draws of one standard deviation, each from its own place in the sequence of the seed."""
    small = (run.stop - run.start) * prod(shape) <= KEPT_DRAWS
    make = _kept_draws if small else _kept_draws.__wrapped__
    return make(seed, run.start, run.stop, shape)


@lru_cache(maxsize=16)
def _kept_draws(seed: int, start: int, stop: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    drawn = np.stack([plugin.generator(seed, "noise", i).standard_normal(shape) for i in range(start, stop)])
    drawn.flags.writeable = False  # later requests get them too
    return drawn


def _given(windows: plugin.Windows, noise: list[Any]) -> npt.NDArray[Any]:
    array, shape = plugin.as_numbers(noise, windows, "noise"), windows.x.shape[1:]
    if array.shape[1:] != shape or len(array) < 2:
        expected = ", ".join(map(str, shape))
        raise ShapeError(f"parameter 'noise': expected (n, {expected}), n at least 2; got {array.shape}")
    return array


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer SmoothGrad, SmoothGrad² and VarGrad."""
    return [SmoothGrad(), SmoothGradSquared(), VarGrad()]
