"""What no rule can go back through is refused by name, never answered with zeros or with the cotangent itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate

FLOAT = TensorProto.FLOAT


def model(nodes, shape=(2, 3), constants=None, opset=18):
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


def of_x(op_type, *inputs, outputs=("y",), **attributes):
    """A node after a scalar ``s`` that depends on x."""
    total = helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0)
    return [total, helper.make_node(op_type, inputs, list(outputs), **attributes)]


@pytest.mark.parametrize(
    ("nodes", "constants", "shape", "why"),
    [
        (of_x("Clip", "x", "s"), {}, (2, 3), "bounds"),
        (of_x("Pad", "x", "p", "s"), {"p": [0, 1, 0, 1]}, (2, 3), "constant value"),
        (of_x("DequantizeLinear", "q", "s"), {"q": np.ones(3, np.int8)}, (2, 3), "scale"),
        (of_x("Dropout", "x", "r", "t"), {"r": np.float32(0.5), "t": np.array(True)}, (2, 3), "training_mode"),
        (of_x("LayerNormalization", "x", "w", outputs=["n", "y"]), {"w": np.ones(3, np.float32)}, (2, 3), "Mean"),
    ],
)
def test_operand_or_mode_without_a_rule_is_refused_by_name(nodes, constants, shape, why):
    with pytest.raises(UnsupportedOperatorError, match=rf"{nodes[1].op_type}.*{why}"):
        differentiate(model(nodes, shape, constants), ["x"])


def test_dropout_outside_training_passes_the_gradient_on():
    constants = {"r": np.float32(0.5), "t": np.array(False)}
    graph = differentiate(model([helper.make_node("Dropout", ["x", "r", "t"], ["y"])], constants=constants), ["x"])
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(session.run(["gradient:x"], {"x": x, "cotangent:y": x})[0], x)


@pytest.mark.parametrize("dims", [(2, 3), ("batch", 3), ("batch", "n")])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[0], [0, 1], None])
def test_a_sum_over_the_first_axis_gives_a_gradient_of_the_operands_shape(dims, keepdims, axes):
    constants = {} if axes is None else {"a": axes}
    node = helper.make_node("ReduceSum", ["x"] if axes is None else ["x", "a"], ["y"], keepdims=keepdims)
    graph = differentiate(model([node], dims, constants), ["x"])
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    g = np.asarray(x.sum(None if axes is None else tuple(axes), keepdims=bool(keepdims)) + 1)
    got = session.run(["gradient:x"], {"x": x, "cotangent:y": g})[0]
    np.testing.assert_array_equal(got, np.broadcast_to(g, (2, 3)))


@pytest.mark.parametrize("dims", [(2, 3), ("batch", 3)])
def test_a_first_axis_that_came_from_a_squeeze_is_widened_too(dims):
    nodes = [
        helper.make_node("Unsqueeze", ["x", "zero"], ["u"]),
        helper.make_node("ReduceSum", ["u", "one"], ["y"], keepdims=1),
    ]
    graph = differentiate(model(nodes, dims, {"zero": [0], "one": [1]}), ["x"])
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    g = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    got = session.run(["gradient:x"], {"x": np.ones((2, 3), np.float32), "cotangent:y": g})[0]
    np.testing.assert_array_equal(got, np.broadcast_to(g[0], (2, 3)))


def if_of_x(condition):
    def branch(name, op_type):
        out = helper.make_tensor_value_info(name, FLOAT, None)
        return helper.make_graph([helper.make_node(op_type, ["x"], [name], name=op_type)], name, [], [out])

    return helper.make_node(
        "If", [condition], ["y"], then_branch=branch("a", "Exp"), else_branch=branch("b", "Hardmax")
    )


def test_an_operator_without_a_rule_in_a_branch_is_refused_by_name():
    nodes = [*of_x("Greater", "s", "zero", outputs=["c"]), if_of_x("c")]
    with pytest.raises(UnsupportedOperatorError, match=r"no rule for operator Hardmax \(node 'Hardmax'\)"):
        differentiate(model(nodes, constants={"zero": np.float32(0)}), ["x"])


def test_an_operator_in_a_branch_that_is_never_taken_does_no_harm():
    graph = differentiate(model([if_of_x("c")], constants={"c": np.array(True)}), ["x"])
    assert not {"If", "Hardmax"} & {n.op_type for n in graph.graph.all_nodes()}


def test_an_operator_outside_onnx_is_refused_by_name_although_nothing_says_what_it_makes():
    nodes = [
        helper.make_node("Gelu", ["x"], ["a"], domain="com.microsoft", name="fused"),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, FLOAT, ["b", 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    made = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    with pytest.raises(UnsupportedOperatorError, match=r"'standard'.*com\.microsoft::Gelu \(node 'fused'\)"):
        differentiate(made, ["x"])


def bits_of_x(*between, last="BitCast"):
    """Floats read as integers bit by bit, what works on those, and back."""
    return [
        helper.make_node("BitCast", ["x"], ["n"], name="there", to=TensorProto.INT32),
        *between,
        helper.make_node(last, ["m" if between else "n"], ["y"], name="back", to=FLOAT),
    ]


def in_branches(nodes):
    """An If whose branches both hold these nodes, from ``x`` to ``n``."""
    out = [helper.make_tensor_value_info("n", TensorProto.INT32, None)]
    branches = [helper.make_graph(nodes, f"branch{k}", [], out) for k in range(2)]
    return helper.make_node("If", ["c"], ["m"], name="choice", then_branch=branches[0], else_branch=branches[1])


@pytest.mark.parametrize(
    "nodes",
    [
        bits_of_x(),
        bits_of_x(helper.make_node("BitwiseAnd", ["n", "mask"], ["m"])),
        bits_of_x(helper.make_node("Sub", ["n", "mask"], ["m"]), last="Cast"),
    ],
    ids=["identity", "masked", "read as numbers"],
)
def test_floats_read_as_integers_bit_by_bit_are_refused_by_name(nodes):
    """There and back is the identity, and the path through the integers must not look like a gradient of zero."""
    with pytest.raises(UnsupportedOperatorError, match=r"no rule for operator BitCast \(node 'there'\)"):
        differentiate(model(nodes, constants={"mask": np.int32(-2)}, opset=26), ["x"])


def test_bits_that_leave_a_branch_as_integers_are_refused_by_name():
    choice = in_branches(bits_of_x()[:1])
    nodes = [*of_x("Greater", "s", "zero", outputs=["c"]), choice, helper.make_node("Cast", ["m"], ["y"], to=FLOAT)]
    with pytest.raises(UnsupportedOperatorError, match=r"operator If at node 'choice'"):
        differentiate(model(nodes, constants={"zero": np.float32(0)}, opset=26), ["x"])


BESIDE = [helper.make_node("Mul", ["x", "x"], ["y"])]
FOR_ITS_SIZE = [
    helper.make_node("Shape", ["n"], ["size"]),
    helper.make_node("Mul", ["x", "x"], ["s"]),
    helper.make_node("Reshape", ["s", "size"], ["y"]),
]


@pytest.mark.parametrize("tail", [BESIDE, FOR_ITS_SIZE], ids=["beside", "for its size"])
def test_bits_that_no_result_depends_on_do_no_harm(tail):
    graph = differentiate(model([*bits_of_x()[:1], *tail], opset=26), ["x"])
    assert "gradient:x" in [v.name for v in graph.graph.outputs]


def test_rounding_to_an_integer_by_a_cast_has_no_gradient():
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT32),
        helper.make_node("Cast", ["n"], ["y"], to=FLOAT),
    ]
    session = ort.InferenceSession(ir.to_proto(differentiate(model(nodes), ["x"])).SerializeToString())
    x = np.full((2, 3), 1.5, np.float32)
    assert not session.run(["gradient:x"], {"x": x, "cotangent:y": x})[0].any()
