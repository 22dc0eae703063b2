"""DeepLIFT and LRP against slow, dense replicas written from the papers, and their axioms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.gradients.rule_sets.deep_lift import DEEP_LIFT
from tonescope_server.gradients.rule_sets.lrp import LAYER_RULES, LrpSettings, lrp
from tonescope_server.gradients.seed import Term
from tonescope_server.gradients.tape import Tape


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(model, rule_set, x, weights, reference=None, *, fold=False):
    """Return what flows back to the input, and the score (at both ends, with a reference)."""
    graph = ir.from_proto(model)
    tape = Tape(graph, "x", (Term("y"),), lambda name: rule_set, np.zeros(x[0].size, np.int64), 1)
    if fold:
        tape.fold_batch_normalization()
    at = tape.feed_var("reference", tape.x.shape) if reference is not None else None
    found = tape.evaluate(rule_set, reference=at)
    tape.result("found", found.gradient)
    if found.reference_score is not None:
        tape.result("reference_score", found.reference_score)
    proto = ir.to_proto(tape.finish())
    session = ort.InferenceSession(proto.SerializeToString())
    feeds = {"x": x, "weights:0": weights, **({} if reference is None else {"reference": reference})}
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


NETWORKS = {
    "activations": (
        [("Gemm", "x w1 b1", "a", {}), ("Gelu", "a", "b", {}), ("Gemm", "b w2", "c", {}), ("Tanh", "c", "d", {}),
         ("Elu", "d", "e", {}), ("HardSwish", "e", "f", {}), ("Gemm", "f w3", "y", {})],
        {"w1": random(6, 5), "b1": random(5, seed=1), "w2": random(5, 5, seed=2), "w3": random(5, 3, seed=3)}, (6,),
    ),
    "products": (
        [("Gemm", "x w1", "a", {}), ("Sigmoid", "a", "s", {}), ("Mul", "a s", "m", {}), ("Add", "m one", "n", {}),
         ("Exp", "a", "p", {}), ("Div", "n p", "q", {}), ("Gemm", "q w3", "y", {})],
        {"w1": random(6, 5), "one": np.ones(5, np.float32), "w3": random(5, 3, seed=3)}, (6,),
    ),
    "attention": (
        [("MatMul", "x wq", "q", {}), ("MatMul", "x wk", "k", {}), ("MatMul", "x wv", "v", {}),
         ("Transpose", "k", "kt", {"perm": [0, 2, 1]}), ("MatMul", "q kt", "l", {}),
         ("Softmax", "l", "p", {"axis": -1}),
         ("MatMul", "p v", "o", {}), ("LayerNormalization", "o scale bias", "n", {"axis": -1}),
         ("ReduceMean", "n axes", "r", {"keepdims": 0}), ("Gemm", "r w3", "y", {})],
        {"wq": random(4, 4), "wk": random(4, 4, seed=1), "wv": random(4, 4, seed=2), "scale": random(4, seed=4),
         "bias": random(4, seed=5), "axes": np.array([1]), "w3": random(4, 3, seed=3)}, (5, 4),
    ),
    "pool": (
        [("Conv", "x w", "c", {"pads": [1, 1]}), ("BatchNormalization", "c s b m v", "n", {}), ("Relu", "n", "r", {}),
         ("MaxPool", "r", "p", {"kernel_shape": [3], "strides": [2]}), ("Flatten", "p", "f", {}),
         ("Gemm", "f w3", "y", {})],
        {"w": random(3, 2, 3), "s": random(3, seed=1), "b": random(3, seed=2), "m": random(3, seed=3),
         "v": np.abs(random(3, seed=4)) + 0.5, "w3": random(12, 3, seed=5)}, (2, 9),
    ),
    "log-softmax and extremes": (
        [("Gemm", "x w1", "a", {}), ("Gemm", "x w2", "b", {}), ("Max", "a b", "c", {}), ("Min", "c b", "d", {}),
         ("LogSoftmax", "d", "y", {"axis": 1})],
        {"w1": random(6, 3), "w2": random(6, 3, seed=2)}, (6,),
    ),
}  # fmt: skip


def network(make_case, name):
    nodes, constants, shape = NETWORKS[name]
    made = [helper.make_node(op, i.split(), [o], name=f"node_{o}", **a) for op, i, o, a in nodes]
    return make_case(made, shape, constants, dtype=TensorProto.FLOAT, opset=20), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_deep_lift_is_complete(make_case, name):
    model, shape = network(make_case, name)
    x, reference = random(4, *shape, seed=7), random(1, *shape, seed=8)
    weights = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    found = run(model, DEEP_LIFT, x, weights, reference)
    total = ((x - reference) * found["found"]).reshape(4, -1).sum(axis=1)
    change = found["score"] - found["reference_score"]
    assert np.abs(change).max() > 1e-2
    # Float32 sums to rounding of what is summed: here up to thirty times as much, of both signs, as is left over.
    mass = np.abs((x - reference) * found["found"]).sum() / 4
    np.testing.assert_allclose(total, change, atol=1e-6 * max(1.0, mass), rtol=0)


def test_deep_lift_of_a_relu_net_is_the_rescale_rule_of_the_paper(make_case):
    w1, b1, w2 = random(4, 6), random(6, seed=1), random(6, 3, seed=2)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["y"]),
    ]
    model = make_case(nodes, (4,), {"w1": w1, "b1": b1, "w2": w2}, dtype=TensorProto.FLOAT)
    x, x0 = random(2, 4, seed=5), random(1, 4, seed=6)
    weights = np.eye(3, dtype=np.float32)[[1, 2]]
    got = run(model, DEEP_LIFT, x, weights, x0)["found"]
    for sample in range(2):
        a, a0 = x[sample] @ w1 + b1, x0[0] @ w1 + b1
        for i in range(4):
            # equation 5 of the paper: multipliers chain
            want = 0.0
            for j in range(6):
                m = (max(a[j], 0) - max(a0[j], 0)) / (a[j] - a0[j])
                want += w1[i, j] * m * w2[j, [1, 2][sample]]
            assert got[sample, i] == pytest.approx(want, abs=1e-5)


def test_deep_lift_does_not_depend_on_batch_mates(make_case):
    model, shape = network(make_case, "attention")
    x, reference = random(4, *shape, seed=7), random(1, *shape, seed=8)
    weights = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    together = run(model, DEEP_LIFT, x, weights, reference)["found"]
    alone = np.concatenate(
        [run(model, DEEP_LIFT, x[i : i + 1], weights[i : i + 1], reference)["found"] for i in range(4)]
    )
    np.testing.assert_allclose(together, alone, atol=1e-6 * np.abs(alone).max(), rtol=0)


def dense_lrp(x, w, b, relevance, rule, epsilon=1e-6, gamma=0.25, alpha=2.0):
    """One dense layer and one sample, element by element, from Montavon et al. 2019, section 10.2."""
    n, m = w.shape
    sign = lambda v: 1.0 if v >= 0 else -1.0  # noqa: E731
    result = np.zeros(n)
    for j in range(m):
        z = [x[i] * w[i, j] for i in range(n)]
        total = sum(z) + b[j]
        if rule == "epsilon":
            shares = [v / (total + epsilon * sign(total)) for v in z]
        elif rule == "gamma":
            # generalised: contributions of the result's own sign are raised by γ
            own = sign(total) if total != 0 else 0
            raised = [v + gamma * v * (np.sign(v) == own) for v in z]
            bias = b[j] + gamma * b[j] * (np.sign(b[j]) == own)
            below = sum(raised) + bias
            shares = [v / (below + epsilon * sign(below)) if own else 0.0 for v in raised]
        elif rule in ("z_plus", "alpha_beta"):
            a = 1.0 if rule == "z_plus" else alpha
            up = sum(max(v, 0) for v in z) + max(b[j], 0)
            down = sum(min(v, 0) for v in z) + min(b[j], 0)
            shares = [
                a * max(v, 0) / (up + epsilon * sign(up)) + (1 - a) * min(v, 0) / (down + epsilon * sign(down))
                for v in z
            ]
        elif rule == "flat":
            shares = [1.0 / (n + epsilon)] * n
        else:
            squares = [w[i, j] ** 2 for i in range(n)]
            shares = [v / (sum(squares) + epsilon) for v in squares]
        result += np.array(shares) * relevance[j]
    return result


@pytest.mark.parametrize("rule", LAYER_RULES)
def test_a_layer_rule_is_what_the_paper_says(make_case, rule):
    w1, b1 = random(5, 4), random(4, seed=1)
    w2, b2 = random(4, 3, seed=2), random(3, seed=3)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="last"),
    ]
    model = make_case(nodes, (5,), {"w1": w1, "b1": b1, "w2": w2, "b2": b2}, dtype=TensorProto.FLOAT)
    x = random(3, 5, seed=6)
    weights = np.eye(3, dtype=np.float32)
    rule_set = lrp(LrpSettings(dense=rule, layers={"last": "epsilon"}))
    found = run(model, rule_set, x, weights)
    for k in range(3):
        hidden = np.maximum(x[k] @ w1 + b1, 0)
        y = hidden @ w2 + b2
        above = dense_lrp(hidden, w2, b2, np.where(np.arange(3) == k, y, 0), "epsilon")
        want = dense_lrp(x[k], w1, b1, above, rule)
        np.testing.assert_allclose(found["found"][k], want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("rule", LAYER_RULES)
@pytest.mark.parametrize("op_type", ["Conv", "Gemm"])
def test_relevance_is_conserved_where_no_bias_absorbs_any(make_case, rule, op_type):
    if op_type == "Conv":
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("Gemm", ["f", "w2"], ["y"]),
        ]
        constants, shape = {"w": np.abs(random(3, 2, 3)), "w2": np.abs(random(21, 3, seed=2))}, (2, 7)
    else:
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
        constants, shape = {"w": np.abs(random(6, 3))}, (6,)
    model = make_case(nodes, shape, constants, dtype=TensorProto.FLOAT)
    x = np.abs(random(3, *shape, seed=4)) + 0.1
    found = run(model, lrp(LrpSettings(dense=rule, convolution=rule, epsilon=1e-9)), x, np.eye(3, dtype=np.float32))
    kept = found["found"].reshape(3, -1).sum(axis=1)
    if rule == "alpha_beta":
        # Positive contributions alone get α; there are no negative ones to take α − 1 away again.
        layers = 2 if op_type == "Conv" else 1
        kept = kept / 2.0**layers
    np.testing.assert_allclose(kept, found["score"], rtol=1e-4)


def test_zero_bias_leaves_biases_out_of_the_denominators(make_case):
    w, b = random(5, 3), random(3, seed=1)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    model = make_case([node], (5,), {"w": w, "b": b}, dtype=TensorProto.FLOAT)
    x, weights = random(3, 5, seed=2), np.eye(3, dtype=np.float32)
    for zero, absorbed in ((True, False), (False, True)):
        found = run(model, lrp(LrpSettings(zero_bias=zero, epsilon=0.0)), x, weights)
        left = found["score"] - found["found"].sum(axis=1)
        assert (np.abs(left).max() > 1e-2) == absorbed


def test_the_first_rule_goes_to_the_layers_that_read_the_input(make_case):
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["y"]),
    ]
    constants = {"w1": random(5, 4), "w2": random(4, 3, seed=2)}
    model = make_case(nodes, (5,), constants, dtype=TensorProto.FLOAT)
    found = run(model, lrp(LrpSettings(first="flat")), random(3, 5, seed=6), np.eye(3, dtype=np.float32))["found"]
    np.testing.assert_allclose(found, np.repeat(found[:, :1], 5, axis=1), rtol=1e-4)


def test_folding_batch_normalisation_changes_no_prediction(make_case):
    model, shape = network(make_case, "pool")
    x, weights = random(4, *shape, seed=7), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    rules = lrp(LrpSettings())
    plain, folded = (run(model, rules, x, weights, fold=f) for f in (False, True))
    np.testing.assert_allclose(folded["output:y"], plain["output:y"], atol=1e-5)
    np.testing.assert_allclose(folded["score"], plain["score"], atol=1e-5)
    assert np.abs(folded["found"] - plain["found"]).max() > 1e-4
