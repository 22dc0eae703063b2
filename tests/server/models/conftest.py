"""Small weights for every architecture, and the reference runtime to check built graphs with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from safetensors.numpy import save_file

Array = npt.NDArray[np.float32]
Tensors = dict[str, Array]


class Weights:
    """Makes random tensors; the seed is fixed."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)

    def tensor(self, *shape: int) -> Array:
        return (self.random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    def linear(self, prefix: str, inputs: int, outputs: int) -> Tensors:
        return {f"{prefix}.weight": self.tensor(outputs, inputs), f"{prefix}.bias": self.tensor(outputs)}

    def encoder(self, rows: int = 6) -> Tensors:
        tensors: Tensors = {}
        for layer, (inputs, outputs) in enumerate([(rows, 5), (5, 7), (7, 4)], start=1):
            tensors[f"enc.c{layer}.weight"] = self.tensor(outputs, inputs, 3)
            tensors[f"enc.c{layer}.bias"] = self.tensor(outputs)
        return tensors

    def count(self, rows: int = 6) -> Tensors:
        heads = [("count_head.fc1", 4, 8), ("count_head.fc2", 8, 3), ("conf_head.fc1", 4, 9), ("conf_head.fc2", 9, 1)]
        return self.encoder(rows) | {k: v for head in heads for k, v in self.linear(*head).items()}

    def pose(self, rows: int = 6) -> Tensors:
        return self.encoder(rows) | self.linear("head.fc1", 4, 8) | self.linear("head.fc2", 8, 6)

    def adapter(self) -> Tensors:
        shapes = {"fc1.a": (4, 2), "fc1.b": (2, 8), "fc2.a": (8, 3), "fc2.b": (3, 6)}
        return {name: self.tensor(*shape) for name, shape in shapes.items()}

    def residual(self, features: int = 10) -> Tensors:
        tensors = self.linear("fin", features, 8) | self.linear("head", 8, 4)
        for k, inner in enumerate((12, 16)):
            tensors |= {f"blocks.{k}.n.weight": self.tensor(8) + 1, f"blocks.{k}.n.bias": self.tensor(8)}
            tensors |= self.linear(f"blocks.{k}.f1", 8, inner) | self.linear(f"blocks.{k}.f2", inner, 8)
        return tensors | {"norm.weight": self.tensor(8) + 1, "norm.bias": self.tensor(8)}


@pytest.fixture
def weights() -> Weights:
    return Weights()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Tensors], Path]:
    """Write tensors to a safetensors file in the test's own folder."""

    def write_file(name: str, tensors: Tensors) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        return path

    return write_file


@pytest.fixture
def run() -> Callable[..., dict[str, Array]]:
    """Run a graph in the reference runtime and return its outputs by name."""

    def run_graph(graph: ir.Model, x: Array, names: Sequence[str] | None = None) -> dict[str, Array]:
        proto = ir.to_proto(graph)
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()] if names is None else list(names)
        return dict(zip(outputs, session.run(outputs, {session.get_inputs()[0].name: x}), strict=True))

    return run_graph


@pytest.fixture
def save_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Write a one-input ONNX model from nodes and initializers."""

    def save(
        name: str,
        nodes: Sequence[onnx.NodeProto],
        initializers: dict[str, npt.NDArray[np.generic]],
        *,
        shape: Sequence[int | str] = ("batch", 4, 5),
        outputs: Sequence[str] = ("logits",),
        inputs: Sequence[onnx.ValueInfoProto] | None = None,
        opset: int = 18,
        output_shape: Sequence[int | str] | None = None,
        change: Callable[[onnx.ModelProto], None] | None = None,
    ) -> Path:
        given = inputs or [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)]
        results = [onnx.helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, output_shape) for o in outputs]
        tensors = [onnx.numpy_helper.from_array(array, key) for key, array in initializers.items()]
        graph = onnx.helper.make_graph(list(nodes), "g", list(given), results, tensors)
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
        if change:
            change(proto)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(proto.SerializeToString())
        return path

    return save
