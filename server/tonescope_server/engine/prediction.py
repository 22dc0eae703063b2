"""From a graph's outputs to what the model said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.models.model import Model
from tonescope_server.types import FloatArray, Prediction

OUTPUT = "output:"


def predictions(model: Model, results: Mapping[str, npt.NDArray[Any]]) -> Prediction:
    """Read a batch's predictions from a plan's results, which hold each model output as ``output:<name>``."""
    outputs = {spec.name: results[OUTPUT + spec.name] for spec in model.outputs}
    first = model.outputs[0]
    meaning = model.manifest.output(first.name)
    scores: FloatArray = outputs[first.name].reshape(len(outputs[first.name]), -1)
    if meaning.kind == "regression":
        return Prediction(outputs, scores)
    classes = scores.argmax(axis=1)
    untrained = None
    if meaning.trained_classes:
        untrained = ~np.isin(classes, meaning.trained_classes)
    probabilities = scores if meaning.kind == "probabilities" else softmax(scores / meaning.temperature)
    return Prediction(outputs, scores, classes, tuple(meaning.class_names), probabilities, untrained)


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: FloatArray = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result
