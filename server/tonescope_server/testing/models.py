"""One very small model of each kind that is served. How methods are judged on them is in ``conformance``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.models.loading import MANIFEST, load_model
from tonescope_server.models.model import Model
from tonescope_server.types import FloatArray


@lru_cache(maxsize=1)
def tiny_models() -> Mapping[str, Model]:
    """Return one very small model of each kind that is served, by name; the weights are always the same.

    - ``conv_1d``: 56 tones by 6 frames, some of them null tones, ReLU, two outputs, classes with names, one of which
      was never trained;
    - ``conv_2d``: an image of 1 × 8 × 12, with batch normalisation and max pooling;
    - ``scrambled``: declared 10 × 5 and called tones by frames, but written frame by frame; smooth;
    - ``mlp``: 12 features without frames; smooth, a regression;
    - ``attention``: 5 frames of 10 tones as tokens, two layers of attention in two heads; smooth;
    - ``complex``: 4 frames of I and Q of two antenna links on 56 tones, some of them null tones; smooth.
    """
    makers = {
        "conv_1d": _conv_1d,
        "conv_2d": _conv_2d,
        "scrambled": _scrambled,
        "mlp": _mlp,
        "attention": _attention,
        "complex": _complex,
    }
    return {name: _loaded(name, *make()) for name, make in makers.items()}


def tiny_windows(model: Model, count: int = 5, *, seed: int = 1) -> FloatArray:
    """Return windows that a model takes, normally distributed; the same seed gives the same ones.

    Shapes:
        → (count, *input shape).
    """
    return np.random.default_rng(seed).standard_normal((count, *model.input.shape[1:])).astype(np.float32)


class _Net:
    """Writes one small graph, node by node."""

    def __init__(self, *shape: int, seed: int) -> None:
        self.x = ir.Value(name="csi", shape=ir.Shape(["batch", *shape]), type=ir.TensorType(ir.DataType.FLOAT))
        self.graph = ir.Graph([self.x], [], nodes=[], opset_imports={"": 18}, name="tiny")
        self._tape = ir.tape.Tape(self.graph)
        self._random = np.random.default_rng(seed)

    def op(self, op_type: str, *inputs: ir.Value, name: str | None = None, **attributes: Any) -> ir.Value:
        value = self._tape.op(op_type, inputs, attributes)
        value.name = name or value.name
        return value

    def weights(self, *shape: int) -> ir.Value:
        # Large weights, small biases and chosen seeds: every class is predicted for some windows.
        scale = 2.0 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.05
        return self.constant((scale * self._random.standard_normal(shape)).astype(np.float32))

    def constant(self, array: npt.NDArray[Any]) -> ir.Value:
        return self._tape.initializer(ir.tensor(array, name=f"w{len(self.graph.initializers)}"))

    def dense(self, x: ir.Value, inputs: int, outputs: int, name: str | None = None) -> ir.Value:
        return self.op("Gemm", x, self.weights(outputs, inputs), self.weights(outputs), transB=1, name=name)

    def conv(self, x: ir.Value, *kernel: int, **attributes: Any) -> ir.Value:
        return self.op("Conv", x, self.weights(*kernel), self.weights(kernel[0]), **attributes)

    def attention(self, x: ir.Value, inputs: int, *, steps: int) -> ir.Value:
        """Attend along the first axis in two heads of two: ``(batch, steps, inputs)`` → ``(batch, steps, 4)``."""
        split, joined = (self.constant(np.array(shape)) for shape in ([0, steps, 2, 2], [0, steps, 4]))
        parts = [
            self.op("Reshape", self.op("MatMul", x, self.op("Transpose", self.weights(4, inputs))), split)
            for _ in range(3)
        ]
        turns = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        queries, keys, values = (self.op("Transpose", p, perm=turn) for p, turn in zip(parts, turns, strict=True))
        scores = self.op("Mul", self.op("MatMul", queries, keys), self.constant(np.array(0.25, np.float32)))
        weights = self.op("Softmax", scores, axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", weights, values), perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, joined)

    def model(self, **outputs: tuple[ir.Value, int]) -> ir.Model:
        for name, (value, size) in outputs.items():
            value.name, value.shape = name, ir.Shape(["batch", size])
            value.type = ir.TensorType(ir.DataType.FLOAT)
            self.graph.outputs.append(value)
        return ir.Model(self.graph, ir_version=9)


def _conv_1d() -> tuple[ir.Model, str]:
    net = _Net(56, 6, seed=77)
    hidden = net.op("Relu", net.conv(net.x, 6, 56, 3, pads=[1, 1]), name="hidden")
    deeper = net.op("Relu", net.conv(hidden, 5, 6, 3, pads=[2, 2], dilations=[2]))
    pooled = net.op("ReduceMean", deeper, net.constant(np.array([2])), keepdims=0, name="pooled")
    logits, confidence = net.dense(pooled, 5, 3), net.op("Sigmoid", net.dense(pooled, 5, 1))
    return (
        net.model(count=(logits, 3), confidence=(confidence, 1)),
        """
        input = { cell_order = "tone_frame" }
        tones = { layout = "ruview56" }
        outputs = [
            { name = "count", kind = "logits", class_names = ["none", "one", "many"], trained_classes = [0, 1] },
            { name = "confidence", kind = "regression" },
        ]
        baseline = { value = 0.25 }
    """,
    )


def _conv_2d() -> tuple[ir.Model, str]:
    net = _Net(1, 8, 12, seed=55)
    positive = np.abs(np.random.default_rng(3).standard_normal(4)).astype(np.float32) + 0.5
    convolved = net.conv(net.x, 4, 1, 3, 3, pads=[1, 1, 1, 1], strides=[1, 2])
    scale, variance = net.constant(positive), net.constant(positive[::-1].copy())
    normed = net.op("BatchNormalization", convolved, scale, net.weights(4), net.weights(4), variance)
    pooled = net.op("MaxPool", net.op("Relu", normed), kernel_shape=[2, 2], strides=[2, 2])
    flat = net.op("Flatten", pooled, axis=1)
    return (
        net.model(logits=(net.dense(flat, 48, 3), 3)),
        """
        input = { cell_order = "tone_frame" }
        window = { frames = 12 }
        outputs = [{ name = "logits", kind = "logits" }]
    """,
    )


def _scrambled() -> tuple[ir.Model, str]:
    net = _Net(10, 5, seed=58)
    hidden = net.op("Tanh", net.conv(net.x, 4, 10, 3, pads=[1, 1]))
    pooled = net.op("ReduceMean", hidden, net.constant(np.array([2])), keepdims=0)
    return (
        net.model(logits=(net.dense(pooled, 4, 3), 3)),
        """
        input = { cell_order = "frame_tone" }
        window = { frames = 5 }
        tones = { layout = "unknown_10" }
        outputs = [{ name = "logits", kind = "logits" }]
        baseline = { tones = [0.1, 0.2, 0.3, 0.4, 0.5, -0.1, -0.2, -0.3, -0.4, -0.5] }
    """,
    )


def _mlp() -> tuple[ir.Model, str]:
    net = _Net(12, seed=7)
    hidden = net.op("Tanh", net.dense(net.x, 12, 8))
    gated = net.op("Mul", hidden, net.op("Sigmoid", net.dense(net.x, 12, 8)))
    return (
        net.model(keypoints=(net.dense(gated, 8, 4), 4)),
        """
        input = { cell_order = "feature" }
        outputs = [{ name = "keypoints", kind = "regression" }]
    """,
    )


def _attention() -> tuple[ir.Model, str]:
    net = _Net(5, 10, seed=2)
    first = net.op("Tanh", net.attention(net.x, 10, steps=5))
    second = net.op("Add", first, net.attention(first, 4, steps=5))
    pooled = net.op("ReduceMean", second, net.constant(np.array([1])), keepdims=0)
    return (
        net.model(logits=(net.dense(pooled, 4, 3), 3)),
        """
        input = { cell_order = "frame_tone" }
        window = { frames = 5 }
        tones = { layout = "unknown_10" }
        outputs = [{ name = "logits", kind = "logits" }]
    """,
    )


def _complex() -> tuple[ir.Model, str]:
    net = _Net(2, 4, 2, 56, seed=21)
    flat = net.op("Flatten", net.x, axis=1)
    hidden = net.op("Tanh", net.dense(flat, 896, 6))
    return (
        net.model(logits=(net.dense(hidden, 6, 3), 3)),
        """
        input = { quantity = "complex", links = ["rx0", "rx1"], cell_order = "link_frame_component_tone" }
        tones = { layout = "ruview56", channel = 6 }
        outputs = [{ name = "logits", kind = "logits" }]
    """,
    )


def _loaded(name: str, graph: ir.Model, manifest: str) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        ir.save(graph, path)
        (path.parent / MANIFEST).write_text(manifest.replace("\n        ", "\n"))
        return load_model(path.parent)
