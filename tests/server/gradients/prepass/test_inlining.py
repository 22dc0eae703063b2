"""Operators without a rule of their own are differentiated through the function that defines them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import STANDARD, differentiate


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(
    ("op_type", "attributes"), [("ReduceLogSum", {"keepdims": 0}), ("ReduceSumSquare", {"keepdims": 1})]
)
def test_a_function_of_the_specification_agrees(agrees, make_case, op_type, attributes):
    assert op_type not in STANDARD.rules
    node = helper.make_node(op_type, ["x", "a"], ["y"], **attributes)
    model = make_case([node], (3, 4), {"a": np.array([2])})
    agrees(model, np.abs(random(2, 3, 4)) + 0.3)


WHOLE_ROW = np.array([[1, 1, 0, 0, 1], [0] * 5, [1] * 5, [0, 1, 0, 0, 0], [1] * 5], bool)


@pytest.mark.parametrize(("causal", "mask"), [(0, None), (1, None), (0, WHOLE_ROW), (1, WHOLE_ROW)])
def test_attention_is_differentiated_in_all_three_operands(make_case, causal, mask):
    """A row that is masked as a whole has a result, zero, and so a gradient: none."""
    operands = ["q", "k", "v"] + ([] if mask is None else ["mask"])
    nodes = [
        *(helper.make_node("MatMul", ["x", f"w{n}"], [n]) for n in "qkv"),
        helper.make_node("Attention", operands, ["y"], q_num_heads=2, kv_num_heads=2, is_causal=causal),
    ]
    constants = {f"w{n}": random(4, 4, seed=i).astype(np.float32) for i, n in enumerate("qkv")}
    constants |= {} if mask is None else {"mask": mask}
    model = make_case(nodes, (5, 4), constants, dtype=TensorProto.FLOAT, opset=23)
    check_in_float32(model, (5, 4))


@pytest.mark.parametrize("interleaved", [0, 1])
def test_a_rotary_embedding_is_differentiated_where_the_batch_is_not_known(make_case, interleaved):
    angles = random(5, 2, seed=3)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("RotaryEmbedding", ["h", "cos", "sin", "where"], ["y"], num_heads=2, interleaved=interleaved),
    ]
    constants = {"w": random(4, 8), "cos": np.cos(angles), "sin": np.sin(angles)}
    constants = {k: v.astype(np.float32) for k, v in constants.items()} | {"where": np.array([[4, 0, 1, 2, 2]])}
    model = make_case(nodes, (5, 4), constants, dtype=TensorProto.FLOAT, opset=23)
    check_in_float32(model, (5, 4))


def check_in_float32(model, shape):
    """Compare with differences on ONNX Runtime: steps of 1/128 err by some 1e-4 from the cubic term and rounding."""
    plain = ort.InferenceSession(model.SerializeToString())
    both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    x = random(1, *shape, seed=5).astype(np.float32)
    y = plain.run(None, {"x": x})[0]
    cotangent = random(*y.shape, seed=6).astype(np.float32)
    got = both.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]
    steps = np.eye(x.size, dtype=np.float32).reshape(x.size, 1, *shape) / 128
    up, down = (np.stack([plain.run(None, {"x": x + s})[0].ravel() for s in side]) for side in (steps, -steps))
    want = (up - down) * 64 @ cotangent.ravel()
    np.testing.assert_allclose(got.ravel(), want, atol=3e-3 * np.abs(want).max())


def test_what_is_no_function_stays_refused_by_name(make_case):
    model = make_case([helper.make_node("Hardmax", ["x"], ["y"], name="hard")], (3,))
    with pytest.raises(UnsupportedOperatorError, match=r"Hardmax.*hard"):
        differentiate(ir.from_proto(model), ["x"])


def test_the_callers_model_is_not_changed(make_case):
    model = ir.from_proto(
        make_case([helper.make_node("ReduceSumSquare", ["x", "a"], ["y"])], (3,), {"a": np.array([1])})
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    differentiate(model, ["x"])
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
