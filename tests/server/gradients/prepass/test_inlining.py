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
    ("op_type", "attributes", "opset"),
    [("ReduceLogSum", {"keepdims": 0}, 18), ("ReduceSumSquare", {"keepdims": 1}, 18), ("Swish", {"alpha": 0.7}, 24)],
)
def test_a_function_of_the_specification_agrees(agrees, make_case, op_type, attributes, opset):
    assert op_type not in STANDARD.rules
    reduces = op_type.startswith("Reduce")
    node = helper.make_node(op_type, ["x", "a"] if reduces else ["x"], ["y"], **attributes)
    model = make_case([node], (3, 4), {"a": np.array([2])} if reduces else {}, opset=opset)
    agrees(model, np.abs(random(2, 3, 4)) + 0.3)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_is_differentiated_in_all_three_operands(make_case, causal):
    nodes = [
        *(helper.make_node("MatMul", ["x", f"w{n}"], [n]) for n in "qkv"),
        helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2, is_causal=causal),
    ]
    constants = {f"w{n}": random(4, 4, seed=i).astype(np.float32) for i, n in enumerate("qkv")}
    model = make_case(nodes, (5, 4), constants, dtype=TensorProto.FLOAT, opset=23)
    plain = ort.InferenceSession(model.SerializeToString())
    both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    x = random(1, 5, 4, seed=5).astype(np.float32)
    y = plain.run(None, {"x": x})[0]
    cotangent = random(*y.shape, seed=6).astype(np.float32)
    got = both.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]
    steps = np.eye(20, dtype=np.float32).reshape(20, 5, 4) / 128
    up, down = (plain.run(None, {"x": x + s})[0].reshape(20, -1) for s in (steps, -steps))
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
