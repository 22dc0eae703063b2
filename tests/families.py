"""Networks of the families that are used on CSI, written as ONNX models by hand: no framework, seeded weights.

Sizes are arguments: tests take them small, measurements as they are in use. Tensors carry names by which another
framework can build the same network. What is checked or measured on them lives elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
CLASSES = 5
Array = npt.NDArray[Any]


class Net:
    """A graph in the making: values are names.

    Attributes:
        shape: of one window.
        tensors: the constants so far.
    """

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.shape = shape
        self.tensors: dict[str, Array] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._random = np.random.default_rng(seed)

    def op(self, op_type: str, *inputs: str | Array, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return its result, or its results where there are several."""
        number = len(self._nodes)
        given = [v if isinstance(v, str) else self.constant(f"{op_type}_{number}_{k}", v) for k, v in enumerate(inputs)]
        made = [f"{op_type.lower()}_{number}_{k}" for k in range(outputs)]
        self._nodes.append(helper.make_node(op_type, given, made, name=f"{op_type}_{number}", **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, name: str, value: Array) -> str:
        """Add a constant."""
        self.tensors[name] = value
        return name

    def weight(self, name: str, *shape: int, fan_in: int, gain: float = 1.0) -> str:
        """Add a random weight that keeps the size of what passes it."""
        drawn = self._random.standard_normal(shape) * gain / math.sqrt(fan_in)
        return self.constant(name, drawn.astype(np.float32))

    def linear(self, x: str, name: str, before: int, after: int) -> str:
        """Add a product along the last axis, and a bias."""
        product = self.op("MatMul", x, self.weight(f"{name}.weight", before, after, fan_in=before))
        return str(self.op("Add", product, self.weight(f"{name}.bias", after, fan_in=10)))

    def conv(
        self, x: str, name: str, before: int, after: int, kernel: Sequence[int], groups: int = 1, **attributes: Any
    ) -> str:
        """Add a convolution with a bias; it keeps the size unless attributes say otherwise."""
        fan_in = before // groups * math.prod(kernel)
        weight = self.weight(f"{name}.weight", after, before // groups, *kernel, fan_in=fan_in, gain=1.4)
        attributes.setdefault("pads", [k // 2 for k in kernel] * 2)
        bias = self.weight(f"{name}.bias", after, fan_in=10)
        return str(self.op("Conv", x, weight, bias, group=groups, kernel_shape=list(kernel), **attributes))

    def normalized(self, x: str, name: str, channels: int) -> str:
        """Add a batch normalisation with statistics of its own."""
        scale, bias, mean = (self.weight(f"{name}.{part}", channels, fan_in=10) for part in ("scale", "bias", "mean"))
        self.tensors[scale] += 1
        variance = self.constant(f"{name}.variance", self._random.uniform(0.5, 2, channels).astype(np.float32))
        return str(self.op("BatchNormalization", x, scale, bias, mean, variance, epsilon=1e-5))

    def layer_normalized(self, x: str, name: str, size: int) -> str:
        """Add a layer normalisation along the last axis."""
        scale, bias = (self.weight(f"{name}.{part}", size, fan_in=10) for part in ("scale", "bias"))
        self.tensors[scale] += 1
        return str(self.op("LayerNormalization", x, scale, bias, axis=-1))

    def recurrent(self, x: str, name: str, op_type: str, inputs: int, hidden: int, *, both: bool = False) -> str:
        """Add a recurrent layer: ``(steps, batch, inputs)`` → ``(steps, batch, hidden)``, twice as wide for both."""
        rows, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type] * hidden, 2 if both else 1
        attributes = {"linear_before_reset": 1} if op_type == "GRU" else {}
        states, _ = self.op(
            op_type,
            x,
            self.weight(f"{name}.w", directions, rows, inputs, fan_in=inputs),
            self.weight(f"{name}.r", directions, rows, hidden, fan_in=hidden),
            self.weight(f"{name}.b", directions, 2 * rows, fan_in=10),
            outputs=2,
            hidden_size=hidden,
            direction="bidirectional" if both else "forward",
            **attributes,
        )
        turned = self.op("Transpose", states, perm=[0, 2, 1, 3])
        return str(self.op("Reshape", turned, np.array([0, 0, directions * hidden])))

    def heads(self, x: str, steps: int, count: int, size: int, *, turned: bool = False) -> str:
        """Split the last axis into heads: ``(batch, heads, steps, size)``, or its last two axes swapped."""
        split = self.op("Reshape", x, np.array([-1, steps, count, size]))
        return str(self.op("Transpose", split, perm=[0, 2, 3, 1] if turned else [0, 2, 1, 3]))

    def encoder_layer(self, x: str, name: str, steps: int, width: int, heads: int, wide: int) -> str:
        """Add a pre-norm layer of a Transformer's encoder."""
        normal = self.layer_normalized(x, f"{name}.norm1", width)
        q, k, v = (self.linear(normal, f"{name}.{part}", width, width) for part in "qkv")
        each = width // heads
        rows, columns = self.heads(q, steps, heads, each), self.heads(k, steps, heads, each, turned=True)
        scores = self.op("Mul", self.op("MatMul", rows, columns), np.float32(1 / math.sqrt(each)))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), self.heads(v, steps, heads, each))
        joined = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), np.array([-1, steps, width]))
        x = self.op("Add", x, self.linear(joined, f"{name}.out", width, width))
        inner = self.linear(self.layer_normalized(x, f"{name}.norm2", width), f"{name}.fc1", width, wide)
        return str(self.op("Add", x, self.linear(self.op("Gelu", inner), f"{name}.fc2", wide, width)))

    def model(self, y: str, opset: int = OPSET) -> onnx.ModelProto:
        """Finish: ``x`` (batch, *shape) → ``logits``."""
        self._nodes.append(helper.make_node("Identity", [y], ["logits"], name="result"))
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *self.shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.tensors.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(made)
        return made


def mlp(inputs: int = 24, hidden: int = 32) -> onnx.ModelProto:
    """LayerNormalization and GELU between three products."""
    net = Net(inputs)
    x = "x"
    for name, before in (("fc1", inputs), ("fc2", hidden)):
        x = net.op("Gelu", net.layer_normalized(net.linear(x, name, before, hidden), f"{name}.norm", hidden))
    return net.model(net.linear(x, "head", hidden, CLASSES))


def count_net(tones: int = 12, frames: int = 10, widths: Sequence[int] = (8, 8, 12)) -> onnx.ModelProto:
    """Three dilated 1-D convolutions, a mean over time, two products."""
    net = Net(tones, frames)
    x, before = "x", tones
    for number, after in enumerate(widths):
        by = 2**number
        x = net.op("Relu", net.conv(x, f"c{number}", before, after, [3], dilations=[by], pads=[by, by]))
        before = after
    pooled = net.op("ReduceMean", x, np.array([2]), keepdims=0)
    return net.model(net.linear(net.op("Relu", net.linear(pooled, "fc1", before, before)), "head", before, CLASSES))


def lenet(size: int = 16) -> onnx.ModelProto:
    """Convolutions, maximum and average pools, then products."""
    net = Net(1, size, size)
    x = net.op("Relu", net.conv("x", "c1", 1, 4, [5, 5]))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("AveragePool", net.op("Tanh", net.conv(x, "c2", 4, 6, [3, 3])), kernel_shape=[2, 2], strides=[2, 2])
    flat = 6 * (size // 4) ** 2
    x = net.op("Relu", net.linear(net.op("Flatten", x), "fc1", flat, 20))
    return net.model(net.linear(x, "head", 20, CLASSES))


def resnet(size: int = 16, widths: Sequence[int] = (4, 6, 8, 8), blocks: int = 2) -> onnx.ModelProto:
    """ResNet-18's plan: a stem with an overlapping pool, then blocks of two convolutions, strided at each new width."""
    net = Net(3, size, size)
    stem = net.conv("x", "stem", 3, widths[0], [3, 3], strides=[2, 2])
    x = net.op("Relu", net.normalized(stem, "stem.bn", widths[0]))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = widths[0]
    for stage, after in enumerate(widths):
        for block in range(blocks):
            x = _residual(net, x, f"s{stage}b{block}", before, after, 2 if stage and not block else 1)
            before = after
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.linear(pooled, "head", before, CLASSES))


def _residual(net: Net, x: str, name: str, before: int, after: int, stride: int) -> str:
    inner = net.conv(x, f"{name}.c1", before, after, [3, 3], strides=[stride, stride])
    inner = net.op("Relu", net.normalized(inner, f"{name}.bn1", after))
    inner = net.normalized(net.conv(inner, f"{name}.c2", after, after, [3, 3]), f"{name}.bn2", after)
    if stride != 1 or before != after:
        skipped = net.conv(x, f"{name}.skip", before, after, [1, 1], strides=[stride, stride])
        x = net.normalized(skipped, f"{name}.bns", after)
    return str(net.op("Relu", net.op("Add", inner, x)))


def depthwise(shape: Sequence[int] = (4, 12, 10), widths: Sequence[int] = (8, 12)) -> onnx.ModelProto:
    """Depthwise and pointwise convolutions in turn, the first of each pair strided, and ReLU6."""
    net = Net(*shape)
    x, before = "x", shape[0]
    for number, after in enumerate(widths):
        for kind, strides in (("down", [2, 2]), ("keep", [1, 1])):
            x = net.conv(x, f"{kind}{number}.depth", before, before, [3, 3], groups=before, strides=strides)
            x = net.op("Clip", x, np.float32(0), np.float32(6))
            x = net.op("Relu", net.conv(x, f"{kind}{number}.point", before, after, [1, 1]))
            before = after
    return net.model(net.linear(net.op("Flatten", net.op("GlobalAveragePool", x)), "head", before, CLASSES))


def recurrent(
    op_type: str, frames: int = 7, tones: int = 10, hidden: int = 8, *, layers: int = 1, both: bool = False
) -> onnx.ModelProto:
    """Recurrent layers over the frames; the head reads the last step."""
    net = Net(frames, tones)
    x, before = net.op("Transpose", "x", perm=[1, 0, 2]), tones
    for layer in range(layers):
        x = net.recurrent(x, f"l{layer}", op_type, before, hidden, both=both)
        before = hidden * (2 if both else 1)
    last = net.op("Gather", x, np.array(-1), axis=0)
    return net.model(net.linear(last, "head", before, CLASSES))


def conv_gru(tones: int = 10, frames: int = 12, hidden: int = 8) -> onnx.ModelProto:
    """A strided 1-D convolution over time, then a GRU."""
    net = Net(tones, frames)
    x = net.op("Relu", net.conv("x", "c1", tones, hidden, [3]))
    x = net.op("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.recurrent(net.op("Transpose", x, perm=[2, 0, 1]), "gru", "GRU", hidden, hidden)
    return net.model(net.linear(net.op("ReduceMean", x, np.array([0]), keepdims=0), "head", hidden, CLASSES))


def transformer(
    steps: int = 6, inputs: int = 10, width: int = 16, heads: int = 4, wide: int = 32, layers: int = 2
) -> onnx.ModelProto:
    """A Transformer's encoder over the frames, pre-norm, its mean classified."""
    net = Net(steps, inputs)
    x = net.op("Add", net.linear("x", "embed", inputs, width), net.weight("position", steps, width, fan_in=10))
    for layer in range(layers):
        x = net.encoder_layer(x, f"l{layer}", steps, width, heads, wide)
    pooled = net.op("ReduceMean", net.layer_normalized(x, "norm", width), np.array([1]), keepdims=0)
    return net.model(net.linear(pooled, "head", width, CLASSES))


def vit(size: int = 12, patch: int = 4, width: int = 16, layers: int = 1) -> onnx.ModelProto:
    """Patches by a strided convolution, a class token put before them, and the encoder; the token is classified."""
    net = Net(1, size, size)
    patches = net.conv("x", "patch", 1, width, [patch, patch], strides=[patch, patch], pads=[0, 0, 0, 0])
    tokens = net.op("Transpose", net.op("Reshape", patches, np.array([0, width, -1])), perm=[0, 2, 1])
    batch = net.op("Slice", net.op("Shape", "x"), np.array([0]), np.array([1]))
    wanted = net.op("Concat", batch, np.array([1, width]), axis=0)
    token = net.op("Expand", net.weight("token", 1, 1, width, fan_in=1), wanted)
    steps = (size // patch) ** 2 + 1
    x = net.op("Concat", token, tokens, axis=1)
    x = net.op("Add", x, net.weight("position", steps, width, fan_in=10))
    for layer in range(layers):
        x = net.encoder_layer(x, f"l{layer}", steps, width, 4, 2 * width)
    return net.model(net.linear(net.op("Gather", x, np.array(0), axis=1), "head", width, CLASSES))


def tcn(tones: int = 8, frames: int = 16, width: int = 8) -> onnx.ModelProto:
    """Causal dilated 1-D convolutions with residual sums: padding on the left only."""
    net = Net(tones, frames)
    x = net.conv("x", "in", tones, width, [1])
    for number in range(3):
        by = 2**number
        padded = net.op("Pad", x, np.array([0, 0, 2 * by, 0, 0, 0]), np.float32(0))
        inner = net.op("Relu", net.conv(padded, f"c{number}", width, width, [3], dilations=[by], pads=[0, 0]))
        x = net.op("Relu", net.op("Add", x, inner))
    last = net.op("Slice", x, np.array([-1]), np.array([2**31]), np.array([2]))
    return net.model(net.linear(net.op("Flatten", last), "head", width, CLASSES))


def unet(size: int = 8, width: int = 4) -> onnx.ModelProto:
    """Down twice and up twice, by ConvTranspose and by Resize, with what was skipped concatenated."""
    net = Net(2, size, size)
    top = net.op("Relu", net.conv("x", "top", 2, width, [3, 3]))
    middle = net.op("MaxPool", top, kernel_shape=[2, 2], strides=[2, 2])
    middle = net.op("Relu", net.conv(middle, "middle", width, 2 * width, [3, 3]))
    bottom = net.op("LeakyRelu", net.conv(middle, "bottom", 2 * width, 2 * width, [3, 3], strides=[2, 2]), alpha=0.1)
    weight = net.weight("up.weight", 2 * width, 2 * width, 2, 2, fan_in=2 * width)
    up = net.op("ConvTranspose", bottom, weight, strides=[2, 2], kernel_shape=[2, 2])
    joined = net.op("Concat", up, middle, axis=1)
    x = net.op("Relu", net.conv(joined, "join1", 4 * width, width, [3, 3]))
    x = net.op("Resize", x, "", np.array([1, 1, 2, 2], np.float32), mode="linear")
    x = net.conv(net.op("Concat", x, top, axis=1), "join2", 2 * width, CLASSES, [3, 3])
    return net.model(net.op("ReduceMean", net.op("Sigmoid", x), np.array([2, 3]), keepdims=0))


FAMILIES: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "mlp": mlp,
    "count_net": count_net,
    "lenet": lenet,
    "resnet": resnet,
    "rnn": lambda: recurrent("RNN"),
    "gru": lambda: recurrent("GRU"),
    "lstm": lambda: recurrent("LSTM"),
    "bilstm": lambda: recurrent("LSTM", both=True, layers=2),
    "conv_gru": conv_gru,
    "vit": vit,
    "transformer": transformer,
    "depthwise": depthwise,
    "tcn": tcn,
    "unet": unet,
}


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same network in float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    unscaled = {node.input[2] for node in wide.graph.node if node.op_type == "Resize"}
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in unscaled:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide
