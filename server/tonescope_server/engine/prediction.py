"""From a graph's outputs to what the model said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.models.model import Model
from tonescope_server.types import BoolArray, FloatArray, IntArray, Prediction, frozen

OUTPUT = "output:"


class PredictionReader:
    """Reads predictions of one model from a plan's results, which hold each model output as ``output:<name>``."""

    def __init__(self, model: Model) -> None:
        self._outputs = tuple((spec.name, OUTPUT + spec.name) for spec in model.outputs)
        meaning = model.manifest.output(model.outputs[0].name)
        self._is_regression = meaning.kind == "regression"
        self._names = tuple(meaning.class_names)
        self._temperature = None if meaning.kind == "probabilities" else meaning.temperature
        self._trained = frozenset(meaning.trained_classes)

    def __call__(self, results: Mapping[str, npt.NDArray[Any]]) -> Prediction:
        """Read a batch's predictions."""
        outputs = {name: results[result] for name, result in self._outputs}
        first = outputs[self._outputs[0][0]]
        scores: FloatArray = first if first.ndim == 2 else first.reshape(len(first), -1)
        if self._is_regression:
            return Prediction(outputs, scores)
        classes = scores.argmax(axis=1)
        return frozen(
            Prediction,
            outputs=outputs,
            scores=scores,
            class_index=classes,
            class_names=self._names,
            temperature=self._temperature,
            untrained=self._untrained(classes),
        )

    def _untrained(self, classes: IntArray) -> BoolArray | None:
        if not self._trained:
            return None
        # In plain numbers: np.isin takes half as long as a small network does to explain a window.
        return np.array([index not in self._trained for index in classes.tolist()], np.bool_)
