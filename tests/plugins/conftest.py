"""The oracle of the methods: the same models in float64 on ONNX's reference implementation, and central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.models.model import Model
from tonescope_server.testing import tiny_models, tiny_windows

Array = npt.NDArray[Any]
Score = Callable[[Array], Array]
STEP = 1e-5


class Oracle:
    """One tiny model, its explainer, five windows, and everything again without any code of ours."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.explainer = Explainer(model, installed_plugins())
        self.x = tiny_windows(model)
        self.tone_of_cell = model.cells.tone_of_cell
        self.n_tones = model.cells.n_tones
        proto = ir.to_proto(model.graph)
        for tensor in proto.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
        for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        self._evaluator = ReferenceEvaluator(proto)

    def output(self, points: Array, name: str | None = None) -> Array:
        """Return an output, the first by default: (n, *input shape) → (n, elements)."""
        name = name or self.model.outputs[0].name
        (found,) = self._evaluator.run([name], {self.model.input.name: np.asarray(points, np.float64)})
        return found

    def element(self, index: int) -> Score:
        """Return the function from points to one element of the first output."""
        return lambda points: self.output(points)[:, index]

    def gradient(self, score: Score, x: Array | None = None) -> Array:
        """Return the gradient of a score by every cell, by central differences: (n, *input shape)."""
        x = np.asarray(self.x if x is None else x, np.float64)
        size = int(np.prod(x.shape[1:]))
        steps = STEP * np.eye(size).reshape(size, *x.shape[1:])
        rows = [(score(window + steps) - score(window - steps)) / (2 * STEP) for window in x]
        return np.stack(rows).reshape(x.shape)

    def fold(self, cells: Array) -> Array:
        """Sum cells into physical tones, one cell at a time: (n, *input shape) → (n, tones)."""
        found = np.zeros((len(cells), self.n_tones))
        for flat, tone in enumerate(self.tone_of_cell):
            found[:, tone] += cells.reshape(len(cells), -1)[:, flat]
        return found


@pytest.fixture(scope="session")
def oracles() -> dict[str, Oracle]:
    return {name: Oracle(model) for name, model in tiny_models().items()}


@pytest.fixture(params=sorted(tiny_models()))
def oracle(request: pytest.FixtureRequest, oracles: dict[str, Oracle]) -> Oracle:
    """Each tiny model in turn."""
    found: Oracle = oracles[request.param]
    return found
