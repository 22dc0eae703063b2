"""What is taken for attention, and what is not; how it is followed through methods is in the plugin's own tests."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server.gradients.attention import attention_weights
from tonescope_server.gradients.prepass import infer_shapes

STEPS, WIDTH = 5, 4


def found(nodes, shape=(STEPS, WIDTH), **constants):
    """The weights in a graph, each with the names that it may be asked for by."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return {v.name: names for v, names in attention_weights(infer_shapes(ir.from_proto(proto)).graph).items()}


SCORES = (
    helper.make_node("Transpose", ["x"], ["keys"], perm=[0, 2, 1]),
    helper.make_node("MatMul", ["x", "keys"], ["scores"]),
)
TURNED = SCORES[0]


def softmax(of, axis=-1, name="p"):
    return helper.make_node("Softmax", [of], [name], axis=axis)


def product(a, b):
    return helper.make_node("MatMul", [a, b], ["y"])


def test_a_softmax_between_two_products_is_attention_by_any_of_its_names():
    nodes = [
        *SCORES,
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1, name="node_softmax"),
        helper.make_node("MatMul", ["weights", "x"], ["mixed"], name="node_mix"),
        helper.make_node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1], name="node_turn"),
        helper.make_node("Relu", ["turned"], ["y"], name="node_relu"),
    ]
    expected = ("node_softmax", "weights", "node_mix", "mixed", "node_turn", "turned")
    assert found(nodes) == {"weights": expected}


def test_the_weights_are_those_after_dropout_and_with_the_softmaxs_own_axes():
    nodes = [
        *SCORES,
        helper.make_node("Softmax", ["scores"], ["weights"], axis=2),
        helper.make_node("Dropout", ["weights"], ["kept"]),
        helper.make_node("Unsqueeze", ["kept", "one"], ["wide"]),
        helper.make_node("Unsqueeze", ["x", "one"], ["values"]),
        helper.make_node("MatMul", ["wide", "values"], ["y"]),
    ]
    assert list(found(nodes, one=np.array([1]))) == ["kept"]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([*SCORES, softmax("scores"), product("p", "w")], {"w": np.ones((STEPS, 3), np.float32)}),
        ([*SCORES, softmax("scores", name="y")], {}),
        ([*SCORES, softmax("scores", axis=1), product("p", "x")], {}),
        ([TURNED, softmax("x"), product("p", "keys")], {}),
        ([TURNED, helper.make_node("Relu", ["x"], ["r"]), softmax("r"), product("p", "keys")], {}),
    ],
    ids=["before an affine layer", "that is returned", "over the queries", "of the input", "of no product"],
)
def test_other_softmaxes_are_not_attention(nodes, constants):
    assert found(nodes, **constants) == {}


def test_attention_that_does_not_depend_on_the_input_is_not_listed():
    """Positions that look at positions: nothing of a window is in it."""
    nodes = [
        helper.make_node("MatMul", ["p", "q"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["y"]),
    ]
    p, q = np.ones((1, STEPS, 2), np.float32), np.ones((1, 2, STEPS), np.float32)
    assert found(nodes, p=p, q=q) == {}
