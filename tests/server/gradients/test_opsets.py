"""The same networks, written as each opset writes them, have the gradient of the newest form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer, Target
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate

Array = npt.NDArray[Any]
OLDEST, NEWEST = 7, onnx.defs.onnx_opset_version()
ORACLE = 26
"""In whose form a gradient is compared with: the newest that ONNX Runtime 1.31 takes without conversion."""


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Writer:
    """Writes one network in the form of one opset."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def op(self, op_type: str, *inputs: str | Array, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return its result, or its results where there are several."""
        names = [v if isinstance(v, str) else self._constant(np.asarray(v)) for v in inputs]
        made = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op_type, names, made, name=f"n{len(self.nodes)}", **attributes))
        return made[0] if outputs == 1 else made

    def moved(self, op_type: str, x: str, since: int, attributes: dict[str, Any], **always: Any) -> Any:
        """Add a node whose attributes became inputs, in this order, in opset ``since``."""
        if self.opset < since:
            return self.op(op_type, x, **attributes, **always)
        return self.op(op_type, x, *(np.asarray(v) for v in attributes.values()), **always)

    def model(self, x: str, size: int, shape: Sequence[int]) -> onnx.ModelProto:
        """Return the model: three sums of squares of ``x``, each element with a weight of its own."""
        flat = self.op("Reshape", x, np.array([-1, size]))
        bias = np.zeros(3, np.float32)  # required of a Gemm before opset 11
        self.op("Gemm", self.op("Mul", flat, flat), random(size, 3, seed=9), bias)
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "family",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8 if self.opset < 21 else 10)

    def _constant(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name


Family = Callable[[Writer], tuple[str, int, Sequence[int]]]
"""Writes a network; returns its last value, that value's size, and the input's shape."""


def softmax(w: Writer) -> tuple[str, int, Sequence[int]]:
    if w.opset < 13:  # over everything from the axis on
        x = w.op("Softmax", "x", axis=1)
    else:
        flat = w.op("Softmax", w.op("Reshape", "x", np.array([-1, 12])), axis=-1)
        x = w.op("Reshape", flat, np.array([-1, 3, 4]))
    x = w.op("Mul", x, np.float32(7))
    return w.op("Add", w.op("Softmax", x, axis=2), w.op("LogSoftmax", x, axis=2)), 12, (3, 4)


def reductions(w: Writer) -> tuple[str, int, Sequence[int]]:
    by_row = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")
    parts = [w.moved("ReduceSum", "x", 13, {"axes": [2]}, keepdims=1)]
    parts += [w.moved(op_type, "x", 18, {"axes": [1]}, keepdims=1) for op_type in by_row]
    parts += [w.moved(o, "x", 18, {"axes": [1, 2]}, keepdims=1) for o in ("ReduceProd", "ReduceLogSumExp")]
    x = "x"
    for part in parts:
        x = w.op("Add", x, part)
    return x, 12, (3, 4)


def squeezes(w: Writer) -> tuple[str, int, Sequence[int]]:
    wide = w.moved("Unsqueeze", "x", 13, {"axes": [1]})
    return w.moved("Squeeze", w.op("Sigmoid", wide), 13, {"axes": [1]}), 12, (3, 4)


def splits(w: Writer) -> tuple[str, int, Sequence[int]]:
    _, right = w.moved("Split", "x", 13, {"split": [1, 2]}, axis=1, outputs=2)
    halves = {"num_outputs": 2} if w.opset >= 18 else {}
    a, b = w.op("Split", right, axis=2, outputs=2, **halves)
    return w.op("Mul", a, w.op("Tanh", b)), 4, (3, 4)


def slices(w: Writer) -> tuple[str, int, Sequence[int]]:
    cut = w.moved("Slice", "x", 10, {"starts": [1, 0], "ends": [3, 3], "axes": [1, 2]})
    return w.op("Transpose", cut, perm=[0, 2, 1]), 6, (3, 4)


def pads(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.op("Sigmoid", "x")
    for mode in ("constant", "edge", "reflect"):
        x = w.moved("Pad", x, 11, {"pads": [0, 1, 0, 0, 0, 1]}, mode=mode)
    if w.opset >= 19:
        return w.op("Pad", x, np.array([1, 0]), "", np.array([2]), mode="wrap"), 48, (3, 4)
    first = w.moved("Slice", x, 10, {"starts": [-1], "ends": [100], "axes": [2]})
    return w.op("Concat", first, x, axis=2), 48, (3, 4)


def resizes(w: Writer) -> tuple[str, int, Sequence[int]]:
    scales = np.array([1, 1, 2, 2], np.float32)
    if w.opset < 9:
        return w.op("Upsample", "x", mode="nearest", scales=scales.tolist()), 48, (2, 2, 3)
    if w.opset < 11:
        return w.op("Upsample" if w.opset == 9 else "Resize", "x", scales, mode="nearest"), 48, (2, 2, 3)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if w.opset < 13:
        return w.op("Resize", "x", np.zeros(0, np.float32), scales, **how), 48, (2, 2, 3)
    if w.opset < 18:
        return w.op("Resize", "x", "", scales, **how), 48, (2, 2, 3)
    return w.op("Resize", "x", "", "", np.array([4, 6]), axes=[2, 3], **how), 48, (2, 2, 3)


def linear_resizes(w: Writer) -> tuple[str, int, Sequence[int]]:
    none = np.zeros(0, np.float32) if w.opset < 13 else ""
    x = w.op("Resize", "x", none, np.array([1, 1, 1.5, 2], np.float32), mode="linear")
    return x, 2 * 6 * 6, (2, 4, 3)


def normalisations(w: Writer) -> tuple[str, int, Sequence[int]]:
    statistics = [random(2, seed=2), random(2, seed=3), random(2, seed=4), np.abs(random(2, seed=5)) + 1]
    old = {"spatial": 1} if w.opset < 9 else {}
    x = w.op("BatchNormalization", "x", *statistics, **old)
    x = w.op("InstanceNormalization", x, random(2, seed=6), random(2, seed=7))
    x = w.op("LRN", x, size=3, alpha=0.3)
    return w.op("LpNormalization", x, axis=1), 12, (2, 2, 3)


def layer_normalisation(w: Writer) -> tuple[str, int, Sequence[int]]:
    scale, bias = random(4, seed=2), random(4, seed=3)
    if w.opset >= 17:
        return w.op("LayerNormalization", "x", scale, bias, epsilon=1e-3), 12, (3, 4)
    c = w.op("Sub", "x", w.op("ReduceMean", "x", axes=[2], keepdims=1))
    variance = w.op("ReduceMean", w.op("Mul", c, c), axes=[2], keepdims=1)
    unit = w.op("Div", c, w.op("Sqrt", w.op("Add", variance, np.float32(1e-3))))
    return w.op("Add", w.op("Mul", unit, scale), bias), 12, (3, 4)


def group_normalisation(w: Writer) -> tuple[str, int, Sequence[int]]:
    scale, bias = random(2, seed=2), random(2, seed=3)
    if w.opset in (18, 19, 20):  # one scale a group, in those days
        return w.op("GroupNormalization", "x", scale, bias, num_groups=2, epsilon=1e-3), 24, (6, 4)
    each = np.repeat(scale, 3), np.repeat(bias, 3)
    if w.opset > 20:
        return w.op("GroupNormalization", "x", *each, num_groups=2, epsilon=1e-3), 24, (6, 4)
    groups = w.op("Reshape", "x", np.array([0, 2, -1]))
    unit = w.op("InstanceNormalization", groups, np.ones(2, np.float32), np.zeros(2, np.float32), epsilon=1e-3)
    back = w.op("Reshape", unit, np.array([0, 6, 4]))
    return w.op("Add", w.op("Mul", back, each[0][:, None]), each[1][:, None]), 24, (6, 4)


def rms_normalisation(w: Writer) -> tuple[str, int, Sequence[int]]:
    if w.opset >= 23:
        return w.op("RMSNormalization", "x", random(4, seed=2), epsilon=1e-3), 12, (3, 4)
    mean = w.moved("ReduceMean", w.op("Mul", "x", "x"), 18, {"axes": [2]}, keepdims=1)
    unit = w.op("Div", "x", w.op("Sqrt", w.op("Add", mean, np.float32(1e-3))))
    return w.op("Mul", unit, random(4, seed=2)), 12, (3, 4)


def pools(w: Writer) -> tuple[str, int, Sequence[int]]:
    ceil = {"ceil_mode": 1} if w.opset >= 10 else {}  # what the last window adds is cut off again
    x = w.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0], **ceil)
    y = w.op("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)
    y = w.moved("Slice", y, 10, {"starts": [0, 0], "ends": [2, 2], "axes": [2, 3]})
    x = w.moved("Slice", x, 10, {"starts": [0, 0], "ends": [2, 2], "axes": [2, 3]})
    x = w.op("Concat", x, y, axis=1)
    pooled = w.op("Add", w.op("GlobalMaxPool", x), w.op("GlobalAveragePool", x))
    return w.op("Mul", x, pooled), 16, (2, 4, 4)


def dilated_pools(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.op("MaxPool", "x", kernel_shape=[2], dilations=[2])
    if w.opset >= 19:
        return w.op("AveragePool", x, kernel_shape=[2], dilations=[2]), 12, (2, 10)
    picked = w.op("Conv", x, np.array([0.5, 0, 0.5], np.float32)[None, None].repeat(2, 0), group=2)
    return picked, 12, (2, 10)


def convolutions(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.op("Conv", "x", random(4, 1, 3, seed=2), random(4, seed=3), group=2, pads=[1, 1], strides=[2])
    return w.op("ConvTranspose", x, random(4, 2, 2, seed=4), strides=[2]), 16, (2, 8)


def activations(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.moved("Clip", "x", 11, {"min": np.float32(-1.5), "max": np.float32(1.5)})
    x = total = w.op("PRelu", x, np.array([0.3], np.float32))
    for op_type in ("LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "Tanh", "Exp"):
        total = w.op("Add", total, w.op(op_type, x))
    return w.op("Sub", total, w.op("Neg", w.op("Sqrt", w.op("Abs", x)))), 12, (3, 4)


def newer_activations(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.op("Celu", "x", alpha=0.7)
    by_hand = w.op("Mul", x, w.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    x = w.op("HardSwish", x) if w.opset >= 14 else by_hand
    if w.opset >= 20:
        x = w.op("Gelu", x)
    else:
        half = w.op("Add", w.op("Erf", w.op("Mul", x, np.float32(0.5**0.5))), np.float32(1))
        x = w.op("Mul", w.op("Mul", x, half), np.float32(0.5))
    if w.opset >= 24:
        return w.op("Swish", x, alpha=1.5), 12, (3, 4)
    return w.op("Mul", x, w.op("Sigmoid", w.op("Mul", x, np.float32(1.5)))), 12, (3, 4)


def picks(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.op("Gather", "x", np.array([2, 0, 2]), axis=2)
    if w.opset >= 11:
        best, _ = w.op("TopK", x, np.array([2]), axis=2, largest=0, outputs=2)
        best = w.op("CumSum", best, np.array(1))
    elif w.opset >= 10:
        best, _ = w.op("TopK", w.op("Neg", x), np.array([2]), axis=2, outputs=2)
        best = _cumulated(w, w.op("Neg", best))
    else:
        best, _ = w.op("TopK", w.op("Neg", x), axis=2, k=2, outputs=2)
        best = _cumulated(w, w.op("Neg", best))
    return w.op("Concat", best, "x", axis=2), 18, (3, 4)


def _cumulated(w: Writer, x: str) -> Any:
    return w.op("MatMul", np.tril(np.ones((3, 3), np.float32)), x)


def scatters(w: Writer) -> tuple[str, int, Sequence[int]]:
    turned = w.op("Transpose", "x", perm=[1, 2, 0])
    row = w.op("GatherND", turned, np.array([[1], [0]]))
    mixed = w.op("ScatterND", turned, np.array([[2], [1]]), w.op("Sigmoid", row))
    return w.op("Transpose", mixed, perm=[2, 0, 1]), 12, (3, 4)


def moved_blocks(w: Writer) -> tuple[str, int, Sequence[int]]:
    order = {"mode": "DCR"} if w.opset >= 11 else {}
    x = w.op("DepthToSpace", "x", blocksize=2, **order)
    return w.op("SpaceToDepth", w.op("Tanh", x), blocksize=2), 16, (4, 2, 2)


def casts_and_choices(w: Writer) -> tuple[str, int, Sequence[int]]:
    wide = w.op("Cast", "x", to=TensorProto.DOUBLE)
    how = {"saturate": 1} if w.opset >= 19 else {}
    x = w.op("Cast", w.op("Mul", wide, wide), to=TensorProto.FLOAT, **how)
    kept = w.op("Dropout", x)
    largest = w.op("Max", kept, "x", w.op("Min", x, np.float32(0.3)))
    if w.opset >= 9:
        largest = w.op("Where", w.op("Greater", "x", np.zeros(1, np.float32)), largest, w.op("Pow", "x", np.float32(3)))
    else:
        mask = w.op("Cast", w.op("Greater", "x", np.zeros(1, np.float32)), to=TensorProto.FLOAT)
        other = w.op("Mul", w.op("Sub", np.float32(1), mask), w.op("Pow", "x", np.float32(3)))
        largest = w.op("Add", w.op("Mul", mask, largest), other)
    return largest, 12, (3, 4)


def reshapes(w: Writer) -> tuple[str, int, Sequence[int]]:
    strict = {"allowzero": 1} if w.opset >= 14 else {}
    x = w.op("Reshape", w.op("Flatten", "x", axis=1), np.array([-1, 6, 2]), **strict)
    x = w.op("Reshape", w.op("Sigmoid", x), np.array([0, 2, -1]))
    wide = w.op("Expand", w.op("Identity", x), np.array([1, 2, 6])) if w.opset >= 8 else w.op("Identity", x)
    return w.op("Tile", wide, np.array([1, 1, 2])), 24, (3, 4)


def products(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.op("MatMul", "x", random(4, 3, seed=2))
    if w.opset >= 12:
        return w.op("Einsum", x, "x", equation="bij,bik->bjk"), 12, (3, 4)
    return w.op("MatMul", w.op("Transpose", x, perm=[0, 2, 1]), "x"), 12, (3, 4)


def attention(w: Writer) -> tuple[str, int, Sequence[int]]:
    if w.opset >= 23:
        return w.op("Attention", "x", "x", "x", scale=0.5), 24, (2, 3, 4)
    scores = w.op("Mul", w.op("MatMul", "x", w.op("Transpose", "x", perm=[0, 1, 3, 2])), np.float32(0.5))
    return w.op("MatMul", w.op("Softmax", scores, axis=3), "x"), 24, (2, 3, 4)


def recurrent_layers(w: Writer) -> tuple[str, int, Sequence[int]]:
    x = w.op("Transpose", "x", perm=[1, 0, 2])
    for number, (op_type, gates) in enumerate((("LSTM", 4), ("GRU", 3), ("RNN", 1))):
        weights = [random(1, gates * 3, 3, seed=number + k) for k in (2, 5)]
        states = w.op(op_type, x, *weights, random(1, gates * 6, seed=number), hidden_size=3)
        x = w.moved("Squeeze", states, 13, {"axes": [1]})
    return w.op("Transpose", x, perm=[1, 0, 2]), 12, (4, 3)


def quantised(w: Writer) -> tuple[str, int, Sequence[int]]:
    per_channel = w.opset >= 13
    scale = np.array([0.05, 0.02, 0.03], np.float32) if per_channel else np.float32(0.05)
    zero = np.array([3, 0, -3], np.int8) if per_channel else np.int8(3)
    axis = {"axis": 1} if per_channel else {}
    levels = w.op("QuantizeLinear", "x", scale, zero, **axis)
    return w.op("DequantizeLinear", levels, scale, zero, **axis), 12, (3, 4)


SINCE: dict[Family, int] = {
    linear_resizes: 11, dilated_pools: 10, newer_activations: 12, scatters: 11, quantised: 13,
}  # fmt: skip
"""The first opset in which a family can be written at all."""
FAMILIES: tuple[Family, ...] = (
    softmax, reductions, squeezes, splits, slices, pads, resizes, linear_resizes, normalisations, layer_normalisation,
    group_normalisation, rms_normalisation, pools, dilated_pools, convolutions, activations, newer_activations, picks,
    scatters, moved_blocks, casts_and_choices, reshapes, products, attention, recurrent_layers, quantised,
)  # fmt: skip


def gradient(family: Family, opset: int, folder: Path) -> Array:
    writer = Writer(opset)
    x, size, shape = family(writer)
    path = folder / f"{family.__name__}_{opset}.onnx"
    onnx.save(writer.model(x, size, shape), path)
    return Explainer.load(path).gradient(random(2, *shape, seed=1), Target.element(1))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_opset_gives_the_gradient_of_the_newest_form(family, tmp_path):
    want = gradient(family, ORACLE, tmp_path)
    assert np.abs(want).max() > 1e-3
    for opset in range(SINCE.get(family, OLDEST), NEWEST + 1):
        got = gradient(family, opset, tmp_path)
        # The same function in other operators: float32 rounds it otherwise, by some ten units in the last place.
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0, err_msg=f"opset {opset}")


def one_node(folder: Path, opset: int, op_type: str, inputs: int = 1, **attributes: Any) -> Path:
    node = helper.make_node(op_type, ["x"] * inputs, ["y"], name="the_node", **attributes)
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 2, 2])]
    graph = helper.make_graph([node], "one", info, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, folder / "one.onnx")
    return folder / "one.onnx"


def test_an_operator_newer_than_the_runtime_is_spelled_out(tmp_path):
    x = random(2, 4, 2, 2)
    got = Explainer.load(one_node(tmp_path, 28, "SwiGLU", 2)).gradient(x, Target.element(0))
    gate = 1 / (1 + np.exp(-x))
    want = np.zeros_like(x)
    want[:, 0, 0, 0] = (2 * x * gate + x * x * gate * (1 - gate))[:, 0, 0, 0]  # of x²·sigmoid x
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("opset", [24, 25, 26, 27, 28])
def test_an_operator_that_the_runtime_lacks_predicts_too(tmp_path, opset):
    x = random(2, 4, 2, 2)
    explainer = Explainer.load(one_node(tmp_path, opset, "Swish", alpha=1.5))
    (got,) = explainer.predict(x).outputs.values()
    np.testing.assert_allclose(got, x / (1 + np.exp(-1.5 * x)), atol=1e-6)


@pytest.mark.parametrize(
    ("opset", "op_type", "inputs", "attributes", "why"),
    [
        (28, "SpaceToDepth", 1, {"blocksize": 2, "mode": "CRD"}, "DCR"),
        (28, "Mod", 2, {"fmod": 0}, "Mod"),
        (6, "Dropout", 1, {"is_test": 0}, "is_test|Dropout|Attribute"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_opset(tmp_path, opset, op_type, inputs, attributes, why):
    with pytest.raises(
        UnsupportedOperatorError, match=rf"one\.onnx: opset {opset} cannot be converted to \d+: .*({why})"
    ):
        Explainer.load(one_node(tmp_path, opset, op_type, inputs, **attributes))


def test_a_graph_of_an_older_opset_is_not_differentiated_as_if_it_were_newer():
    """Axes were attributes before 18: rules would not see them, and sum over everything."""
    writer = Writer(17)
    x, size, shape = reductions(writer)
    with pytest.raises(UnsupportedOperatorError, match="opset 17: expected 18 or newer"):
        differentiate(ir.from_proto(writer.model(x, size, shape)), ["x"])


def in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same network in float16, but for the scales of a Resize, which have no other type than float32."""
    scales = {name for node in model.graph.node if node.op_type == "Resize" for name in node.input[1:3]}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    return model


# Celu has no form in float16 before opset 28.
@pytest.mark.parametrize("family", [f for f in FAMILIES if f is not newer_activations], ids=lambda f: f.__name__)
def test_every_family_is_differentiated_in_float16(family):
    found = []
    for dtype in (np.float32, np.float16):
        writer = Writer(ORACLE)
        x, size, shape = family(writer)
        for name, value in writer.constants.items():
            if value.dtype == np.float32:
                writer.constants[name] = value.astype(np.float16).astype(np.float32)
        model = writer.model(x, size, shape)
        graph = differentiate(ir.from_proto(in_float16(model) if dtype == np.float16 else model), ["x"])
        # ONNX Runtime 1.31 crashes at load on some recursions in float16 where MatMuls are fused with Transposes.
        session = ort.InferenceSession(
            ir.to_proto(graph).SerializeToString(), disabled_optimizers=["MatmulTransposeFusion"]
        )
        feeds = {"x": random(2, *shape, seed=1), "cotangent:y": random(2, 3, seed=2)}
        (got,) = session.run(["gradient:x"], {k: v.astype(np.float16).astype(dtype) for k, v in feeds.items()})
        assert got.dtype == dtype
        found.append(got.astype(np.float32))
    exact, half = found
    # Some ten to thirty roundings to 11 bits in a row, and values of up to 10² that cancel.
    assert np.linalg.norm(half - exact) < 1e-2 * np.linalg.norm(exact)
