"""The findings of any report: what the checks say of a data set, and of a model's answers to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tonescope_server.checks import Declared, Finding, series_of
from tonescope_server.checks.data import check_recording, check_windows
from tonescope_server.checks.predictions import check_confidence
from tonescope_server.checks.results import Answers, check_answers
from tonescope_server.models.model import Model
from tonescope_server.reports.dataset import Dataset, Kind, frame_lengths
from tonescope_server.reports.tones.resampling import block_length
from tonescope_server.types import BoolArray


def check_data(data: Dataset, model: Model, normalise: str = "") -> list[Finding]:
    """Check a data set against what a model's manifest declares.

    Args:
        data: of that model.
        model: the model.
        normalise: a normaliser; "" means the manifest's for frames, and none for windows that are arrays.
    """
    declared = Declared.of(model)
    if normalise and normalise != declared.normalisation:
        # Whoever names another normalisation does not use the manifest's statistics, and is not told about them.
        declared = replace(declared, normalisation=normalise, mean=None, std=None)
    if data.cells is None:
        return check_recording(series_of(data.frames), declared, frame_lengths(model))
    applied = bool(normalise) and normalise != "none"
    raw = data.is_raw and (applied or data.kind is Kind.PAIRED)
    return check_windows(data.cells, declared, normalised=not raw)


def with_answers(on_data: Sequence[Finding], answers: Answers, model: Model) -> list[Finding]:
    """Add what the checks say of answers; attributions are judged where the data is sound."""
    return [*on_data, *check_answers(answers, model.manifest, model.cells, sound=not on_data)]


def on_confidence(confidence: npt.NDArray[np.floating], right: BoolArray, *, overlap: int = 1) -> list[Finding]:
    """Compare confidence with correctness, over windows that follow each other.

    Args:
        confidence: probability of the predicted class, ``[n_windows]``, in order of time.
        right: whether the prediction is the label.
        overlap: how many consecutive windows share frames; 1 where none do, or nobody knows.
    """
    return check_confidence(confidence, right, every=apart(confidence, right, overlap))


def apart(confidence: npt.NDArray[np.floating], right: BoolArray, overlap: int = 1) -> int:
    """Return how far windows must be apart to be right or wrong independently of each other.

    Those that share frames, or follow each other closely, are right and wrong together: only one of as many counts.
    """
    return max(block_length((right - np.asarray(confidence, np.float64))[:, None]), overlap)
