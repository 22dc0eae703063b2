from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tonescope_server.gradients.rules.reduction import SHORT_ROW


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


CASES = {
    "reshape": ([("Reshape", ["x", "c"], {})], np.array([-1, 2, 6])),
    "reshape keeping an axis": ([("Reshape", ["x", "c"], {})], np.array([0, -1])),
    "flatten": ([("Flatten", ["x"], {"axis": 2})], None),
    "transpose": ([("Transpose", ["x"], {"perm": [0, 2, 1]})], None),
    "unsqueeze": ([("Unsqueeze", ["x", "c"], {})], np.array([1, -1])),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_that_moves_elements_agrees(agrees, make_case, name):
    (op_type, inputs, attributes), constant = CASES[name][0][0], CASES[name][1]
    constants = {} if constant is None else {"c": constant}
    nodes = [
        helper.make_node(op_type, inputs, ["moved"], **attributes),
        helper.make_node("Mul", ["moved", "moved"], ["y"]),
    ]
    if name == "flatten":
        # The batch axis is folded away: weigh the elements, so that each still has its own derivative.
        nodes.append(helper.make_node("Reshape", ["y", "back"], ["z"]))
        nodes[-2].output[0], nodes[-1].input[0], nodes[-1].output[0] = "squared", "squared", "y"
        constants["back"] = np.array([-1, 3, 4])
    agrees(make_case(nodes, (3, 4), constants), random(2, 3, 4))


def test_squeeze_agrees_with_axes(agrees, make_case):
    nodes = [helper.make_node("Squeeze", ["x", "c"], ["s"]), helper.make_node("Sigmoid", ["s"], ["y"])]
    agrees(make_case(nodes, (1, 4), {"c": np.array([1])}), random(2, 1, 4))


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("fixed", [True, False])
def test_concat_gives_each_operand_its_own_stretch(agrees, make_case, axis, fixed):
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Concat", ["x", "s", "x"], ["all"], axis=axis),
        helper.make_node("Mul", ["all", "all"], ["y"]),
    ]
    agrees(make_case(nodes, (3, 4), fixed=fixed), random(2, 3, 4))


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [2], [1, 2], [-1]])
@pytest.mark.parametrize("fixed", [True, False])
def test_reductions_agree(agrees, make_case, op_type, keepdims, axes, fixed):
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node(op_type, ["s", "axes"], ["r"], keepdims=keepdims),
        helper.make_node("Mul", ["r", "r"], ["y"]),
    ]
    agrees(make_case(nodes, (3, 4), {"axes": np.array(axes)}, fixed=fixed), random(2, 3, 4))


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("axes", [[2, 3], [3], [1, 3]])
def test_reductions_agree_where_an_axis_has_one_element(agrees, make_case, op_type, axes):
    """A row of a signal that was lifted to two dimensions is all that is reduced there."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node(op_type, ["s", "axes"], ["r"], keepdims=0),
        helper.make_node("Mul", ["r", "r"], ["y"]),
    ]
    agrees(make_case(nodes, (2, 1, 5), {"axes": np.array(axes)}), random(2, 2, 1, 5))


@pytest.mark.parametrize("length", [SHORT_ROW, SHORT_ROW + 1])
def test_short_and_long_rows_agree(agrees, make_case, length):
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["y"]),
    ]
    agrees(make_case(nodes, (2, length), {"axes": np.array([2])}), random(2, 2, length))


def test_a_reduction_over_no_axes_passes_everything_on(agrees, make_case):
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], noop_with_empty_axes=1)]
    agrees(make_case(nodes, (3, 4), {"axes": np.array([], np.int64)}), random(2, 3, 4))


def test_the_gradient_of_a_mean_is_right_where_several_branches_meet(agrees, make_case):
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "axes"], ["variance"], keepdims=1),
        helper.make_node("Div", ["centred", "variance"], ["y"]),
    ]
    agrees(make_case(nodes, (3, 4), {"axes": np.array([2])}), random(2, 3, 4))
