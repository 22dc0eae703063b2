from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tonescope_server.gradients import differentiate


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [(), (4,), (1, 4), None])
def test_gemm_agrees_for_every_transposition_and_bias(agrees, make_case, trans_a, trans_b, bias):
    # The batch stays the first axis of x; transA gets it transposed.
    nodes = [helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0])] if trans_a else []
    constants = {"w": random(*((4, 3) if trans_b else (3, 4)), seed=1)}
    names = ["a" if trans_a else "x", "w"]
    if bias is not None:
        constants["c"] = random(*bias, seed=2)
        names.append("c")
    nodes.append(helper.make_node("Gemm", names, ["y"], transA=trans_a, transB=trans_b, alpha=0.7, beta=1.3))
    agrees(make_case(nodes, (3,), constants), random(2, 3))


def test_gemm_differentiates_its_second_matrix_and_its_bias(make_case):
    nodes = [
        helper.make_node("Reshape", ["x", "matrix"], ["b"]),
        helper.make_node("ReduceSum", ["b", "first"], ["c"], keepdims=1),
        helper.make_node("Reshape", ["c", "row"], ["c_row"]),
        helper.make_node("Gemm", ["a", "b", "c_row"], ["z"], transB=1, alpha=0.5, beta=2.0),
        helper.make_node("Reshape", ["z", "flat"], ["y"]),
    ]
    constants = {
        "a": random(2, 3, seed=3),
        "matrix": np.array([4, 3]),
        "first": np.array([1]),
        "flat": np.array([1, -1]),
        "row": np.array([1, 4]),
    }
    model = make_case(nodes, (12,), constants)
    check_single(model, random(1, 12))


class OneByOne(ReferenceEvaluator):
    """Evaluates a graph that takes one sample at a time on a batch of them."""

    def run(self, names, feeds, *args, **kwargs):
        parts = [super(OneByOne, self).run(names, {**feeds, "x": row[None]})[0] for row in feeds["x"]]
        return [np.concatenate(parts)]


def check_single(model, x):
    """Compare with central differences, sample by sample."""
    plain = OneByOne(model)
    differentiated = ReferenceEvaluator(ir.to_proto(differentiate(ir.from_proto(model), ["x"])))
    cotangent = random(*plain.run(None, {"x": x})[0].shape, seed=9)
    got = differentiated.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]
    steps = np.eye(x.size) * 1e-5
    want = ((plain.run(None, {"x": x + steps})[0] - plain.run(None, {"x": x - steps})[0]) / 2e-5) @ cotangent.ravel()
    np.testing.assert_allclose(got.ravel(), want, atol=1e-6)


@pytest.mark.parametrize(
    ("left", "right"),
    [((3, 4), (4, 5)), ((3, 4), (4,)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (1, 4, 5)), ((4,), (4, 5))],
)
def test_matmul_agrees_for_a_constant_right_operand(agrees, make_case, left, right):
    agrees(
        make_case([helper.make_node("MatMul", ["x", "w"], ["y"])], left, {"w": random(*right, seed=1)}),
        random(2, *left),
    )


@pytest.mark.parametrize(("left", "right"), [((5, 3), (3, 4)), ((3,), (3, 4)), ((1, 5, 3), (2, 3, 4))])
def test_matmul_agrees_for_a_constant_left_operand(agrees, make_case, left, right):
    agrees(
        make_case([helper.make_node("MatMul", ["w", "x"], ["y"])], right, {"w": random(*left, seed=1)}),
        random(2, *right),
    )


def test_matmul_of_the_input_with_itself_gets_both_cotangents(agrees, make_case):
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    agrees(make_case(nodes, (3, 4)), random(2, 3, 4))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_matmul_sums_over_batch_axes_of_unknown_size_at_run_time(agrees, make_case, first, size):
    nodes = [
        helper.make_node("Slice", ["x", "start", "stop", "axis"], ["some"]),
        helper.make_node("MatMul", ["some", "x"] if first else ["x", "some"], ["y"]),
    ]
    constants = {"start": np.array([0]), "stop": np.array([size]), "axis": np.array([1])}
    agrees(make_case(nodes, (2, 3, 3), constants, fixed=False), random(2, 2, 3, 3))
