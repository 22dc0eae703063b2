"""TIMING: integrated gradients along paths on which random stretches of time stay as they are in the window."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_server import plugin
from tonescope_server.errors import ParameterError
from tonescope_server.gradients.points import sum_over_tones_at, where_counted
from tonescope_server.gradients.tape import Tape

BoolArray = npt.NDArray[np.bool_]


class TimingParameters(plugin.BaselineParameters):
    """Parameters of TIMING."""

    n: int = Field(64, ge=2, le=16384, description="Points on the path, each with stretches of its own.")
    segments: int = Field(
        0, ge=0, le=65536, description="Stretches that stay as they are at each point; 0 means one for each tone."
    )
    min_frames: int = Field(1, ge=1, description="The shortest stretch.")
    max_frames: int = Field(0, ge=0, description="The longest stretch; 0 means all the frames of a window.")
    seed: plugin.Seed = 0


class Timing(plugin.GraphMethod):
    """``(x − b) · ∇f(M ⊙ (b + α (x − b)) + (1 − M) ⊙ x)``, for each cell averaged over the α and M that free it.

    At each point of the path, stretches of time of single tones (all their links and components) are left as they are
    in the window: what lies around a cell then stays more like the windows that the model knows than where the whole
    window fades at once.

    The cells do not sum to the change of the target: the convergence delta says by how much they miss it. The standard
    error per tone is from the spread over points, each of which has masks of its own; as points are spread evenly,
    it is on the safe side.

    Source: Jang, Kim & Yang, "TIMING: Temporality-Aware Integrated Gradients for Time Series Explanation" (2025),
    section 4. Departures: points are the midpoints of n intervals, in an order drawn at random, in place of a grid with
    both ends, so that the first of them are a sample of the path; masks are the same for every window; a cell that no
    point leaves free gets 0 in place of 0/0. Windows without frames have stretches of one cell.
    """

    name = "timing"
    summary = "Integrated gradients along paths on which random stretches of time stay as they are."
    source = "Jang et al. 2025, arXiv:2506.05035"
    Parameters = TimingParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Evaluate at the window, the baseline and the masked points of the path in one pass."""
        ones = (1,) * len(tape.x.shape)
        baseline = tape.feed_var("baseline", tape.x.shape)
        to_go = tape.feed_var("to_go", (-1, *ones))
        free = tape.feed_var("free", (-1, *tape.x.shape))
        counted = tape.feed_var("counted", (-1, *ones))
        weight = tape.feed_var("weight", tape.x.shape)
        span = tape.x - baseline
        # Counted from the window, so that the first point is the window to the last bit.
        found = tape.evaluate_path(tape.x.unsqueeze(0) - to_go * free * span.unsqueeze(0), anchor=0)
        counts = counted * free
        parts = counts * span.unsqueeze(0)
        each = parts * where_counted(found.gradient, parts)
        tones = sum_over_tones_at(tape, each * weight.unsqueeze(0))
        tape.result("cells", each.sum(0))
        tape.result("counts", counts.sum(0))
        tape.result("samples", counted.sum(0))
        tape.result("tone_sums", tones.sum(0))
        tape.result("tone_squares", (tones * tones).sum(0))
        tape.result("baseline_score", (found.score * tape.feed_var("scored", (-1,))).sum(0))

    def feeds(self, windows: plugin.Windows, parameters: Any) -> plugin.Feeds:
        """Yield runs of a bounded number of points; the first begins with the baseline, to be scored."""
        free = _free(windows, parameters)
        counts = free.sum(axis=0)
        baseline, dtype = parameters.baseline_of(windows), windows.x.dtype
        shape, ones = windows.x.shape[1:], [1] * (windows.x.ndim - 1)
        weight = (parameters.n / np.maximum(counts, 1)).astype(dtype).reshape(1, *shape)
        order = plugin.generator(parameters.seed, "path", 0).permutation(parameters.n)
        to_go = 1.0 - (order + 0.5) / parameters.n
        for run in plugin.even_runs(parameters.n):
            ahead = [0.0, 1.0] if run.start == 0 else [0.0]  # the window, and the baseline
            lead = np.ones((len(ahead), free.shape[1]), bool)
            scored = np.zeros((1, len(ahead) + run.stop - run.start), dtype)
            scored[:, 1] = float(run.start == 0)
            yield {
                "baseline": baseline,
                "to_go": np.concatenate([ahead, to_go[run]]).astype(dtype).reshape(1, -1, *ones),
                "free": np.concatenate([lead, free[run]]).astype(dtype).reshape(1, -1, *shape),
                "counted": np.repeat([0.0, 1.0], [len(ahead), len(to_go[run])]).astype(dtype).reshape(1, -1, *ones),
                "weight": weight,
                "scored": scored,
            }

    def points(self, parameters: Any) -> int:
        """Say how many points one run holds, at most."""
        return 2 + int(min(parameters.n, plugin.SAMPLES_PER_RUN))

    def points_of_run(self, fed: Mapping[str, npt.NDArray[Any]], parameters: Any) -> int:
        """Count the points of this run."""
        return int(fed["to_go"].shape[1])

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Divide each cell's sum by the number of points at which it was free."""
        samples, dtype = round(float(totals["samples"].flat[0])), windows.x.dtype
        cells = (totals["cells"] / np.maximum(totals["counts"], 1)).astype(dtype, copy=False)
        change = totals["score"].astype(np.float64) - totals["baseline_score"]
        delta = cells.reshape(len(cells), -1).sum(axis=1, dtype=np.float64) - change
        error = plugin.standard_error(totals["tone_sums"], totals["tone_squares"], samples)
        return plugin.Estimate(cells, None, delta.astype(dtype), standard_error=error, batches=samples)

    def progress(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Return the estimate over the points so far."""
        return self.finish(totals, windows, parameters)


def _free(windows: plugin.Windows, parameters: TimingParameters) -> BoolArray:
    """Return which cells are on the path at each point, ``(n, cells)``: those that no stretch covers."""
    frames = int(windows.frame_of_cell.max()) + 1
    longest = min(parameters.max_frames or frames, frames)
    if parameters.min_frames > longest:
        raise ParameterError(
            f"parameter 'min_frames': expected at most {longest}, the longest stretch, got {parameters.min_frames}"
        )
    lengths = (parameters.min_frames, longest)
    covered = _covered(
        parameters.n, parameters.segments or windows.n_tones, windows.n_tones, frames, lengths, parameters.seed
    )
    free: BoolArray = ~covered[:, windows.tone_of_cell, windows.frame_of_cell]
    return free


@lru_cache(maxsize=16)
def _covered(n: int, segments: int, tones: int, frames: int, lengths: tuple[int, int], seed: int) -> BoolArray:
    """Return what the stretches of each point cover, ``(n, tones, frames)``; each point draws by itself."""
    covered = np.zeros((n, tones, frames), bool)
    for point in range(n):
        drawn = plugin.generator(seed, "segments", point)
        tone = drawn.integers(tones, size=segments)
        start = drawn.integers(frames, size=segments)
        stop = start + drawn.integers(lengths[0], lengths[1] + 1, size=segments)
        for k, begin, end in zip(tone.tolist(), start.tolist(), stop.tolist(), strict=True):
            covered[point, k, begin:end] = True  # what would end after the window ends with it
    covered.flags.writeable = False  # later requests get them too
    return covered


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer TIMING."""
    return [Timing()]
