"""What a model can still do with K tones, the others masked; and whether any K tones would have done as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tonescope_server.engine.explainer import Explainer
from tonescope_server.errors import ParameterError
from tonescope_server.reports.tones.ranking import order_of
from tonescope_server.reports.tones.resampling import Float64Array, Sources, resample_windows
from tonescope_server.types import BoolArray, FloatArray, IntArray

WINDOWS_AT_ONCE = 256
FOLD_BLOCKS = 4
BAND_DRAWS = 1000
USUAL_KS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class Measure(StrEnum):
    """What a curve measures."""

    ACCURACY = "accuracy"
    AGREEMENT = "agreement"
    R_SQUARED = "r_squared"


class Fill(StrEnum):
    """What stands in place of a masked tone."""

    BASELINE = "baseline"
    MEAN = "mean"


Score = Callable[[BoolArray], Float64Array]
"""From the tones that are kept, ``[n_tones]`` or ``[n, n_tones]``, to what each window is worth, ``[n]``."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy against K.

    Shapes:
        ks: ``[m]``; chosen, chosen_low, chosen_high, lowest, p_value: ``[m]``; random: ``[draws, m]``.

    Attributes:
        measure: accuracy on labels; agreement with the class that the model predicts from all tones; or, for a model
            that predicts no class, R² of its output from all tones.
        fill: what stands in place of a masked tone.
        ks: how many tones are kept.
        chosen: with the K most important ones, ranked without the windows that they are tried on.
        chosen_low, chosen_high: a 95 % interval of it over windows, drawn in blocks.
        random: with K random tones; one row a draw.
        lowest: with the K least important ones.
        p_value: how likely random tones do at least as well: (1 + draws that do) / (1 + draws).
        intact: with no tone masked.
        windows: how many it is over.
    """

    measure: Measure
    fill: Fill
    ks: tuple[int, ...]
    chosen: Float64Array
    chosen_low: Float64Array
    chosen_high: Float64Array
    random: Float64Array
    lowest: Float64Array
    p_value: Float64Array
    intact: float
    windows: int

    def random_band(self, share: float = 0.95) -> tuple[Float64Array, Float64Array]:
        """Return between what values that share of the random sets lies, for each K."""
        tail = 50 * (1 - share)
        low, high = np.percentile(self.random, (tail, 100 - tail), axis=0)
        return low, high


def curve_ks(ks: Sequence[int], n_eligible: int) -> tuple[int, ...]:
    """Say for how many tones to measure: those asked for, a usual series, and all."""
    return tuple(sorted({*(k for k in USUAL_KS if k < n_eligible), *ks, n_eligible}))


def measure_curve(
    score: Score,
    importance: Float64Array,
    sources: Sources,
    eligible: BoolArray,
    ks: Sequence[int],
    draws: int,
    rng: np.random.Generator,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Score the chosen, random and lowest sets: ``[m, n]``, ``[draws, m]``, ``[m, n]``.

    Tones that were chosen on the very windows that they are tried on would look better than they are. So the windows
    are split in two, and each half is tried with the ranking of the other: by recordings, or where there is only one,
    by quarters of it in turn.

    Args:
        score: what windows are worth with some tones kept.
        importance: of each tone in each window.
        sources: where the windows come from.
        eligible: which rows may be chosen; the others are masked throughout.
        ks: how many tones to keep.
        draws: how many random sets of each size.
        rng: what they come from.
        advance: called after each set.
    """
    folds = fold_of(sources)
    n_tones = len(eligible)
    places = np.full((len(sources), n_tones), n_tones, np.int64)  # of each tone in the ranking of the other half
    for fold in (0, 1):
        order = order_of(importance[folds != fold], eligible)
        places[np.ix_(folds == fold, order)] = np.arange(len(order))
    n_eligible = int(eligible.sum())

    def scored(keep: BoolArray) -> Float64Array:
        result = score(keep)
        advance()
        return result

    chosen = np.stack([scored(places < k) for k in ks])
    lowest = np.stack([scored((places >= n_eligible - k) & eligible) for k in ks])
    rows = np.flatnonzero(eligible)
    random = np.empty((draws, len(ks)))
    for draw in range(draws):
        shuffled = rng.permutation(rows)
        for i, k in enumerate(ks):
            random[draw, i] = scored(np.isin(np.arange(n_tones), shuffled[:k])).mean()
    return chosen, random, lowest


def accuracy_curve(
    explainer: Explainer,
    cells: FloatArray,
    labels: IntArray | None,
    importance: Float64Array,
    sources: Sources,
    eligible: BoolArray,
    ks: Sequence[int],
    fill: Fill,
    draws: int,
    rng: np.random.Generator,
    advance: Callable[[], object] = lambda: None,
) -> Curve:
    """Measure what the model can still do with K tones; see ``measure_curve``.

    Shapes:
        cells: ``[n, *input shape]``; labels: ``[n]``; importance: ``[n, n_tones]``; eligible: ``[n_tones]``.

    Raises:
        ParameterError: labels for a model that predicts no class, or that are none of its classes.
    """
    score, measure = scorer(explainer, cells, labels, fill)
    intact = float(score(np.ones(len(eligible), np.bool_)).mean())
    chosen, random, lowest = measure_curve(score, importance, sources, eligible, ks, draws, rng, advance)
    drawn = resample_windows(chosen.T, sources, BAND_DRAWS, rng).means
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    top = 1.0  # of every measure; that of a share is also at least 0
    floor = -np.inf if measure is Measure.R_SQUARED else 0.0
    means = chosen.mean(axis=1)
    p_value = (1 + (random >= means - 1e-12).sum(axis=0)) / (1 + draws)
    return Curve(
        measure,
        fill,
        tuple(ks),
        means,
        np.clip(low, floor, top),
        np.clip(high, floor, top),
        random,
        lowest.mean(axis=1),
        p_value,
        intact,
        len(cells),
    )


def fold_of(sources: Sources) -> IntArray:
    """Split windows in two: ``[n]`` of 0 and 1. Even and odd recordings, or the quarters of a single one in turn."""
    if sources.n_recordings > 1:
        return sources.recordings % 2
    n = len(sources)
    return np.asarray(np.arange(n) * FOLD_BLOCKS // n % 2, np.int64)


def scorer(explainer: Explainer, cells: FloatArray, labels: IntArray | None, fill: Fill) -> tuple[Score, Measure]:
    """Return what says how much each window is worth with some tones kept, and what that measures.

    Raises:
        ParameterError: labels for a model that predicts no class, or that are none of its classes.
    """
    tone_of_cell, shape = explainer.model.cells.tone_of_cell, cells.shape[1:]
    flat, filling = cells.reshape(len(cells), -1), _filling(explainer, cells, fill)

    def outputs(keep: BoolArray) -> tuple[FloatArray, IntArray | None]:
        kept = np.broadcast_to(keep, (len(cells), keep.shape[-1]))
        scores, classes = [], []
        for start in range(0, len(cells), WINDOWS_AT_ONCE):
            part = slice(start, start + WINDOWS_AT_ONCE)
            masked = np.where(kept[part][:, tone_of_cell], flat[part], filling)
            said = explainer.predict(masked.reshape(-1, *shape))
            scores.append(said.scores)
            classes.append(said.class_index)
        known = [each for each in classes if each is not None]
        return np.concatenate(scores), np.concatenate(known) if known else None

    full_scores, full_classes = outputs(np.ones(explainer.model.cells.n_tones, np.bool_))
    if full_classes is None:
        if labels is not None:
            raise ParameterError(f"model '{explainer.model.name}': expected classes for the labels, got a regression")
        return _r_squared(full_scores, lambda keep: outputs(keep)[0]), Measure.R_SQUARED
    wanted = full_classes if labels is None else _checked(labels, full_scores.shape[1])

    def right(keep: BoolArray) -> Float64Array:
        return np.asarray(outputs(keep)[1] == wanted, np.float64)

    return right, Measure.AGREEMENT if labels is None else Measure.ACCURACY


def _checked(labels: IntArray, n_classes: int) -> IntArray:
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ParameterError(
            f"labels: expected classes from 0 to {n_classes - 1}, got {labels.min()} to {labels.max()}"
        )
    return labels


def _r_squared(full: FloatArray, outputs: Callable[[BoolArray], FloatArray]) -> Score:
    """Give each window 1 − its squared error over the mean squared deviation: the mean over windows is R²."""
    centred = full.astype(np.float64) - full.mean(axis=0, dtype=np.float64)
    deviation = float((centred**2).sum(axis=1).mean())

    def score(keep: BoolArray) -> Float64Array:
        error = ((outputs(keep).astype(np.float64) - full) ** 2).sum(axis=1)
        return np.asarray(1 - error / deviation if deviation > 0 else (error == 0).astype(np.float64))

    return score


def _filling(explainer: Explainer, cells: FloatArray, fill: Fill) -> npt.NDArray[np.float32]:
    """Return what stands in place of masked cells: ``[1, n_cells]``, the same for all windows.

    The mean is of each tone's own, over windows and frames; where a tone has several components or links, of each.
    """
    model = explainer.model
    if fill is Fill.MEAN:
        columns = model.cells.frames(cells).mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        return model.cells.arrange(np.tile(columns, (model.cells.n_frames, 1))).reshape(1, -1)
    stated = model.manifest.baseline
    tones = np.asarray(stated.tones or np.full(model.cells.n_tones, stated.value), np.float32)
    return tones[model.cells.tone_of_cell][None]
