"""Every operator's change is split over its operands to rounding; and near the reference the split is the gradient."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from scipy import special

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiable
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.rule_sets.deep_lift import DEEP_LIFT
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.seed import Term
from tonescope_server.gradients.tape import Tape


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(op_type, gates, hidden, inputs, directions=1, seed=0):
    return {
        f"{op_type}w": random(directions, gates * hidden, inputs, seed=seed),
        f"{op_type}r": random(directions, gates * hidden, hidden, seed=seed + 1),
        f"{op_type}b": random(directions, 2 * gates * hidden, seed=seed + 2),
    }


def recurrent(op_type, gates, inputs="", **attributes):
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    return (
        [("Transpose", "x", "t", {"perm": [1, 0, 2]}),
         (op_type, f"t {op_type}w {op_type}r {op_type}b", "s h", {"hidden_size": 3, **attributes}),
         ("Transpose", "s", "o", {"perm": [2, 0, 1, 3]})],
        layer(op_type, gates, 3, 4, directions), (5, 4),
    )  # fmt: skip


AXES = {"a": np.array([1])}
CASES = {
    "GroupNormalization": ([("GroupNormalization", "x s b", "o", {"num_groups": 2})],
                           {"s": random(4, seed=1), "b": random(4, seed=2)}, (4, 5)),
    "InstanceNormalization": ([("InstanceNormalization", "x s b", "o", {})],
                              {"s": random(4, seed=1), "b": random(4, seed=2)}, (4, 5)),
    "LayerNormalization": ([("LayerNormalization", "x s b", "o", {"axis": 1})],
                           {"s": random(4, 5, seed=1), "b": random(4, 5, seed=2)}, (4, 5)),
    "RMSNormalization": ([("RMSNormalization", "x s", "o", {})], {"s": random(5, seed=1)}, (4, 5)),
    "MeanVarianceNormalization": ([("MeanVarianceNormalization", "x", "o", {"axes": [2]})], {}, (4, 5)),
    "LpNormalization, Euclidean": ([("LpNormalization", "x", "o", {"axis": 1})], {}, (4, 5)),
    "LpNormalization, absolute": ([("LpNormalization", "x", "o", {"axis": 1, "p": 1})], {}, (4, 5)),
    "LRN": ([("LRN", "x", "o", {"size": 3, "alpha": 0.9, "beta": 0.6})], {}, (5, 2, 2)),
    "GlobalMaxPool": ([("GlobalMaxPool", "x", "o", {})], {}, (4, 5)),
    "MaxPool": ([("MaxPool", "x", "o", {"kernel_shape": [3], "strides": [1], "pads": [1, 1]})], {}, (4, 5)),
    "ReduceMax": ([("ReduceMax", "x a", "o", {"keepdims": 0})], AXES, (4, 5)),
    "ReduceMin": ([("ReduceMin", "x a", "o", {})], AXES, (4, 5)),
    "ReduceProd": ([("ReduceProd", "x a", "o", {"keepdims": 0})], AXES, (4, 5)),
    "ReduceL1": ([("ReduceL1", "x a", "o", {"keepdims": 0})], AXES, (4, 5)),
    "ReduceL2": ([("ReduceL2", "x a", "o", {})], AXES, (4, 5)),
    "ReduceLogSumExp": ([("ReduceLogSumExp", "x a", "o", {"keepdims": 0})], AXES, (4, 5)),
    "LpPool": ([("LpPool", "x", "o", {"kernel_shape": [3], "strides": [2], "pads": [1, 0], "p": 3})], {}, (4, 6)),
    "GlobalLpPool": ([("GlobalLpPool", "x", "o", {})], {}, (4, 5)),
    "DFT": ([("Unsqueeze", "x u", "p", {}), ("DFT", "p  i", "o", {"onesided": 1})],
            {"u": np.array([3]), "i": np.array(2)}, (4, 6)),
    "Max of three": ([("Sin", "x", "p", {}), ("Max", "x p c", "o", {})], {"c": random(4, 1, seed=3)}, (4, 5)),
    "Min of three": ([("Sin", "x", "p", {}), ("Min", "x p c", "o", {})], {"c": random(4, 1, seed=3)}, (4, 5)),
    "Mod": ([("Mod", "x c", "o", {"fmod": 1})], {"c": np.float32(0.7)}, (4, 5)),
    "Where": ([("Greater", "x c", "k", {}), ("Exp", "x", "p", {}), ("Where", "k x p", "o", {})],
              {"c": np.float32(0.2)}, (4, 5)),
    "Where, of a constant": ([("Greater", "x c", "k", {}), ("Where", "k x c", "o", {})],
                             {"c": np.float32(0.2)}, (4, 5)),
    "Attention": ([("Attention", "x x x", "o", {"is_causal": 1})], {}, (2, 4, 5)),
    "Swish": ([("Swish", "x", "o", {"alpha": 1.3})], {}, (4, 5)),
    "LSTM": recurrent("LSTM", 4),
    "LSTM, both ways": recurrent("LSTM", 4, direction="bidirectional"),
    "GRU": recurrent("GRU", 3),
    "GRU, from the end": recurrent("GRU", 3, direction="reverse"),
    "GRU, linear before reset": recurrent("GRU", 3, linear_before_reset=1),
    "RNN": recurrent("RNN", 1),
    "RNN of ReLUs": recurrent("RNN", 1, activations=["Relu"]),
}  # fmt: skip


def model_of(make_case, name):
    nodes, constants, shape = CASES[name]
    before = [("Mul", "input c0", "m0", {}), ("Add", "m0 c1", "x", {})]  # every element at a scale of its own
    made = [
        helper.make_node(op, i.replace("input", "x_in").split(" "), o.split(), name=f"node_{o.split()[0]}", **a)
        for op, i, o, a in [*before, *nodes]
    ]
    for node in made:
        node.input[:] = ["x" if n == "x_in" else "hidden" if n == "x" else n for n in node.input]
        node.output[:] = ["hidden" if n == "x" else n for n in node.output]
    made += [
        helper.make_node("Flatten", ["o"], ["flat"], axis=1),
        helper.make_node("Identity", ["flat"], ["y"]),
    ]
    opset = 21 if name == "GlobalLpPool" else 24  # ONNX Runtime 1.31 has no newer one
    more = {"c0": random(*shape, seed=31) * 0.3 + 1, "c1": random(*shape, seed=32) * 0.3}
    return make_case(made, shape, {**constants, **more}, dtype=TensorProto.FLOAT, opset=opset), shape


def multipliers(model, rule_set, x, weights, reference):
    graph = differentiable(infer_shapes(ir.from_proto(model)), rule_set)
    tape = Tape(graph, "x", (Term("y"),), lambda name: rule_set, np.zeros(x[0].size, np.int64), 1)
    at = tape.feed_var("reference", tape.x.shape) if rule_set.reference else None
    found = tape.evaluate(rule_set, reference=at)
    tape.result("found", found.gradient)
    if found.reference_score is not None:
        tape.result("reference_score", found.reference_score)
    session = ort.InferenceSession(ir.to_proto(tape.finish()).SerializeToString())
    names = [o.name for o in session.get_outputs()]
    feeds = {"x": x, "weights:0": weights, **({"reference": reference} if rule_set.reference else {})}
    return dict(zip(names, session.run(None, feeds), strict=True))


def outputs(model):
    size = (
        ort.InferenceSession(model.SerializeToString())
        .run(
            None,
            {
                "x": np.zeros(
                    (1, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])), np.float32
                )
            },
        )[0]
        .size
    )
    return size


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_split_over_the_input_to_rounding(make_case, name):
    model, shape = model_of(make_case, name)
    x, reference = random(6, *shape, seed=7), random(6, *shape, seed=8)
    weights = random(6, outputs(model), seed=9)
    found = multipliers(model, DEEP_LIFT, x, weights, reference)
    parts = ((x - reference) * found["found"]).reshape(6, -1).astype(np.float64)
    change = found["score"].astype(np.float64) - found["reference_score"]
    assert np.abs(change).min() > 1e-3
    # What is summed is rounded to 2⁻²⁴ of itself, some ten times over.
    mass = np.abs(parts).sum(1) + np.abs(found["score"]) + np.abs(found["reference_score"])
    assert (np.abs(parts.sum(1) - change) <= 2e-6 * mass).all(), (parts.sum(1), change, mass)


@pytest.mark.parametrize("name", CASES)
def test_near_the_reference_multipliers_are_the_gradient(make_case, name):
    """Completeness alone would let parts go to the wrong elements."""
    model, shape = model_of(make_case, name)
    x = random(4, *shape, seed=7)
    weights = random(4, outputs(model), seed=9)
    reference = x + np.float32(2e-3) * np.sign(random(4, *shape, seed=8)).astype(np.float32)
    got = multipliers(model, DEEP_LIFT, x, weights, reference)["found"]
    want = multipliers(model, STANDARD, x, weights, reference)["found"]
    # A step of 2e-3 moves a derivative by some thousandths of itself; a quotient of differences has 2⁻²⁴/2e-3 of noise.
    far = np.abs(got - want) > 2e-2 * np.abs(want).max()
    assert far.mean() <= 0.03, (got[far], want[far])  # a maximum, or a choice, may lie within the step


@pytest.mark.parametrize("scale", [3, 10, 30])
@pytest.mark.parametrize("name", ["Attention", "GroupNormalization", "LayerNormalization", "LSTM", "GRU"])
def test_a_change_between_large_windows_and_zeros_is_split_too(make_case, name, scale):
    model, shape = model_of(make_case, name)
    x = random(6, *shape, seed=7) * np.float32(scale)
    parts, change, scores, _ = split(model, x, np.zeros_like(x))
    # Attention at scale 30 has logits of some thousands, of which float32 keeps 2⁻²⁴: p is off by some 1e-4 of itself.
    assert_complete(parts, change, scores, rounding=1e-4 if (name, scale) == ("Attention", 30) else 1e-5)


def test_equal_ends_give_the_gradient(make_case):
    for name in ("LSTM", "GRU", "GroupNormalization", "Where", "Max of three"):
        model, shape = model_of(make_case, name)
        x, weights = random(3, *shape, seed=7), random(3, outputs(model), seed=9)
        got = multipliers(model, DEEP_LIFT, x, weights, x)["found"]
        want = multipliers(model, STANDARD, x, weights, x)["found"]
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_a_product_with_zeros_is_split_too(make_case, zeros):
    model, shape = model_of(make_case, "ReduceProd")
    x, reference = random(2, *shape, seed=7), random(2, *shape, seed=8)
    offset = next(t for t in model.graph.initializer if t.name == "c1")
    scale = next(t for t in model.graph.initializer if t.name == "c0")
    at_zero = -np.frombuffer(offset.raw_data, np.float32) / np.frombuffer(scale.raw_data, np.float32)
    x[:, :zeros] = at_zero.reshape(shape)[:zeros]
    weights = np.ones((2, outputs(model)), np.float32)
    found = multipliers(model, DEEP_LIFT, x, weights, reference)
    total = ((x - reference) * found["found"]).reshape(2, -1).sum(1)
    np.testing.assert_allclose(total, found["score"] - found["reference_score"], rtol=1e-5, atol=1e-6)


def chain(make_case, nodes, shape, constants=None, opset=20):
    """Make a model of nodes written as ``(operator, operands, results, attributes)``; ``o`` becomes the output."""
    made = [helper.make_node(op, i.split(" "), o.split(), name=f"node_{o.split()[0]}", **a) for op, i, o, a in nodes]
    made.append(helper.make_node("Flatten", ["o"], ["y"], axis=1))
    return make_case(made, shape, constants or {}, dtype=TensorProto.FLOAT, opset=opset)


def split(model, x, reference, seed=9):
    """Return each element's part of a random functional of the output, what they should add up to, and the scores."""
    weights = random(len(x), outputs(model), seed=seed)
    found = multipliers(model, DEEP_LIFT, x, weights, reference)
    parts = (x.astype(np.float64) - reference) * found["found"]
    scores = np.stack([found["score"], found["reference_score"]]).astype(np.float64)
    return parts, scores[0] - scores[1], scores, weights


def assert_complete(parts, change, scores, rounding=2e-6):
    """Float32 rounds what is summed to 2⁻²⁴ of itself, some thirty times over."""
    flat = parts.reshape(len(parts), -1)
    mass = np.abs(flat).sum(1) + np.abs(scores).sum(0)
    assert np.isfinite(flat).all()
    assert (np.abs(flat.sum(1) - change) <= rounding * mass).all(), (flat.sum(1), change, mass)


@pytest.mark.parametrize("scale", [1, 15, 40, 200, 1000])
def test_softmax_is_split_by_logarithmic_means_however_far_its_logits_lie_apart(make_case, scale):
    """Each part written out, one at a time, in float64."""
    model = chain(make_case, [("Softmax", "x", "o", {})], (5,))
    x, reference = random(4, 5, seed=1) * np.float32(scale), random(4, 5, seed=2)
    parts, change, scores, weights = split(model, x, reference)
    assert_complete(parts, change, scores, rounding=1e-4 if scale == 1000 else 1e-5)  # logits have 2⁻²⁴ of their size
    for row in range(4):
        a, b = x[row].astype(np.float64), reference[row].astype(np.float64)
        log_p, log_p0 = a - special.logsumexp(a), b - special.logsumexp(b)
        mean = [(np.exp(s) - np.exp(t)) / (s - t) for s, t in zip(log_p, log_p0, strict=True)]
        for j in range(5):
            want = sum(weights[row, i] * mean[i] * ((i == j) - mean[j] / sum(mean)) * (a[j] - b[j]) for i in range(5))
            assert parts[row, j] == pytest.approx(want, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("scale", [1, 40, 200])
@pytest.mark.parametrize("operator", ["LogSoftmax", "ReduceLogSumExp"])
def test_logarithms_of_sums_are_split_however_far_the_logits_lie_apart(make_case, operator, scale):
    operands = "x" if operator == "LogSoftmax" else "x a"
    model = chain(make_case, [(operator, operands, "o", {})], (5,), {} if operator == "LogSoftmax" else AXES)
    x, reference = random(4, 5, seed=1) * np.float32(scale), random(4, 5, seed=2)
    assert_complete(*split(model, x, reference)[:3])


def test_a_logarithm_of_sums_over_no_axes_is_the_operand(make_case):
    model = chain(make_case, [("ReduceLogSumExp", "x", "o", {"noop_with_empty_axes": 1})], (3, 4))
    assert_complete(*split(model, random(4, 3, 4, seed=1), random(4, 3, 4, seed=2))[:3])


NORMALISED = {
    "a quotient by the length": ([("ReduceL2", "x a", "n", {}), ("Max", "n least", "c", {}), ("Div", "x c", "o", {})],
                                 {**AXES, "least": np.float32(1e-12)}),
    "a product with a reciprocal": (
        [("Mul", "x x", "q", {}), ("ReduceMean", "q a", "v", {}), ("Add", "v least", "u", {}), ("Sqrt", "u", "n", {}),
         ("Reciprocal", "n", "r", {}), ("Mul", "x r", "o", {})], {**AXES, "least": np.float32(1e-12)}),
    "a reciprocal first": (
        [("ReduceL1", "x a", "n", {}), ("Max", "n least", "c", {}), ("Reciprocal", "c", "r", {}),
         ("Mul", "r x", "o", {})],
        {**AXES, "least": np.float32(1e-12)}),
    "the layer's own operator": ([("LayerNormalization", "x s", "o", {"axis": 1, "epsilon": 1e-12})],
                                 {"s": np.ones(6, np.float32)}),
    "the root's own operator": ([("RMSNormalization", "x s", "o", {"axis": 1, "epsilon": 1e-12})],
                                {"s": np.ones(6, np.float32)}),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMALISED)
def test_a_quotient_is_split_where_the_reference_has_next_to_nothing_below(make_case, name):
    nodes, constants = NORMALISED[name]
    model = chain(make_case, nodes, (6,), constants, opset=23)
    x = random(4, 6, seed=1)
    parts, change, scores, _ = split(model, x, np.zeros_like(x))
    assert_complete(parts, change, scores)
    assert (np.abs(parts).sum(1) <= 20 * np.abs(scores).sum(0) + 20).all()  # and nothing cancels a millionfold


NULL_TONE = np.array([1, 1, 0, 1, 1], np.float32)
SUM_OF_SQUARES = [("Mul", "x x", "s", {}), ("ReduceSum", "s a", "p", {"keepdims": 0})]
# By what each takes of one tone, all of whose cells are zero, or of one row, all of whose cells are alike.
NULLS = {
    "root of a sum of squares": ([*SUM_OF_SQUARES, ("Sqrt", "p", "o", {})], AXES, NULL_TONE),
    "power of a half": ([*SUM_OF_SQUARES, ("Pow", "p half", "o", {})], {**AXES, "half": np.float32(0.5)}, NULL_TONE),
    "over the spread": ([("ReduceMean", "x a", "m", {}), ("Sub", "x m", "d", {}), ("Mul", "d d", "q", {}),
                         ("ReduceMean", "q a", "v", {}), ("Sqrt", "v", "n", {}), ("Add", "n tiny", "e", {}),
                         ("Div", "d e", "o", {})], {"a": np.array([2]), "tiny": np.float32(1e-8)},
                        np.array([[1], [0], [1]], np.float32)),
    "root of a ReLU": ([("MatMul", "x w", "h", {}), ("Relu", "h", "r", {}), ("Sqrt", "r", "o", {})],
                       {"w": random(5, 4, seed=4)}, np.float32(1)),
    "logarithm and back": ([("Abs", "x", "p", {}), ("Log", "p", "l", {}), ("Exp", "l", "o", {})], {}, NULL_TONE),
}  # fmt: skip


@pytest.mark.parametrize("name", NULLS)
def test_what_is_nothing_at_both_ends_has_no_part_though_its_slope_is_infinite(make_case, name):
    nodes, constants, mask = NULLS[name]
    x, reference = random(4, 3, 5, seed=7) * mask, random(4, 3, 5, seed=8) * mask
    parts, change, scores, _ = split(chain(make_case, nodes, (3, 5), constants), x, reference)
    assert np.isfinite(parts).all()
    assert not parts[:, np.broadcast_to(mask, (3, 5)) == 0].any()
    assert_complete(parts, change, scores)


SMALL = {
    "amplitude": ([*SUM_OF_SQUARES, ("Sqrt", "p", "o", {})], AXES, 1e-6),
    "norm": ([("ReduceL2", "x a", "o", {"keepdims": 0})], AXES, 1e-12),
    "power": ([("Abs", "x", "p", {}), ("Pow", "p half", "o", {})], {"half": np.float32(0.5)}, 1e-12),
    "logarithm": ([("Abs", "x", "p", {}), ("Log", "p", "o", {})], {}, 1e-12),
    "absolute values": ([("Abs", "x", "o", {})], {}, 1e-12),
    "leak": ([("PRelu", "x k", "o", {})], {"k": np.float32([0.1])}, 1e-12),
    "sum of absolute values": ([("ReduceL1", "x a", "o", {})], AXES, 1e-12),
    "largest": ([("ReduceMax", "x a", "o", {})], AXES, 1e-12),
    "larger": ([("Max", "x k", "o", {})], {"k": np.float32(1e-13)}, 1e-12),
    "sign": ([("Sign", "x", "o", {})], {}, 1e-12),
    "comparison": ([("Greater", "x k", "t", {}), ("Cast", "t", "o", {"to": 1})], {"k": np.float32(0)}, 1e-12),
}


@pytest.mark.parametrize("name", SMALL)
def test_changes_of_small_windows_are_split_too(make_case, name):
    """Below 1e-10 a slope would miss the bend: of √(x²) at 1e-6 half of the change."""
    nodes, constants, size = SMALL[name]
    x, reference = (random(6, 2, 5, seed=s) * np.float32(size) for s in (7, 8))
    model = chain(make_case, nodes, (2, 5), constants)
    parts, change, scores, _ = split(model, x, reference)
    assert np.abs(parts.reshape(6, -1).sum(1) - change).max() <= 1e-5 * np.abs(change).max()
    assert_complete(parts, change, scores)


def test_a_small_change_of_what_is_not_small_has_the_slope(make_case):
    """A sigmoid of 1e-11 is one half at both ends, and 0/1e-11 is no slope."""
    x, reference = (random(3, 4, seed=s) * np.float32(1e-11) for s in (7, 8))
    parts, _, _, weights = split(chain(make_case, [("Sigmoid", "x", "o", {})], (4,)), x, reference)
    np.testing.assert_allclose(parts, (x - reference) * weights / 4, rtol=1e-5)


def test_a_quotient_between_near_ends_is_split_like_a_product_with_the_mean_reciprocal(make_case):
    model = chain(make_case, [("Exp", "x", "e", {}), ("Sin", "x", "s", {}), ("Div", "s e", "o", {})], (5,))
    x = random(4, 5, seed=1)
    reference = x + np.float32(0.01) * random(4, 5, seed=2)
    parts, change, scores, weights = split(model, x, reference)
    assert_complete(parts, change, scores)
    a, b = x.astype(np.float64), reference.astype(np.float64)
    by_x = (np.sin(a) - np.sin(b)) * (np.exp(-a) + np.exp(-b)) / 2
    by_y = (np.exp(-a) - np.exp(-b)) * (np.sin(a) + np.sin(b)) / 2
    # Both are second-order rules: they differ by the square of the step.
    np.testing.assert_allclose(parts, weights * (by_x + by_y), atol=1e-4 * np.abs(parts).max())


ZERO = {"zero": np.float32(0)}
STEPS = {
    "x sign x": ([("Sign", "x", "s", {}), ("Mul", "x s", "o", {})], {}),
    "the rest after rounding down": ([("Floor", "x", "s", {}), ("Sub", "x s", "o", {})], {}),
    "x times x rounded": ([("Round", "x", "s", {}), ("Mul", "x s", "o", {})], {}),
    "x times x rounded up": ([("Ceil", "x", "s", {}), ("Mul", "x s", "o", {})], {}),
    "x where it is positive": (
        [("Greater", "x zero", "s", {}), ("Cast", "s", "c", {"to": 1}), ("Mul", "x c", "o", {})], ZERO),
    "x times its integer part": (
        [("Cast", "x", "i", {"to": 7}), ("Cast", "i", "c", {"to": 1}), ("Mul", "x c", "o", {})], {}),
    "logic": (
        [("Greater", "x zero", "p", {}), ("Less", "x one", "q", {}), ("And", "p q", "r", {}), ("Not", "r", "n", {}),
         ("Or", "n q", "t", {}), ("Xor", "t p", "u", {}), ("Cast", "u", "c", {"to": 1}), ("Mul", "x c", "o", {})],
        {**ZERO, "one": np.float32(0.5)}),
    "divided by how many are positive": (
        [("Greater", "x zero", "p", {}), ("Cast", "p", "i", {"to": 7}), ("ReduceSum", "i a", "n", {"keepdims": 1}),
         ("Max", "n least", "m", {}), ("Cast", "m", "c", {"to": 1}), ("Div", "x c", "o", {})],
        {**ZERO, **AXES, "least": np.array(1)}),
    "a mask moved about": (
        [("Greater", "x zero", "p", {}), ("Transpose", "p", "t", {"perm": [0, 2, 1]}), ("Reshape", "t like", "r", {}),
         ("Cast", "r", "c", {"to": 1}), ("Mul", "x c", "o", {})],
        {**ZERO, "like": np.array([-1, 3, 4])}),
    "what a mask leaves to a softmax": (
        [("Abs", "x", "b", {}), ("ReduceSum", "b last", "n", {"keepdims": 0}), ("Less", "n much", "p", {}),
         ("Unsqueeze", "p middle", "k", {}), ("Transpose", "x", "t", {"perm": [0, 2, 1]}), ("MatMul", "x t", "q", {}),
         ("Where", "k nothing q", "w", {}), ("Softmax", "w", "f", {}), ("MatMul", "f x", "o", {})],
        {"last": np.array([2]), "middle": np.array([1]), "much": np.float32(2), "nothing": np.float32(-np.inf)}),
    "what an added mask leaves to a softmax": (
        [("Greater", "x low", "p", {}), ("Where", "p zero nothing", "w", {}), ("Add", "x w", "q", {}),
         ("Softmax", "q", "o", {"axis": 2})],  # some of each row is left: how else should one tell what changed
        {**ZERO, "low": np.float32(-1.5), "nothing": np.float32(np.finfo(np.float32).min)}),
    "a slope that depends on the input": ([("Sin", "x", "s", {}), ("PRelu", "x s", "o", {})], {}),
    "a product of three": (
        [("ReduceSum", "x a", "r", {"keepdims": 0}), ("ReduceSum", "x last", "c", {"keepdims": 0}),
         ("Einsum", "x c r", "o", {"equation": "bij,bi,bj->bi"})], {**AXES, "last": np.array([2])}),
    "a cube": ([("Einsum", "x x x", "o", {"equation": "bij,bij,bij->bij"})], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_what_jumps_is_split_like_what_slopes(make_case, name):
    """Derivatives are zero there, changes are not: every one of these lost a part of the change once."""
    nodes, constants = STEPS[name]
    model = chain(make_case, nodes, (3, 4), constants)
    x, reference = random(6, 3, 4, seed=1) * 2, random(6, 3, 4, seed=2)
    parts, change, scores, _ = split(model, x, reference)
    assert np.abs(change).min() > 1e-2
    assert_complete(parts, change, scores)


def test_a_comparison_is_split_between_what_it_compares(make_case):
    """By hand: ``[a > b]`` rose by one while ``a − b`` rose from −1 to 3, a by 1 of that and b by 3."""
    nodes = [
        ("Split", "x", "a b", {"axis": 1, "num_outputs": 2}),
        ("Greater", "a b", "g", {}),
        ("Cast", "g", "o", {"to": 1}),
    ]
    model = chain(make_case, nodes, (2,), {})
    x, reference = np.array([[2.0, -1.0]], np.float32), np.array([[1.0, 2.0]], np.float32)
    found = multipliers(model, DEEP_LIFT, x, np.ones((1, 1), np.float32), reference)
    np.testing.assert_allclose((x - reference) * found["found"], [[0.25, 0.75]], rtol=1e-6)


def test_a_product_of_three_is_split_as_its_factors_are_exchanged_in_both_orders(make_case):
    nodes = [
        ("Split", "x", "p q r", {"axis": 1, "num_outputs": 3}),
        ("Einsum", "p q r", "o", {"equation": "bi,bi,bi->bi"}),
    ]
    model = chain(make_case, nodes, (3,), {})
    x, reference = random(4, 3, seed=1), random(4, 3, seed=2)
    found = multipliers(model, DEEP_LIFT, x, np.ones((4, 1), np.float32), reference)
    (a, b, c), (a0, b0, c0) = x.T, reference.T
    want = [(a - a0) * (b0 * c0 + b * c) / 2, (b - b0) * (a * c0 + a0 * c) / 2, (c - c0) * (a * b + a0 * b0) / 2]
    np.testing.assert_allclose((x - reference) * found["found"], np.stack(want, 1), rtol=1e-4, atol=1e-6)


REFUSED = {
    "TopK": ([("TopK", "x k", "o i", {})], {"k": np.array([2])}, "TopK"),
    "a product over two axes": ([("ReduceProd", "x", "o", {"keepdims": 1})], {}, "several axes|static"),
    "an exponent": ([("Pow", "x x", "o", {})], {}, "exponent"),
    "an index": (
        [("ArgMax", "x", "i", {"axis": 1, "keepdims": 0}), ("Gather", "x i", "o", {"axis": 1})],
        {},
        "integers that depend on the input",
    ),
    "an index that a Cast made": (
        [("Cast", "x", "i", {"to": 7}), ("GatherElements", "x i", "o", {"axis": 1})],
        {},
        "integers that depend on the input",
    ),
    "a division of integers": (
        [("Cast", "x", "i", {"to": 7}), ("Div", "i i", "q", {}), ("Cast", "q", "o", {"to": 1})],
        {},
        "integers that depend on the input",
    ),
    "a divisor": ([("Mod", "x x", "o", {"fmod": 1})], {}, "divisor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_exactly_is_refused_by_name(make_case, name):
    nodes, constants, why = REFUSED[name]
    made = [helper.make_node(op, i.split(), o.split(), name="the_node", **a) for op, i, o, a in nodes]
    made.append(helper.make_node("Identity", ["o"], ["y"]))
    model = make_case(made, (3, 4), constants, dtype=TensorProto.FLOAT, opset=20)
    with pytest.raises(UnsupportedOperatorError, match=rf"the_node.*({why})|{why}.*the_node"):
        multipliers(model, DEEP_LIFT, random(1, 3, 4), np.ones((1, 12), np.float32), random(1, 3, 4))
