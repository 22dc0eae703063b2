from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from tonescope_server.gradients import differentiate

X = np.random.default_rng(0).standard_normal((2, 4, 5))


def squared(nodes):
    """End a graph in a square, so that each element has a derivative of its own."""
    return [*nodes, helper.make_node("Mul", ["p", "p"], ["y"])]


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize(
    "indices", [np.array(2), np.array([1]), np.array([[0]]), np.array([0, 2, 2, -1]), np.array([[1, 0], [3, 3]])]
)
def test_gather_agrees_for_every_rank_of_indices(agrees, make_case, axis, indices):
    nodes = squared([helper.make_node("Gather", ["x", "i"], ["p"], axis=axis)])
    agrees(make_case(nodes, (4, 5), {"i": indices}), X)


def test_gather_agrees_where_sizes_are_known_at_run_time_only(agrees, make_case):
    nodes = squared([helper.make_node("Gather", ["x", "i"], ["p"], axis=2)])
    agrees(make_case(nodes, (4, 5), {"i": np.array(3)}, fixed=False), X)


def test_gather_elements_agrees_with_repeated_indices(agrees, make_case):
    nodes = [
        helper.make_node("Expand", ["i", "shape_i"], ["all"]),
        helper.make_node("GatherElements", ["x", "all"], ["p"], axis=2),
    ]
    shape = [
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "rest"], ["shape_i"], axis=0),
    ]
    constants = {"i": np.array([[0, 0, 3], [1, 2, 4], [4, 4, 4], [-1, 0, 1]]), "rest": np.array([4, 3])}
    agrees(make_case(squared([*shape, *nodes]), (4, 5), constants), X)


SLICES = {
    "a stretch": ([1], [3], [1], None),
    "two axes": ([1, 0], [4, -1], [1, 2], None),
    "steps": ([0, 1], [4, 5], [1, 2], [2, 3]),
    "backwards": ([-1], [-100], [2], [-2]),
    "past the end": ([2], [2**31], [-1], None),
    "nothing left out": ([0], [2**31], [1], [1]),
}


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("fixed", [True, False])
def test_slice_agrees(agrees, make_case, name, fixed):
    starts, ends, axes, steps = SLICES[name]
    constants = {"s": np.array(starts), "e": np.array(ends), "a": np.array(axes)}
    if steps is not None:
        constants["t"] = np.array(steps)
    nodes = squared([helper.make_node("Slice", ["x", *constants], ["p"])])
    agrees(make_case(nodes, (4, 5), constants, fixed=fixed), X)


def test_split_gives_zeros_to_a_part_that_nothing_used(agrees, make_case):
    nodes = squared([helper.make_node("Split", ["x", "s"], ["a", "p", "c"], axis=2)])
    agrees(make_case(nodes, (4, 5), {"s": np.array([1, 3, 1])}), X)


def test_split_joins_its_parts(agrees, make_case):
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    agrees(make_case(nodes, (4, 5)), X)


def test_expand_sums_what_was_broadcast(agrees, make_case):
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Expand", ["m", "shape"], ["w"]),
        helper.make_node("Mul", ["w", "x"], ["y"]),
    ]
    agrees(make_case(nodes, (4, 5), {"axes": np.array([2]), "shape": np.array([1, 4, 5])}), X)


def test_tile_sums_the_copies(agrees, make_case):
    nodes = squared([helper.make_node("Tile", ["x", "r"], ["t"]), helper.make_node("Mul", ["t", "w"], ["p"])])
    weights = np.random.default_rng(1).standard_normal((1, 8, 15))
    agrees(make_case(nodes, (4, 5), {"r": np.array([1, 2, 3]), "w": weights}), X)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("fixed", [True, False])
def test_pad_agrees_in_every_mode(agrees, make_case, mode, fixed):
    nodes = squared([helper.make_node("Pad", ["x", "a"], ["p"], mode=mode)])
    agrees(make_case(nodes, (4, 5), {"a": np.array([0, 1, 2, 0, 2, 3])}, fixed=fixed, opset=19), X)


def test_a_pad_may_cut(agrees_exactly, make_case):
    node = helper.make_node("Pad", ["x", "a", "", "axes"], ["y"])
    constants = {"a": np.array([-1, 2, 1, -2]), "axes": np.array([1, 2])}
    # ONNX's reference evaluator has no negative padding.
    agrees_exactly(make_case([node], (4, 5), constants, dtype=TensorProto.FLOAT), (4, 5), reference=False)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_sends_the_cotangent_to_where_the_value_was(agrees, make_case, largest):
    nodes = squared([helper.make_node("TopK", ["x", "k"], ["p", "i"], axis=2, largest=largest)])
    agrees(make_case(nodes, (4, 5), {"k": np.array([2])}), X)


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu_keeps_the_same_triangle(agrees, make_case, upper):
    nodes = squared([helper.make_node("Trilu", ["x", "k"], ["p"], upper=upper)])
    agrees(make_case(nodes, (4, 5), {"k": np.array(1)}), X)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_cumulative_sums_agree(agrees, make_case, reverse, exclusive):
    nodes = squared([helper.make_node("CumSum", ["x", "a"], ["p"], reverse=reverse, exclusive=exclusive)])
    agrees(make_case(nodes, (4, 5), {"a": np.array(2)}), X)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_agrees_in_both_orders(agrees, make_case, mode):
    nodes = [
        helper.make_node("DepthToSpace", ["x"], ["d"], blocksize=2, mode=mode),
        helper.make_node("Mul", ["d", "w"], ["y"]),
    ]
    weights = np.random.default_rng(1).standard_normal((1, 2, 4, 6))
    agrees(make_case(nodes, (8, 2, 3), {"w": weights}), np.random.default_rng(2).standard_normal((2, 8, 2, 3)))


def test_space_to_depth_agrees(agrees, make_case):
    nodes = squared([helper.make_node("SpaceToDepth", ["x"], ["p"], blocksize=2)])
    agrees(make_case(nodes, (2, 4, 6)), np.random.default_rng(2).standard_normal((2, 2, 4, 6)))


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [1, 2], [-1]])
def test_other_reductions_agree(agrees, make_case, op_type, keepdims, axes):
    nodes = squared([helper.make_node(op_type, ["x", "a"], ["p"], keepdims=keepdims)])
    agrees(make_case(nodes, (4, 5), {"a": np.array(axes)}), X)


@pytest.mark.parametrize("zeros", [1, 2])
def test_a_product_with_zeros_gives_only_a_lone_zero_its_share(agrees, make_case, zeros):
    x = X.copy()
    x[:, 1, :zeros] = 0
    agrees(make_case([helper.make_node("ReduceProd", ["x", "a"], ["y"])], (4, 5), {"a": np.array([2])}), x)


@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatters_give_to_what_stayed_and_to_what_was_put_in(agrees, make_case, op_type, reduction):
    # The batch goes last, out of the way of the indices.
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
        helper.make_node("Gather", ["t", "zero"], ["row"], axis=0),
        helper.make_node("Sigmoid", ["row"], ["u"]),
    ]
    constants = {"zero": np.array([0]), "i": np.array([[2]])}
    indices, attributes = "i", {}
    if op_type == "ScatterElements":
        nodes += [helper.make_node("Shape", ["u"], ["size"]), helper.make_node("Expand", ["j", "size"], ["all"])]
        constants["j"] = np.array([1, 0, 2, 3, 1]).reshape(1, 5, 1)
        indices, attributes = "all", {"axis": 0}
    nodes += [
        helper.make_node(op_type, ["t", indices, "u"], ["s"], reduction=reduction, **attributes),
        helper.make_node("Transpose", ["s"], ["p"], perm=[2, 0, 1]),
    ]
    agrees(make_case(squared(nodes), (4, 5), constants), X)


@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("known", [True, False])
def test_of_updates_to_one_place_only_the_last_is_left(agrees, make_case, op_type, known):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
        helper.make_node("Gather", ["t", "rows"], ["taken"], axis=0),
        helper.make_node("Sigmoid", ["taken"], ["u"]),
    ]
    where = np.array([1, 3, 1])
    constants = {"rows": np.array([0, 1, 2])}
    if op_type == "ScatterElements":
        nodes += [helper.make_node("Shape", ["u"], ["size"]), helper.make_node("Expand", ["j", "size"], ["i"])]
        constants["j"] = where.reshape(3, 1, 1)
    elif known:
        constants["i"] = where.reshape(3, 1)
    else:
        nodes.append(helper.make_node("Abs", ["j"], ["i"]))
        constants["j"] = -where.reshape(3, 1)
    attributes = {"axis": 0} if op_type == "ScatterElements" else {}
    nodes += [
        helper.make_node(op_type, ["t", "i", "u"], ["s"], **attributes),
        helper.make_node("Transpose", ["s"], ["p"], perm=[2, 0, 1]),
    ]
    agrees(make_case(squared(nodes), (4, 5), constants), X)


@pytest.mark.parametrize("opened", [True, False])
def test_indices_that_are_known_to_differ_cost_nothing_more(make_case, opened):
    """Whose is left is asked for only where two updates may go to one place."""
    places = np.array([[0], [2], [0 if opened else 1]])
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Slice", ["t", "zero", "three", "zero"], ["u"]),
        helper.make_node("ScatterND", ["t", "i", "u"], ["s"]),
        helper.make_node("Transpose", ["s"], ["y"], perm=[1, 0]),
    ]
    constants = {"zero": np.array([0]), "three": np.array([3]), "i": places}
    graph = differentiate(ir.from_proto(make_case(nodes, (4,), constants)), ["x"])
    assert ("Range" in {n.op_type for n in graph.graph}) is opened
