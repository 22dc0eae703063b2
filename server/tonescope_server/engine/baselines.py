"""What a model's manifest states to compare windows with, as windows. What a request gives is ``plugin.baseline``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tonescope_server.models.model import Model
from tonescope_server.types import FloatArray


def manifest_baseline(model: Model) -> FloatArray:
    """Return the manifest's baseline, ``(1, *input shape)``: one value per tone, or one for every cell."""
    stated, dtype = model.manifest.baseline, np.dtype(model.input.dtype)
    if stated.tones:
        return _held_over_frames(model, stated.tones)
    baseline = np.full((1, *model.input.shape[1:]), stated.value, dtype)
    baseline.flags.writeable = False  # it serves later requests too
    return baseline


def named_baselines(model: Model) -> Mapping[str, FloatArray]:
    """Return what else the manifest states to compare with, by name."""
    stated = model.manifest.baseline
    means = {"dataset_mean": stated.dataset_mean, "empty_room": stated.empty_room}
    found = {name: _held_over_frames(model, tones) for name, tones in means.items() if tones}
    if model.background is not None and not stated.dataset_mean:
        mean = model.background.mean(axis=0, keepdims=True, dtype=np.float64).astype(model.background.dtype)
        mean.flags.writeable = False
        found["dataset_mean"] = mean
    return found


def _held_over_frames(model: Model, tones: Sequence[float]) -> FloatArray:
    """Return a value per tone as a window, ``(1, *input shape)``."""
    per_tone = np.asarray(tones, np.dtype(model.input.dtype))
    window = per_tone[model.cells.tone_of_cell].reshape((1, *model.input.shape[1:]))
    window.flags.writeable = False
    return window
