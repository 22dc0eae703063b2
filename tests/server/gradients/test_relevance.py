"""Relevance through normalisations, norms and recurrent operators: replicas from the papers, and conservation."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer, Target
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiable
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.rule_sets.lrp import ATTN_LRP, LRP
from tonescope_server.gradients.seed import Term
from tonescope_server.gradients.tape import Tape

SOURCE = Path(__file__).resolve().parents[2] / "families.py"
SPEC = importlib.util.spec_from_file_location("tonescope_test_families_relevance", SOURCE)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

EPSILON = 1e-6  # of the rule sets as they are offered


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relevance(model, x, weights, rule_set=LRP):
    """Return the relevance of ``x``, the score, and what the model says."""
    graph = differentiable(infer_shapes(ir.from_proto(model)), rule_set)
    tape = Tape(graph, "x", (Term("y"),), lambda name: rule_set, np.zeros(x[0].size, np.int64), 1)
    found = tape.evaluate(rule_set)
    tape.result("found", found.gradient)
    session = ort.InferenceSession(ir.to_proto(tape.finish()).SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x, "weights:0": weights}), strict=True))


def chain(make_case, nodes, constants, shape, opset=23):
    """Nodes from ``x`` to ``o``, flattened."""
    made = [helper.make_node(op, i.split(" "), o.split(), name=f"node_{o.split()[0]}", **a) for op, i, o, a in nodes]
    made.append(helper.make_node("Flatten", ["o"], ["y"], axis=1))
    return make_case(made, shape, constants, dtype=TensorProto.FLOAT, opset=opset)


def over(part, whole):
    return part / (whole + EPSILON * np.where(whole >= 0, 1, -1))


AXES = {"a": np.array([1])}
NO_BIAS = {
    "LayerNormalization": ([("LayerNormalization", "x s", "o", {"axis": -1})], {"s": random(5, seed=1)}),
    "InstanceNormalization": ([("InstanceNormalization", "x s b", "o", {})],
                              {"s": random(4, seed=1), "b": np.zeros(4, np.float32)}),
    "GroupNormalization": ([("GroupNormalization", "x s b", "o", {"num_groups": 2})],
                           {"s": random(4, seed=1), "b": np.zeros(4, np.float32)}),
    "MeanVarianceNormalization": ([("MeanVarianceNormalization", "x", "o", {"axes": [2]})], {}),
    "RMSNormalization": ([("RMSNormalization", "x s", "o", {})], {"s": random(5, seed=1)}),
    "LpNormalization": ([("LpNormalization", "x", "o", {"axis": 1})], {}),
    "ReduceL1": ([("ReduceL1", "x a", "o", {"keepdims": 0})], AXES),
    "ReduceL2": ([("ReduceL2", "x a", "o", {})], AXES),
    "LpPool": ([("LpPool", "x", "o", {"kernel_shape": [2], "strides": [2], "p": 3})], {}),
    "GlobalLpPool": ([("GlobalLpPool", "x", "o", {})], {}),
    "DFT": ([("Unsqueeze", "x u", "p", {}), ("DFT", "p  i", "o", {})], {"u": np.array([3]), "i": np.array(2)}),
    "ReduceLogSumExp": ([("ReduceLogSumExp", "x a", "o", {})], AXES),
    "ReduceProd": ([("ReduceProd", "x a", "o", {"keepdims": 0})], AXES),
    "ReduceMax": ([("ReduceMax", "x a", "o", {"keepdims": 0})], AXES),
    "Pow": ([("Abs", "x", "p", {}), ("Pow", "p e", "o", {})], {"e": np.float32(1.7)}),
    "Swish": ([("Mul", "x c", "p", {}), ("HardSwish", "p", "o", {})], {"c": np.float32(2)}),
}  # fmt: skip


@pytest.mark.parametrize("rule_set", [LRP, ATTN_LRP], ids=lambda r: r.name)
@pytest.mark.parametrize("name", NO_BIAS)
def test_an_operator_without_a_bias_conserves_relevance(make_case, name, rule_set):
    nodes, constants = NO_BIAS[name]
    x = random(6, 4, 5, seed=7)
    opset = 21 if name == "GlobalLpPool" else 23  # ONNX Runtime 1.31 has no newer one
    model = chain(make_case, nodes, constants, (4, 5), opset)
    size = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0].shape[1]
    found = relevance(model, x, random(6, size, seed=9), rule_set)
    kept = found["found"].reshape(6, -1).astype(np.float64).sum(1)
    # ε is 1e-6 against terms of order one, and a result near zero shares what it has among large parts.
    mass = np.abs(found["found"]).reshape(6, -1).sum(1)
    np.testing.assert_allclose(kept, found["score"], atol=1e-4 * mass.max(), rtol=0)
    assert np.abs(found["score"]).max() > 1e-2


def test_a_normalisation_hands_back_what_each_element_gave_with_its_variance_held_fixed(make_case):
    scale, bias = random(5, seed=1), random(5, seed=2)
    model = chain(make_case, [("LayerNormalization", "x s b", "o", {})], {"s": scale, "b": bias}, (4, 5))
    x, weights = random(2, 4, 5, seed=7), random(2, 20, seed=9)
    got = relevance(model, x, weights)["found"]
    for sample in range(2):
        for row in range(4):
            v, w = x[sample, row].astype(np.float64), weights[sample].reshape(4, 5)[row]
            root = np.sqrt(v.var() + 1e-5)
            want = np.zeros(5)
            for j in range(5):
                y = scale[j] * (v[j] - v.mean()) / root + bias[j]
                for i in range(5):
                    want[i] += over(v[i] * scale[j] * ((i == j) - 1 / 5) / root, y) * w[j] * y
            np.testing.assert_allclose(got[sample, row], want, rtol=1e-3, atol=1e-4)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_by_hand(x, w, r, b, score):
    """Arras et al. 2017: forward, then step by step back; ``score`` is the relevance of each state."""
    steps, hidden = len(x), r.shape[1]
    h, c, past = np.zeros(hidden), np.zeros(hidden), []
    for t in range(steps):
        z = w @ x[t] + r @ h + b[: 4 * hidden] + b[4 * hidden :]
        i, _, f = (sigmoid(z[k * hidden : (k + 1) * hidden]) for k in range(3))
        o, g = sigmoid(z[hidden : 2 * hidden]), np.tanh(z[3 * hidden :])
        past.append((h, c, i, f, g, z[3 * hidden :]))
        c = f * c + i * g
        past[-1] += (c,)
        h = o * np.tanh(c)
    found, rh, rc = np.zeros_like(x), np.zeros(hidden), np.zeros(hidden)
    for t in reversed(range(steps)):
        before, cell, i, f, g, z, after = past[t]
        rc = rc + rh + score[t]
        rg, rc = over(i * g, after) * rc, over(f * cell, after) * rc
        share = over(rg, z)
        found[t] = x[t] * (share @ w[3 * hidden :])
        rh = before * (share @ r[3 * hidden :])
    return found


def gru_by_hand(x, w, r, b, score, *, after):
    steps, hidden = len(x), r.shape[1]
    h, past = np.zeros(hidden), []
    bw, br = b[: 3 * hidden], b[3 * hidden :]
    for t in range(steps):
        zx, zh = w @ x[t] + bw, r @ h + br
        z, reset = sigmoid((zx + zh)[:hidden]), sigmoid((zx + zh)[hidden : 2 * hidden])
        rows = r[2 * hidden :]
        inner = reset * zh[2 * hidden :] if after else rows @ (reset * h) + br[2 * hidden :]
        total = zx[2 * hidden :] + inner
        new = (1 - z) * np.tanh(total) + z * h
        past.append((h, z, reset, total, new))
        h = new
    found, rh = np.zeros_like(x), np.zeros(hidden)
    for t in reversed(range(steps)):
        before, z, reset, total, state = past[t]
        whole = rh + score[t]
        share = over(over((1 - z) * np.tanh(total), state) * whole, total)
        found[t] = x[t] * (share @ w[2 * hidden :])
        through = (share * reset) @ r[2 * hidden :] if after else reset * (share @ r[2 * hidden :])
        rh = before * through + over(z * before, state) * whole
    return found


def rnn_by_hand(x, w, r, b, score):
    hidden = r.shape[1]
    states, sums = [np.zeros(hidden)], []
    for frame in x:
        sums.append(w @ frame + r @ states[-1] + b[:hidden] + b[hidden:])
        states.append(np.tanh(sums[-1]))
    found, rh = np.zeros_like(x), np.zeros(hidden)
    for t in reversed(range(len(x))):
        share = over(rh + score[t], sums[t])
        found[t], rh = x[t] * (share @ w), states[t] * (share @ r)
    return found


BY_HAND = {
    "LSTM": (4, {}, lstm_by_hand),
    "GRU": (3, {}, lambda *a: gru_by_hand(*a, after=False)),
    "GRU, linear before reset": (3, {"linear_before_reset": 1}, lambda *a: gru_by_hand(*a, after=True)),
    "RNN": (1, {}, rnn_by_hand),
}


@pytest.mark.parametrize("steps", [4, None], ids=["known", "unknown"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_recurrent_operator_gives_all_to_signals_and_nothing_to_gates(make_case, name, direction, steps):
    gates, attributes, by_hand = BY_HAND[name]
    w, r, b = random(1, gates * 3, 5, seed=1), random(1, gates * 3, 3, seed=2), random(1, gates * 6, seed=3)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(name.split(",")[0], ["t", "w", "r", "b"], ["s"], hidden_size=3, direction=direction,
                         **attributes),
        helper.make_node("Transpose", ["s"], ["o"], perm=[2, 0, 1, 3]),
        helper.make_node("Flatten", ["o"], ["y"], axis=1),
    ]  # fmt: skip
    model = make_case(nodes, (4, 5), {"w": w, "r": r, "b": b}, dtype=TensorProto.FLOAT, opset=20, fixed=steps == 4)
    if steps is None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 5
    x, weights = random(2, 4, 5, seed=7), random(2, 12, seed=9)
    found = relevance(model, x, weights)
    for sample in range(2):
        order = slice(None, None, -1 if direction == "reverse" else 1)
        score = (weights[sample] * found["output:y"][sample]).reshape(4, 3)[order]
        want = by_hand(*(v.astype(np.float64) for v in (x[sample][order], w[0], r[0], b[0], score)))[order]
        np.testing.assert_allclose(found["found"][sample], want, atol=2e-4 * np.abs(want).max(), rtol=2e-3)


ROOT, THIRD = np.float32(np.sqrt(2)), np.float32(0.044715)
SLOPE = np.float32(np.sqrt(2 / np.pi))
NUMBERS = {"root": ROOT, "one": np.float32(1), "half": np.float32(0.5), "c": SLOPE, "k": THIRD, "n": np.float32(3)}
GATE = [("Div", "h root", "d", {}), ("Erf", "d", "e", {}), ("Add", "e one", "p", {})]
TANH_GATE = [
    ("Mul", "k cube", "t1", {}), ("Add", "h t1", "t2", {}), ("Mul", "t2 c", "t3", {}), ("Tanh", "t3", "t4", {}),
    ("Add", "one t4", "p", {}),
]  # fmt: skip
CUBE = [("Pow", "h n", "cube", {})]
SPELLINGS = {
    "product, then half": ("none", [*GATE, ("Mul", "h p", "m", {}), ("Mul", "m half", "g", {})]),
    "half first": ("none", [*GATE, ("Mul", "h half", "m", {}), ("Mul", "m p", "g", {})]),
    "half in the gate": ("none", [*GATE, ("Mul", "half p", "m", {}), ("Mul", "m h", "g", {})]),
    "tanh, half first": ("tanh", [*CUBE, *TANH_GATE, ("Mul", "half h", "m", {}), ("Mul", "m p", "g", {})]),
    "tanh, the cube as products": (
        "tanh",
        [("Mul", "h h", "s", {}), ("Mul", "s h", "cube", {}), *TANH_GATE,
         ("Mul", "half p", "m", {}), ("Mul", "h m", "g", {})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule_set", [LRP, ATTN_LRP], ids=lambda r: r.name)
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_gelu_has_the_same_relevance_however_it_is_spelled(make_case, name, rule_set):
    form, spelled = SPELLINGS[name]
    constants = NUMBERS | {"a": random(5, 8, seed=1), "b": random(8, 3, seed=2)}
    single = [("Gelu", "h", "g", {"approximate": form})]
    x, weights = random(6, 4, 5, seed=7), random(6, 12, seed=9)
    got, want = (
        relevance(
            chain(make_case, [("MatMul", "x a", "h", {}), *activation, ("MatMul", "g b", "o", {})], constants, (4, 5)),
            x, weights, rule_set,
        )
        for activation in (spelled, single)
    )  # fmt: skip
    np.testing.assert_allclose(got["score"], want["score"], atol=1e-5)
    # Results near zero share what they have among large parts: rounding of the forward pass counts for as much there.
    np.testing.assert_allclose(got["found"], want["found"], atol=1e-4 * np.abs(want["found"]).max())
    kept = got["found"].reshape(6, -1).astype(np.float64).sum(1)
    np.testing.assert_allclose(kept, got["score"], atol=1e-4 * np.abs(got["found"]).max() * 20)


def test_a_gate_that_mixes_elements_keeps_its_share(make_case):
    """A softmax is no function of one element: the constant term of its expansion absorbs, as in any product."""
    model = chain(make_case, [("Softmax", "x", "p", {}), ("Mul", "x p", "o", {})], {}, (4, 5))
    found = relevance(model, random(2, 4, 5), random(2, 20, seed=1))
    assert np.abs(found["found"].sum((1, 2)) - found["score"]).min() > 1e-2


def spelled_out(model):
    """Return a network with each Gelu spelled as exporters below opset 20 write it."""
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gelu":
            nodes.append(node)
            continue
        h, own = node.input[0], node.output[0]
        for op, ins, out, _ in SPELLINGS["product, then half"][1]:
            names = {"h": h, "g": own}
            operands = [names.get(i, i if i in NUMBERS else f"{own}.{i}") for i in ins.split()]
            nodes.append(helper.make_node(op, operands, [names.get(out, f"{own}.{out}")], name=f"{own}.{out}"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(NUMBERS[n], n) for n in ("root", "one", "half"))
    return model


@pytest.mark.parametrize("rule_set", ["lrp", "attn_lrp"])
def test_a_transformer_has_the_same_relevance_with_its_gelu_spelled_out(tmp_path, rule_set):
    onnx.save(families.transformer(), tmp_path / "one.onnx")
    onnx.save(spelled_out(families.transformer()), tmp_path / "spelled.onnx")
    explainers = [Explainer.load(tmp_path / f"{name}.onnx") for name in ("spelled", "one")]
    x, target = random(4, *explainers[0].model.input.shape[1:], seed=1), Target.element(2)
    # Rounding of a sum near zero, which shares what it has among large parts, is the whole of the difference.
    got, want = (e.gradient(x, target, rule_set=rule_set) for e in explainers)
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())
    got, want = (e.explain(x, "lrp", target).convergence_delta for e in explainers)
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


def without_biases(model):
    """Return a network with every bias, and every mean of a batch normalisation, at zero."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith((".bias", ".b", ".mean", "position")):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(list(tensor.dims), np.float32), tensor.name))
    return model


# The rule of softmax is a first-order expansion, whose constant term absorbs relevance.
CONSERVING = sorted(set(families.FAMILIES) - {"vit", "transformer"})


@pytest.mark.parametrize("name", CONSERVING)
def test_a_network_without_biases_conserves_relevance(tmp_path, name):
    onnx.save(without_biases(families.FAMILIES[name]()), tmp_path / "m.onnx")
    explainer = Explainer.load(tmp_path / "m.onnx")
    x = random(3, *explainer.model.input.shape[1:], seed=1)
    result = explainer.explain(x, "lrp", Target.element(2), epsilon=1e-9, convolution="epsilon")
    mass = np.abs(result.cells).reshape(3, -1).sum(1)
    left = result.cells.reshape(3, -1).astype(np.float64).sum(1) - result.score
    assert np.abs(left).max() <= 1e-3 * mass.max(), (left, result.score, mass)
    np.testing.assert_allclose(result.convergence_delta, left, atol=1e-5 * mass.max())


def test_an_exponent_that_depends_on_the_input_is_refused_by_name(make_case):
    model = chain(make_case, [("Abs", "x", "p", {}), ("Pow", "p x", "o", {})], {}, (4, 5))
    with pytest.raises(UnsupportedOperatorError, match=r"Pow.*node_o.*'lrp'.*second operand"):
        relevance(model, random(1, 4, 5), np.ones((1, 20), np.float32))


@pytest.mark.parametrize("rule_set", [LRP, ATTN_LRP], ids=["lrp", "attn_lrp"])
def test_what_attention_masks_gets_no_relevance(make_case, rule_set):
    """As if the masked key were not there: it comes in as −∞, and −∞ times no share is not a number."""

    def attention(keys, mask):
        nodes = [
            ("MatMul", "x wq", "q", {}), ("Slice", "x none keys one", "kept", {}), ("MatMul", "kept wk", "k", {}),
            ("MatMul", "kept wv", "v", {}), ("Attention", "q k v mask", "o", {"q_num_heads": 2, "kv_num_heads": 2}),
        ]  # fmt: skip
        constants = {f"w{n}": random(4, 4, seed=i) for i, n in enumerate("qkv")}
        constants |= {"none": np.array([0]), "keys": np.array([keys]), "one": np.array([1]), "mask": mask}
        return chain(make_case, nodes, constants, (5, 4))

    x, weights = random(2, 5, 4, seed=5), random(2, 20, seed=6)
    masked = np.ones((5, 5), bool)
    masked[:, 4] = False
    got, want = (relevance(attention(*a), x, weights, rule_set)["found"] for a in ((5, masked), (4, masked[:, :4])))
    assert np.abs(want).max() > 1e-2
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    masked[2] = False  # a query that may look nowhere says nothing
    whole = relevance(attention(5, masked), x, weights, rule_set)["found"]
    assert np.isfinite(whole).all()


def test_a_sigmoid_that_is_spelled_out_hands_relevance_back_through_its_denominator(make_case):
    """Unit by unit: the 1 below the line is a bias and absorbs its part, the exponential passes the rest on."""
    v, w = random(4, 5), random(5, 3, seed=1)
    nodes = [("MatMul", "x v", "h", {}), ("Neg", "h", "n", {}), ("Exp", "n", "e", {}), ("Add", "e one", "u", {}),
             ("Div", "one u", "s", {}), ("MatMul", "s w", "o", {})]  # fmt: skip
    model = chain(make_case, nodes, {"one": np.float32(1), "v": v, "w": w}, (4,))
    x = random(3, 4, seed=2)
    got = relevance(model, x, np.eye(3, dtype=np.float32))["found"]
    for row in range(3):
        h = x[row] @ v
        e = np.exp(-h)
        of_unit = over(w[:, row] / (1 + e), (w[:, row] / (1 + e)).sum()) * (w[:, row] / (1 + e)).sum()
        want = (x[row][:, None] * v) @ over(of_unit * e / (1 + e), h)
        np.testing.assert_allclose(got[row], want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("below", [(), (5,), (2, 1)])
def test_a_quotient_of_a_constant_passes_all_its_relevance_on(make_case, below):
    """The operand is what lies below the line alone, and may be broadcast."""
    top = random(2, 5, seed=1)
    shaped = {(): ("ReduceMean", "x all", "d", {"keepdims": 1}), (5,): ("Exp", "x", "d", {}),
              (2, 1): ("ReduceMean", "x last", "d", {"keepdims": 1})}  # fmt: skip
    nodes = [shaped[below], ("Div", "top d", "o", {})]
    constants = {"top": top, "all": np.array([1, 2]), "last": np.array([2])}
    model = chain(make_case, nodes, constants, (2, 5))
    x, weights = np.abs(random(3, 2, 5, seed=2)) + 0.5, random(3, 10, seed=3)
    got = relevance(model, x, weights)
    np.testing.assert_allclose(got["found"].sum((1, 2)), got["score"], rtol=1e-4)


def test_attention_hands_relevance_back_as_attn_lrp_has_it(make_case):
    """One head, written out from Achtibat et al. 2024: equations 13 (softmax), 15 (products in halves) and 8 (ε)."""
    wq, wk, wv = (random(4, 4, seed=s) for s in (1, 2, 3))
    nodes = [
        ("MatMul", "x wq", "q", {}), ("MatMul", "x wk", "k", {}), ("MatMul", "x wv", "v", {}),
        ("Transpose", "k", "t", {"perm": [0, 2, 1]}), ("MatMul", "q t", "l", {}), ("Softmax", "l", "p", {}),
        ("MatMul", "p v", "o", {}),
    ]  # fmt: skip
    model = chain(make_case, nodes, {"wq": wq, "wk": wk, "wv": wv}, (3, 4))
    x, weights = random(2, 3, 4, seed=4), random(2, 12, seed=5)
    got = relevance(model, x, weights, ATTN_LRP)["found"]
    for row in range(2):
        one = x[row].astype(np.float64)
        q, k, v = one @ wq, one @ wk, one @ wv
        logits = q @ k.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        out = p @ v
        share = over(out * weights[row].reshape(3, 4), out) / 2
        of_p, of_v = p * (share @ v.T), v * (p.T @ share)
        of_logits = logits * (of_p - p * of_p.sum(1, keepdims=True))
        share = over(of_logits, logits) / 2
        of_q, of_k = q * (share @ k), k * (share.T @ q)
        want = sum(one * (over(r, z) @ w.T) for r, z, w in ((of_q, q, wq), (of_k, k, wk), (of_v, v, wv)))
        np.testing.assert_allclose(got[row], want, rtol=1e-3, atol=1e-4)
