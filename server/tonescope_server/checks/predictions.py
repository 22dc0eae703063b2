"""Predictions that cannot be right, or whose confidence says nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.types import BoolArray, IntArray

CLASS_NEVER_TRAINED = "CLASS_NEVER_TRAINED"
ALWAYS_ONE_CLASS = "ALWAYS_ONE_CLASS"
CONFIDENCE_UNRELATED = "CONFIDENCE_UNRELATED"
CONFIDENCE_OFF = "CONFIDENCE_OFF"

FEWEST_WINDOWS = 32
FEWEST_OF_EITHER = 8  # right and wrong predictions: fewer cannot be ranked
SIGNIFICANT = 0.01
LARGEST_ERROR = 0.1  # expected calibration error
BINS = 10
DRAWS = 1000

Float64Array = npt.NDArray[np.float64]


def check_classes(
    classes: IntArray, trained: Sequence[int], names: Sequence[str] = (), node_id: int | None = None
) -> list[Finding]:
    """Tell predictions of classes that never occurred in training.

    Args:
        classes: the predicted class of each window, ``[n_windows]``.
        trained: the classes that did occur; empty means not known, and nothing is said.
        names: names by class index.
        node_id: whose windows they are.
    """
    never = ~np.isin(classes, list(trained)) if trained else np.zeros(len(classes), dtype=np.bool_)
    if not never.any():
        return []
    listed = ", ".join(_named(int(index), names) for index in np.unique(classes[never]))
    message = f"{int(never.sum())} of {len(classes)} windows are predicted to be {listed}, never seen in training"
    remedy = "do not believe these; train with examples, or state outputs.trained_classes where they did occur"
    figures = {"share_never_trained": float(never.mean())}
    return [Finding(CLASS_NEVER_TRAINED, Severity.WARNING, message, remedy, figures, node_id)]


def check_variety(classes: IntArray, names: Sequence[str] = (), node_id: int | None = None) -> list[Finding]:
    """Note that every window was predicted alike: a quiet room, or a model that does not look."""
    if len(classes) < FEWEST_WINDOWS or (classes != classes[0]).any():
        return []
    message = f"all {len(classes)} windows are predicted to be {_named(int(classes[0]), names)}"
    remedy = "fine where nothing changed in the room; else the model does not see what it was trained to see"
    return [Finding(ALWAYS_ONE_CLASS, Severity.NOTE, message, remedy, {"windows": float(len(classes))}, node_id)]


def check_confidence(confidence: npt.NDArray[np.floating], right: BoolArray, *, every: int = 1) -> list[Finding]:
    """Compare confidence with correctness, where labels are known.

    Confidence is *unrelated* where it ranks right predictions above wrong ones less well than it would if it were what
    it says it is (Spearman's correlation, against ``DRAWS`` sets of outcomes drawn with the stated confidences, their
    log odds all shifted alike to the share that is right), and *off* where it differs from the share of right ones by
    more than sampling allows (the expected calibration error, against sets drawn with the stated confidences). Where
    confidences hardly differ, nothing can be told of the first.

    Args:
        confidence: probability of the predicted class, ``[n_windows]``.
        right: whether the prediction is the label, ``[n_windows]``.
        every: windows that share frames are no independent evidence: only each ``every``-th counts.
    """
    stated, right = np.asarray(confidence[::every], dtype=np.float64), right[::every]
    if len(stated) < FEWEST_WINDOWS:
        return []
    return _unrelated(stated, right) + _off(stated, right)


def calibration_error(confidence: Float64Array, right: npt.NDArray[np.bool_]) -> Float64Array:
    """Return the expected calibration error over ``BINS`` bins of equal width.

    Shapes:
        confidence: ``[n]``; right: ``[…, n]`` → ``[…]``.

    Source: Guo et al., "On calibration of modern neural networks", 2017.
    """
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    in_bin = np.eye(BINS)[bins]
    gaps = (right - confidence) @ in_bin
    error: Float64Array = np.abs(gaps).sum(axis=-1) / len(confidence)
    return error


def _unrelated(confidence: Float64Array, right: BoolArray) -> list[Finding]:
    if min(right.sum(), (~right).sum()) < FEWEST_OF_EITHER or np.ptp(confidence) == 0:
        return []
    ranks = _ranks(confidence)
    found = float(_correlation(ranks, right[None])[0])
    drawn = _correlation(ranks, _drawn(_shifted(confidence, float(right.mean()))))
    p_value = (1 + int((drawn <= found).sum())) / (1 + DRAWS)
    if p_value > SIGNIFICANT:
        return []
    expected = float(np.median(drawn))
    message = (
        f"confidence does not track correctness as it should: Spearman {found:.2f} over {len(right)} windows, "
        f"{right.mean():.0%} of them right, where what it says would give {expected:.2f} (p = {p_value:.2g})"
    )
    figures = {"spearman": found, "expected": expected, "p_value": p_value, "accuracy": float(right.mean())}
    remedy = "do not sort or filter answers by confidence"
    return [Finding(CONFIDENCE_UNRELATED, Severity.WARNING, message, remedy, figures)]


def _drawn(confidence: Float64Array) -> BoolArray:
    """Draw outcomes that are right as often as they are said to be, ``[DRAWS, n]``; always the same ones."""
    outcomes: BoolArray = np.random.Generator(np.random.Philox(key=1)).random((DRAWS, len(confidence))) < confidence
    return outcomes


def _ranks(values: Float64Array) -> Float64Array:
    """Return ranks about zero; equal values share theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    centred: Float64Array = ranks - ranks.mean()
    return centred


def _correlation(ranks: Float64Array, right: BoolArray) -> Float64Array:
    """Return Spearman's correlation with each set of outcomes, ``[sets]``; 0 where all are alike."""
    share = right.mean(axis=1)
    scale = np.sqrt(np.square(ranks).mean() * share * (1 - share))
    product = right @ ranks / len(ranks)
    correlation: Float64Array = np.divide(product, scale, out=np.zeros(len(right)), where=scale > 0)
    return correlation


def _shifted(confidence: Float64Array, share: float) -> Float64Array:
    """Move all log odds alike, until the mean confidence is the share that is right."""
    from scipy.optimize import brentq

    odds = np.log(np.clip(confidence, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(confidence, 1e-6, 1 - 1e-6))

    def moved(by: float) -> Float64Array:
        return np.asarray(1 / (1 + np.exp(-(odds + by))))

    return moved(float(brentq(lambda by: float(moved(by).mean()) - share, -50, 50)))


def _off(confidence: Float64Array, right: BoolArray) -> list[Finding]:
    error = float(calibration_error(confidence, right))
    if error <= LARGEST_ERROR:
        return []
    as_large = int((calibration_error(confidence, _drawn(confidence)) >= error).sum())
    p_value = (1 + as_large) / (1 + DRAWS)
    if p_value > SIGNIFICANT:
        return []
    message = (
        f"confidence averages {confidence.mean():.0%} where {right.mean():.0%} of {len(right)} windows are right "
        f"(calibration error {error:.2f}, p = {p_value:.2g})"
    )
    figures = {
        "calibration_error": error,
        "p_value": p_value,
        "mean_confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
    }
    remedy = "fit outputs.temperature on labelled windows of this room"
    return [Finding(CONFIDENCE_OFF, Severity.WARNING, message, remedy, figures)]


def _named(index: int, names: Sequence[str]) -> str:
    return f"'{names[index]}'" if index < len(names) else f"class {index}"
