"""Resize to sizes that exporters write as the operand's own batch and channels, and numbers for the rest."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tests.server.gradients.control_flow import node, random
from tonescope_server import Explainer
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate

INTS = {"i0": np.array([0]), "i2": np.array([2]), "wanted": np.array([9, 7]), "two": np.array(2), "three": np.array(3)}

# How torch writes F.interpolate(x, size=(9, 7)) with an open batch: its exporter of today, and the one before it.
EXPORTED = [
    node("Shape", "x", "front", start=0, end=2),
    node("Concat", "front wanted", "sizes", axis=0),
]
SCRIPTED = [
    node("Shape", "x", "shape"),
    node("Slice", "shape i0 i2 i0", "front"),
    node("Cast", "wanted", "whole", to=7),
    node("Concat", "front whole", "sizes", axis=0),
]
# F.interpolate(small, size=x.shape[2:]): the skip connection of a U-Net.
SKIP = [
    node("AveragePool", "x", "small", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    node("Shape", "x", "shape"),
    node("Gather", "shape two", "h", axis=0),
    node("Gather", "shape three", "w", axis=0),
    node("Unsqueeze", "h i0", "rows"),
    node("Unsqueeze", "w i0", "columns"),
    node("Concat", "rows columns", "both", axis=0),
    node("Shape", "small", "inner"),
    node("Slice", "inner i0 i2 i0", "front"),
    node("Cast", "both", "whole", to=7),
    node("Concat", "front whole", "sizes", axis=0),
]


def resized(of: str = "x", mode: str = "linear", **attributes) -> onnx.NodeProto:
    return helper.make_node("Resize", [of, "", "", "sizes"], ["y"], mode=mode, **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("before", [EXPORTED, SCRIPTED], ids=["exported", "scripted"])
def test_resize_to_a_size_agrees_with_an_open_batch(agrees, make_case, before, mode):
    agrees(make_case([*before, resized(mode=mode)], (2, 4, 5), INTS), random(2, 2, 4, 5))


def test_resize_to_the_size_of_a_skip_connection_agrees(agrees, make_case):
    last = helper.make_node("Resize", ["small", "", "", "sizes"], ["large"], mode="linear")
    agrees(make_case([*SKIP, last, node("Mul", "x large", "y")], (2, 7, 5), INTS), random(2, 2, 7, 5))


def test_several_windows_get_what_the_static_form_gives_them(make_case):
    x, cotangent = random(3, 2, 4, 5), random(3, 2, 9, 7)

    def gradient(nodes, constants):
        graph = ir.to_proto(differentiate(ir.from_proto(make_case(nodes, (2, 4, 5), constants)), ["x"]))
        return ReferenceEvaluator(graph).run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]

    static = gradient([resized(axes=[2, 3])], {"sizes": np.array([9, 7])})
    np.testing.assert_array_equal(gradient([*EXPORTED, resized()], INTS), static)


def test_every_axis_may_be_open_that_keeps_its_size(make_case):
    """Only the channels, which are known, change; the batch, rows and columns are asked for at run time."""
    nodes = [
        node("Constant", "", "sums", value_ints=[1]),
        node("ReduceSum", "x sums", "one", keepdims=1),  # one channel
        node("Shape", "x", "shape"),
        node("Slice", "shape i0 i1 i0", "batch"),
        node("Slice", "shape i2 i4 i0", "rest"),
        node("Concat", "batch i2 rest", "sizes", axis=0),
        resized(of="one", mode="nearest"),
    ]
    constants = INTS | {"i1": np.array([1]), "i4": np.array([4])}
    graph = ir.to_proto(differentiate(ir.from_proto(make_case(nodes, (2, 4, 5), constants, fixed=False)), ["x"]))
    x, cotangent = random(3, 2, 4, 5), random(3, 2, 4, 5)
    got = ReferenceEvaluator(graph).run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]
    np.testing.assert_allclose(got, np.broadcast_to(cotangent.sum(1, keepdims=True), x.shape), rtol=1e-12)


def test_sizes_that_are_not_the_operands_own_are_refused_by_axis(make_case):
    nodes = [
        node("AveragePool", "x", "small", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "x", "sizes"),
        resized("small"),
    ]
    model = ir.from_proto(make_case(nodes, (2, 4, 5), fixed=False))
    with pytest.raises(UnsupportedOperatorError, match="standard': axis 2 is resized and its size is not static"):
        differentiate(model, ["x"])


def test_an_input_that_is_resized_at_once_has_a_path(make_case, tmp_path):
    """Its points take the place of the batch that the sizes are computed from."""
    nodes = [*EXPORTED, helper.make_node("Resize", ["x", "", "", "sizes"], ["large"], mode="linear")]
    nodes += [node("Mul", "large large", "square"), node("GlobalAveragePool", "square", "mean")]
    nodes += [node("Flatten", "mean", "y")]
    onnx.save(make_case(nodes, (2, 4, 5), INTS, dtype=TensorProto.FLOAT), tmp_path / "m.onnx")
    explainer, x = Explainer.load(tmp_path / "m.onnx"), random(3, 2, 4, 5).astype(np.float32)
    assert explainer.applicability()["integrated_gradients"] == ""
    found = explainer.explain(x, "integrated_gradients", 1)
    # The gradient of a square is linear along the path: the half of it is right wherever it is integrated.
    np.testing.assert_allclose(found.cells, x * explainer.gradient(x, 1) / 2, rtol=1e-4, atol=1e-6)
