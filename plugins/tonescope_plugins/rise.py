"""RISE: random masks over tones and frames, weighted by what the target is worth behind each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from tonescope_plugins import _parts
from tonescope_plugins._coalitions import BATCHES
from tonescope_plugins._game import AnytimeMethod, Float64Array, Step
from tonescope_plugins._least_squares import jackknife
from tonescope_plugins._masking import POINTS
from tonescope_server import plugin
from tonescope_server.types import FloatArray


class RiseParameters(plugin.BaselineParameters):
    """Parameters of RISE."""

    n: int = Field(1024, ge=32, le=2**20, description="Masks.")
    grid_tones: int = Field(8, ge=1, le=4096, description="Coarse cells of a mask along the tones, at most as many.")
    grid_frames: int = Field(4, ge=1, le=4096, description="Coarse cells of a mask along the frames, at most as many.")
    visible: float = Field(0.5, gt=0, lt=1, description="How often a coarse cell is shown.")
    centred: bool = Field(
        True,
        description="Take the mean over all masks off the target: false gives the paper's sum, of which every cell has "
        "about the target's mean, whatever it holds.",
    )
    seed: plugin.Seed = 0


class Rise(AnytimeMethod):
    """``E[(f(masked x) − E f) · mask] / E[mask]``: how much more the target is worth where a cell is shown.

    Masks are random on a coarse grid of tones (in the order of the spectrum) by frames, shifted at random, and brought
    to full size by linear interpolation; what is masked goes to the baseline. All windows are asked behind the same
    masks. Values are no shares of a whole: they do not add up. ``batches`` counts the batches of masks that the
    standard error is from.

    Source: Petsiuk, Das & Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018),
    equation 6 and section 3.2. Departure: ``centred``, without which null tones have as much as any others.
    """

    name = "rise"
    summary = "How much more the target is worth where a cell is shown, over random masks of tones by frames."
    source = "Petsiuk et al. 2018, arXiv:1806.07421"
    resolves_tones = False  # masks are coarser than tones: what a tone is worth shows on its neighbours
    Parameters = RiseParameters

    def steps(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[Step]:
        """Draw batch by batch."""
        sums = _Sums(windows, parameters)
        baseline = parameters.baseline_of(windows).reshape(-1, windows.tone_of_cell.size)
        for number, run in enumerate(plugin.even_runs(parameters.n, -(-parameters.n // BATCHES))):
            masks = sums.masks(number, run.stop - run.start)
            sums.add(_scores(model, windows, masks, baseline), masks)
            yield partial(sums.estimate)

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the masks."""
        return int(parameters.n)


def _scores(
    model: plugin.ModelAccess, windows: plugin.Windows, masks: FloatArray, baseline: FloatArray
) -> Float64Array:
    """Return the target behind each mask, ``(batch, masks)``."""
    flat = windows.x.reshape(len(windows.x), -1)
    everyone = np.arange(len(flat), dtype=np.int64)
    found = np.empty((len(masks), len(flat)))
    at_once = max(POINTS // len(flat), 1)
    for start in range(0, len(masks), at_once):
        some = slice(start, min(start + at_once, len(masks)))
        points = baseline + masks[some, None] * (flat - baseline)
        window = np.tile(everyone, len(points))
        found[some] = model.score(points.reshape(-1, *windows.x.shape[1:]), window).reshape(len(points), -1)
    return found.T


class _Sums:
    """Sums over masks: of the target, of masks, and of their products; for tones batch by batch."""

    def __init__(self, windows: plugin.Windows, parameters: RiseParameters) -> None:
        self._windows, self._parameters = windows, parameters
        batch, cells = len(windows.x), windows.tone_of_cell.size
        self._place = _parts.place_of_tone(windows)
        self._frames = int(windows.frame_of_cell.max()) + 1
        self._count, self._targets = 0, np.zeros(batch)
        self._masks, self._products = np.zeros(cells), np.zeros((batch, cells))
        self._of_batches: list[tuple[int, Float64Array, Float64Array, Float64Array]] = []

    def masks(self, number: int, count: int) -> FloatArray:
        """Return the masks of one batch, ``(count, cells)``, in [0, 1]."""
        random, given = plugin.generator(self._parameters.seed, "masks", number), self._parameters
        tones, frames = self._windows.n_tones, self._frames
        grid = min(given.grid_tones, tones), min(given.grid_frames, frames)
        coarse = random.random((count, grid[0] + 1, grid[1] + 1)) < given.visible
        along_tones = _interpolation(random.random(count), grid[0], tones)
        along_frames = _interpolation(random.random(count), grid[1], frames)
        fine = along_tones @ coarse @ along_frames.swapaxes(1, 2)
        found: FloatArray = fine[:, self._place[self._windows.tone_of_cell], self._windows.frame_of_cell].astype(
            np.float32
        )
        return found

    def add(self, targets: Float64Array, masks: FloatArray) -> None:
        """Add a batch: ``targets`` is ``(batch, masks)``."""
        exact = masks.astype(np.float64)
        products = targets @ exact
        self._count += len(masks)
        self._targets = self._targets + targets.sum(axis=1)
        self._masks = self._masks + exact.sum(axis=0)
        self._products = self._products + products
        tones = self._folded(exact.sum(axis=0)[None]), self._folded(products)
        self._of_batches.append((len(masks), targets.sum(axis=1), *tones))

    def estimate(self) -> plugin.Estimate:
        """Return the weighted mean of the masks, and how far the batches disagree."""
        cells = self._weighted(self._count, self._targets, self._masks, self._products)
        totals: list[Any] = [sum(each[i] for each in self._of_batches) for i in range(4)]
        error = None
        if len(self._of_batches) > 1:
            without = [[total - own for total, own in zip(totals, each, strict=True)] for each in self._of_batches]
            error = jackknife(np.stack([self._weighted(*each) for each in without]))
        return plugin.Estimate(
            cells.astype(np.float32).reshape(self._windows.x.shape),
            standard_error=None if error is None else error.astype(np.float32),
            batches=len(self._of_batches),
        )

    def _weighted(self, count: Any, targets: Any, masks: Any, products: Any) -> Float64Array:
        """Return Σ f·m / (n·E[m]), or with the means taken off, which costs one degree of freedom."""
        if self._parameters.centred:
            products = products - (targets / count)[:, None] * masks
            count = count - 1
        found: Float64Array = products / (count * self._parameters.visible)
        return found

    def _folded(self, cells: Float64Array) -> Float64Array:
        """Sum cells into tones, ``(n, cells)`` → ``(n, n_tones)``."""
        tones, n_tones = self._windows.tone_of_cell, self._windows.n_tones
        return np.stack([np.bincount(tones, row, n_tones) for row in cells])


def _interpolation(shifts: Float64Array, coarse: int, fine: int) -> Float64Array:
    """Return the weights of ``coarse + 1`` values at shifted places, ``(masks, fine, coarse + 1)``."""
    at = (np.arange(fine) / fine * coarse)[None] + shifts[:, None]
    at = np.minimum(at, coarse)
    found: Float64Array = np.maximum(0.0, 1.0 - np.abs(at[:, :, None] - np.arange(coarse + 1)))
    return found


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer RISE."""
    return [Rise()]
