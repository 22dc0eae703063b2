"""Drift: data, or attributions, that are sound in themselves and are not what the model was trained on.

**Inputs.** The usual test, a population stability index per tone, compares the shapes of two distributions. A stream
that shows a *part* of what was trained (an empty room; one node of two) fills few of its bins: on the project's
simulator the index exceeds its customary 0.25 on three quarters of the tones of clean streams of 20 s, and on at least
one tone in every one of 100 seeds. Two questions are asked instead that a part of the training data can answer:

- *Is a tone's mean where no sizeable part of the training data had it?* By Cantelli's inequality a part that makes up
  a share q of the training data has its mean at most √((1 − q)/q) training standard deviations away. Beyond
  ``LARGEST_SHIFT`` = 3, less than a tenth of the training data looked like that. The mean's own error comes from the
  means of successive blocks, since frames that follow each other are not independent; three such errors are granted.
- *Do too many values lie beyond 4 training standard deviations?* In training 1.4 in 100,000 did.

Clean streams of 100 simulator seeds, two nodes each: the largest shift of any tone, less its error, was 1.38; the
largest share beyond 4, 0.014 %.

**Attributions.** The shares of |attribution| that tones have are a distribution over tones. It is compared by the
Jensen–Shannon divergence (base 2: 0 for the same, 1 for no tone in common); a stability index is infinite as soon as
a tone has no share. The profile depends on what is predicted, so bounds are wide. For input × gradient and the
clean streams above, 32 windows of each were at most 0.28 from the training's profile, and the windows of two streams
of one node, with whoever was in the room, at most 0.29 from each other; 16 windows before and after people came or
went, 0.48. Attribution moved by one row is told in 98 of 100 streams against the training's profile, and in 60 against
the stream's own beginning. Faults of the data are told by the other checks, and more sharply.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Declared, Float64Array, Series
from tonescope_server.types import FloatArray

INPUT_DRIFT = "INPUT_DRIFT"
ATTRIBUTION_DRIFT = "ATTRIBUTION_DRIFT"

FEWEST_FRAMES = 64
BLOCKS = 8
LARGEST_SHIFT = 3.0  # training standard deviations
ERRORS_GRANTED = 3.0  # standard errors of the mean
MOST_SHIFTED = 0.05  # of the live tones
FAR = 4.0  # training standard deviations
MOST_FAR = 0.01  # of the values of live tones

FEWEST_WINDOWS = 32
LARGEST_FROM_TRAINING = 0.35  # bits
LARGEST_FROM_START = 0.5  # bits


def check_input(series: Series, declared: Declared, *, raw: bool) -> list[Finding]:
    """Compare a stream with the training statistics of the manifest.

    Args:
        series: of named rows.
        declared: nothing is said without its mean and std.
        raw: whether the series holds amplitudes; else z-scores by those statistics.
    """
    if declared.mean is None or declared.std is None or len(series) < FEWEST_FRAMES:
        return []
    # A row that never changes carries nothing that could drift; it is told as what it is.
    varies = series.amplitude.max(axis=0) != series.amplitude.min(axis=0)
    live = varies & ~declared.cells.table.null_mask[series.rows]
    if not live.any():
        return []
    z = series.amplitude[:, live].astype(np.float64)
    if raw:
        rows = series.rows[live]
        z = (z - declared.mean[rows]) / (declared.std[rows] + declared.eps)
    elif declared.normalisation != "manifest":
        return []
    shift = np.abs(z.mean(axis=0))
    error = mean_error(z)
    shifted = shift - ERRORS_GRANTED * error > LARGEST_SHIFT
    far = float((np.abs(z) > FAR).mean())
    if shifted.mean() <= MOST_SHIFTED and far <= MOST_FAR:
        return []
    worst = int(shift.argmax())
    message = (
        f"{int(shifted.sum())} of {int(live.sum())} tones have their mean more than {LARGEST_SHIFT:g} training "
        f"standard deviations off (row {int(series.rows[live][worst])}: {shift[worst]:.1f}), and {far:.1%} of the "
        f"values lie beyond {FAR:g}: less than a tenth of the training data looked like this"
    )
    remedy = "train on this room and receiver too, or measure normalisation.mean and std here; believe answers less"
    figures = {
        "share_of_tones_shifted": float(shifted.mean()),
        "largest_shift_std": float(shift[worst]),
        "share_beyond_4_std": far,
        "effective_frames": effective_frames(z, error),
    }
    return [Finding(INPUT_DRIFT, Severity.WARNING, message, remedy, figures, series.node_id)]


def mean_error(values: Float64Array) -> Float64Array:
    """Return the standard error of each column's mean, from the means of ``BLOCKS`` successive blocks.

    Shapes:
        values: ``[n, n_columns]`` → ``[n_columns]``.

    Source: the method of batch means (Law and Kelton, Simulation Modeling and Analysis, ch. 9).
    """
    length = len(values) // BLOCKS
    blocks = values[: length * BLOCKS].reshape(BLOCKS, length, -1).mean(axis=1)
    error: Float64Array = blocks.std(axis=0, ddof=1) / np.sqrt(BLOCKS)
    return error


def effective_frames(values: Float64Array, error: Float64Array) -> float:
    """Return how many independent frames would have given the median column's error; at most as many as there are."""
    known = error > 0
    if not known.any():
        return float(len(values))
    return float(min(np.median(values[:, known].var(axis=0) / np.square(error[known])), len(values)))


def attribution_profile(tones: FloatArray) -> Float64Array:
    """Return the share of the sum of |attribution| over all windows that each tone has.

    Shapes:
        tones: ``[n_windows, n_tones]`` → ``[n_tones]``, summing to 1, or to 0 where there is no attribution at all.
    """
    magnitude: Float64Array = np.abs(tones).sum(axis=0, dtype=np.float64)
    total = magnitude.sum()
    return magnitude / total if total > 0 else magnitude


def divergence(p: npt.NDArray[np.floating], q: npt.NDArray[np.floating]) -> float:
    """Return the Jensen–Shannon divergence of two distributions, in bits.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991.
    """
    middle = (p + q) / 2

    def from_middle(part: npt.NDArray[np.floating]) -> float:
        there = part > 0
        return float((part[there] * np.log2(part[there] / middle[there])).sum())

    return max((from_middle(p) + from_middle(q)) / 2, 0.0)


def check_attribution(
    tones: FloatArray,
    training: Float64Array | None = None,
    start: Float64Array | None = None,
    node_id: int | None = None,
) -> list[Finding]:
    """Compare the profile of recent attributions with the training's, or else with the stream's own beginning.

    Args:
        tones: attribution per tone of the recent windows, ``[n_windows, n_tones]``.
        training: the share of each tone in training, by the same method; None where the manifest has none.
        start: the profile of the stream's first windows.
        node_id: whose windows they are.
    """
    reference, bound = (training, LARGEST_FROM_TRAINING) if training is not None else (start, LARGEST_FROM_START)
    if reference is None or len(tones) < FEWEST_WINDOWS:
        return []
    recent = attribution_profile(tones)
    distance = divergence(recent, reference)
    if not recent.any() or distance <= bound:
        return []
    moved = np.abs(recent - reference)
    rows = np.argsort(-moved, kind="stable")[:4]
    listed = ", ".join(f"row {row}: {reference[row]:.1%} to {recent[row]:.1%}" for row in rows.tolist())
    since = "those of the training" if training is not None else "the stream's first windows"
    message = f"the attribution lies on other tones than in {since} ({distance:.2f} bits; most: {listed})"
    remedy = "see what changed in the room or the receiver; where nothing did, state [reference] for this method anew"
    figures = {"divergence_bits": distance, "windows": float(len(tones))}
    return [Finding(ATTRIBUTION_DRIFT, Severity.WARNING, message, remedy, figures, node_id)]
