"""What architectures share: checking named tensors against a table, and emitting layers by name.

No architecture is described here, and no file is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.errors import CorruptWeightsError, TensorMismatchError
from tonescope_server.models.architectures import FloatTensors, Tensors

OPSET = 18
# The oldest IR version that goes with opset 18, so that exported graphs run on older runtimes too.
IR_VERSION = 8

MOST_FAULTS = 12
"""How many tensors one message names."""

Shape = tuple[int | str, ...]


def check_tensors(owner: str, tensors: Tensors, expected: Mapping[str, Shape]) -> dict[str, int]:
    """Check every tensor against a table and return the sizes the table left open.

    Args:
        owner: what the tensors belong to; it opens the message.
        tensors: what the file holds.
        expected: a shape by tensor name. A word stands for a size: the first tensor of the table that has
            it decides, and the later ones must agree.

    Raises:
        TensorMismatchError: names every tensor that is missing, extra or mis-shaped.
        CorruptWeightsError: a weight is NaN or infinite.
    """
    sizes: dict[str, int] = {}
    missing = [name for name in expected if name not in tensors]
    faults = [f"missing {name}" for name in missing]
    faults += [f"extra {name} {_text(tensors[name].shape)}" for name in tensors if name not in expected]
    for name, shape in expected.items():
        if name in tensors and not _agrees(tensors[name].shape, shape, sizes):
            wanted = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in shape)
            faults.append(f"{name}: expected {_text(wanted)}, got {_text(tensors[name].shape)}")
    if faults:
        more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise TensorMismatchError(f"{owner}: {'; '.join(faults[:MOST_FAULTS])}{more}")
    for name in expected:
        if not np.isfinite(tensors[name]).all():
            raise CorruptWeightsError(f"{owner}: {name} holds NaN or infinity")
    return sizes


def _text(shape: Sequence[int | str]) -> str:
    return f"({', '.join(str(size) for size in shape)})"


def _agrees(got: tuple[int, ...], shape: Shape, sizes: dict[str, int]) -> bool:
    if len(got) != len(shape):
        return False
    bound = dict(sizes)
    for size, wanted in zip(got, shape, strict=True):
        if size < 1 or size != (bound.setdefault(wanted, size) if isinstance(wanted, str) else wanted):
            return False
    sizes.update(bound)
    return True


def linear_shapes(prefix: str, inputs: int | str, outputs: int | str) -> dict[str, Shape]:
    """Return the table rows of one linear layer, weights ``(outputs, inputs)``."""
    return {f"{prefix}.weight": (outputs, inputs), f"{prefix}.bias": (outputs,)}


class LayerTape:
    """A graph under construction: each call emits one layer and names its output.

    Layers keep the names of their tensors as initializers, so that a graph and its weights file can be laid
    side by side.
    """

    def __init__(self, tensors: FloatTensors) -> None:
        self._tape = ir.tape.Tape()
        self._tensors = tensors
        self._initializers: dict[str, ir.Value] = {}

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Return the initializer of that name, made at its first use."""
        if name not in self._initializers:
            self._initializers[name] = self._tape.initializer(ir.tensor(array, name=name))
        return self._initializers[name]

    def op(self, op_type: str, inputs: Sequence[ir.Value], output: str, **attributes: Any) -> ir.Value:
        """Emit one node whose only output is called ``output``."""
        value = ir.Value(name=output, type=ir.TensorType(ir.DataType.FLOAT))
        return self._tape.op(op_type, inputs, attributes, output=value, name=f"{op_type}_{output}")

    def _weights(self, prefix: str) -> list[ir.Value]:
        names = (f"{prefix}.weight", f"{prefix}.bias")
        return [self.constant(name, self._tensors[name]) for name in names]

    def conv1d(self, x: ir.Value, prefix: str, output: str, dilation: int = 1) -> ir.Value:
        """Emit a 1-D convolution that keeps the length: odd kernel, stride 1, pads on both sides alike."""
        kernel = self._tensors[f"{prefix}.weight"].shape[2]
        pad = dilation * (kernel - 1) // 2
        return self.op(
            "Conv",
            [x, *self._weights(prefix)],
            output,
            kernel_shape=[kernel],
            dilations=[dilation],
            pads=[pad, pad],
            strides=[1],
            group=1,
        )

    def linear(self, x: ir.Value, prefix: str, output: str) -> ir.Value:
        """Emit ``x · weightᵀ + bias``."""
        return self.op("Gemm", [x, *self._weights(prefix)], output, transB=1)

    def layer_norm(self, x: ir.Value, prefix: str, output: str, epsilon: float = 1e-5) -> ir.Value:
        """Emit a layer normalisation over the last axis."""
        return self.op("LayerNormalization", [x, *self._weights(prefix)], output, axis=-1, epsilon=epsilon)

    def gelu(self, x: ir.Value, output: str) -> ir.Value:
        """Emit the exact GELU, ``x · (1 + erf(x/√2)) / 2``; opset 18 has no node of that name."""
        root = self.constant("sqrt_two", np.asarray(np.sqrt(2.0), np.float32))
        one = self.constant("one", np.asarray(1.0, np.float32))
        half = self.constant("half", np.asarray(0.5, np.float32))
        erf = self.op("Erf", [self.op("Div", [x, root], f"{output}_scaled")], f"{output}_erf")
        gate = self.op("Mul", [half, self.op("Add", [erf, one], f"{output}_erf1")], f"{output}_gate")
        return self.op("Mul", [x, gate], output)

    def model(self, name: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
        """Close the graph."""
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="tonescope")


def window_input(name: str, *shape: int) -> ir.Value:
    """Return a float32 graph input with a symbolic batch axis in front of ``shape``."""
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", *shape]))
