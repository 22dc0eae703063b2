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
UNRELATED = 0.05  # a p-value above it: no evidence that confidence rises with being right
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

    Confidence is *unrelated* where right predictions are not given more of it than wrong ones (Spearman's rank
    correlation, one-sided), and *off* where it differs from the share of right ones by more than sampling allows (the
    expected calibration error, against ``DRAWS`` sets of outcomes drawn with the stated confidences).

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
    from scipy.stats import spearmanr  # a third of the daemon's start, which no stream without labels asks for

    found = spearmanr(confidence, right, alternative="greater")
    if found.pvalue <= UNRELATED:
        return []
    message = (
        f"confidence does not track correctness: Spearman {found.statistic:.2f} (p = {found.pvalue:.2g} for higher "
        f"where right) over {len(right)} windows, {right.mean():.0%} of them right"
    )
    figures = {"spearman": float(found.statistic), "p_value": float(found.pvalue), "accuracy": float(right.mean())}
    remedy = "do not sort or filter answers by confidence"
    return [Finding(CONFIDENCE_UNRELATED, Severity.WARNING, message, remedy, figures)]


def _off(confidence: Float64Array, right: BoolArray) -> list[Finding]:
    error = float(calibration_error(confidence, right))
    if error <= LARGEST_ERROR:
        return []
    drawn = np.random.Generator(np.random.Philox(key=1)).random((DRAWS, len(confidence))) < confidence
    as_large = int((calibration_error(confidence, drawn) >= error).sum())
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
