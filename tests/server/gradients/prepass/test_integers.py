"""Integers that are known beforehand, those that are known in part, and branches that are chosen by them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.server.gradients.control_flow import INT64, branch, model, node, random, session, value
from tonescope_server.gradients.prepass import infer_shapes


def inferred(nodes, shape, constants=None):
    return infer_shapes(ir.from_proto(model(nodes, [value("x", shape)], constants or {})))


def shape_of_y(*arguments):
    (y,) = inferred(*arguments).graph.outputs
    return None if y.shape is None else [d if isinstance(d, int) else d.value for d in y.shape]


def chosen(nodes, shape, constants=None):
    """Return which branch of an If over ``c`` is left: "then", "else", or both where that is not known."""
    graphs = {"then_branch": branch("a", [node("Exp", "x", "t")], ["t"]),
              "else_branch": branch("b", [node("Sin", "x", "e")], ["e"])}  # fmt: skip
    left = {n.op_type for n in inferred([*nodes, node("If", "c", "y", **graphs)], shape, constants).graph}
    return "both" if "If" in left else "then" if "Exp" in left else "else"


SIZES = [node("Shape", "x", "sizes"), node("Gather", "sizes which", "size", axis=0)]


@pytest.mark.parametrize(
    ("which", "expected"), [(0, "both"), (1, "then"), (2, "else"), (-2, "then"), ([1], "then"), ([0], "both")]
)
def test_a_condition_on_one_size_is_known_where_that_size_is(which, expected):
    nodes = [*SIZES, node("Equal", "size one", "c")]
    assert chosen(nodes, ["batch", 1, 5], {"which": np.array(which), "one": np.array(1)}) == expected


def test_arithmetic_with_a_size_that_is_not_known_is_not_known():
    nodes = [*SIZES, node("Less", "size one", "c")]
    assert chosen(nodes, ["batch", 1], {"which": np.array(0), "one": np.array(1)}) == "both"
    nodes = [node("Shape", "x", "sizes"), node("ReduceProd", "sizes", "n", keepdims=0), node("Greater", "n one", "c")]
    assert chosen(nodes, ["batch", 3], {"one": np.array(1)}) == "both"
    assert chosen(nodes, [2, 3], {"one": np.array(1)}) == "then"


def test_two_sizes_that_are_not_known_do_not_pass_for_equal():
    nodes = [
        node("Shape", "x", "sizes"),
        node("Split", "sizes", "a b", axis=0, num_outputs=2),
        node("Equal", "a b", "c"),
    ]
    assert chosen(nodes, ["batch", "frames"]) == "both"
    assert chosen(nodes, [3, 4]) == "else"


def test_logic_over_known_conditions_is_known():
    nodes = [
        *SIZES, node("Equal", "size one", "p"), node("Size", "x", "n"), node("Greater", "n one", "q"),
        node("Not", "q", "r"), node("Or", "p r", "s"), node("Cast", "s", "i", to=INT64), node("Equal", "i one", "c"),
    ]  # fmt: skip
    constants = {"which": np.array(0), "one": np.array(1)}
    assert chosen(nodes, [1, 4], constants) == "then"
    assert chosen(nodes, [2, 4], constants) == "else"


def test_an_index_out_of_range_is_left_to_where_it_runs():
    nodes = [*SIZES, node("Equal", "size one", "c")]
    assert chosen(nodes, [2, 3], {"which": np.array(5), "one": np.array(1)}) == "both"


def test_the_ends_of_an_axis_are_integers_like_others():
    """The smallest int64 stands for "from the first"; it is not a size that nothing is known of."""
    least = np.array([np.iinfo(np.int64).min])
    nodes = [node("Squeeze", "deep axis", "end"), node("Slice", "x last end zero back", "y")]
    constants = {"deep": least[None], "axis": np.array([0]), "last": np.array([-1]), "zero": np.array([0])}
    assert shape_of_y(nodes, [4, 3], constants | {"back": np.array([-1])}) == [4, 3]


def test_a_shape_put_together_from_what_is_known_and_what_is_not_gives_the_rank():
    nodes = [
        node("Shape", "x", "sizes"), node("Slice", "sizes zero one zero", "batch"),
        node("Concat", "batch rest", "shape", axis=0), node("Reshape", "x shape", "y"),
    ]  # fmt: skip
    constants = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([2, 6])}
    found = shape_of_y(nodes, ["batch", 3, 4], constants)
    assert found[1:] == [2, 6]
    assert shape_of_y(nodes, [5, 3, 4], constants) == [5, 2, 6]


def test_constants_from_around_a_branch_give_what_is_in_it_a_shape():
    graphs = {"then_branch": branch("a", [node("Unsqueeze", "x axis", "t")], ["t"]),
              "else_branch": branch("b", [node("Unsqueeze", "x axis", "e")], ["e"])}  # fmt: skip
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "c"), node("If", "c", "y", **graphs)]
    assert shape_of_y(nodes, [2, 3], {"axis": np.array([1]), "zero": np.float64(0)}) == [2, 1, 3]


def test_nothing_that_is_folded_changes_a_result():
    nodes = [
        node("Shape", "x", "sizes"), node("Split", "sizes", "a b", axis=0, num_outputs=2), node("Mul", "a b", "n"),
        node("Range", "zero n0 one", "r"), node("Squeeze", "n", "n0"), node("Cast", "r", "f", to=11),
        node("Reshape", "f sizes", "g"), node("Mul", "x g", "y"),
    ]  # fmt: skip
    nodes[3], nodes[4] = nodes[4], nodes[3]
    proto = model(nodes, [value("x", [2, 3])], {"zero": np.array(0), "one": np.array(1)})
    x = random(2, 3)
    (want,) = session(proto).run(None, {"x": x})
    folded = infer_shapes(ir.from_proto(proto))
    assert {n.op_type for n in folded.graph} == {"Constant", "Cast", "Reshape", "Mul"}
    np.testing.assert_array_equal(session(ir.to_proto(folded)).run(None, {"x": x})[0], want)
