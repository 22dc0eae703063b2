"""If against central differences in float64 on ONNX Runtime, and what goes wrong inside graphs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from tests.server.gradients.control_flow import (
    DOUBLE,
    FLOAT,
    INT64,
    POINTS,
    SIZE,
    branch,
    check,
    cond,
    kinds,
    model,
    node,
    positive,
    random,
    run,
    session,
    tape_of,
    unrolled_and_scanned,
    value,
    windowed,
)
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import STANDARD, differentiate, missing_rules
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.rule_sets.deconvnet import DECONVNET
from tonescope_server.gradients.rule_sets.deep_lift import DEEP_LIFT
from tonescope_server.gradients.rule_sets.guided_backprop import GUIDED_BACKPROP
from tonescope_server.gradients.rule_sets.lrp import LRP, LrpSettings, lrp

WEIGHTS = {"w": random(SIZE, 3, seed=1), "v": random(SIZE, 3, seed=2), "nought": np.float64(0)}
BEFORE = [node("Tanh", "x", "h"), node("MatMul", "h w", "a"), node("MatMul", "h v", "b")]


@pytest.mark.parametrize("x", POINTS)
def test_a_branch_taken_by_what_the_input_is_agrees(x):
    then = [node("Exp", "a", "p"), node("Mul", "p b", "t")]
    other = [node("Sigmoid", "a", "q"), node("MatMul", "q u", "e")]
    proto = model(
        [*BEFORE, *positive("x"), cond("i", then, other)], [value("x", [SIZE])], WEIGHTS | {"u": random(3, 3)}
    )
    assert len(kinds(check(proto, x))) == 2


@pytest.mark.parametrize("x", POINTS)
def test_branches_that_give_what_is_around_them_agree(x):
    then, other = [node("Identity", "a", "t")], [node("Identity", "nought", "e0"), node("Sub", "e0 b", "e")]
    proto = model([*BEFORE, *positive("x"), cond("i", then, other)], [value("x", [SIZE])], WEIGHTS)
    check(proto, x)


@pytest.mark.parametrize("x", POINTS)
def test_branches_whose_results_differ_in_shape_agree(x):
    then = [node("Concat", "a b", "joined", axis=0), node("Reshape", "joined two", "t")]
    other = [node("ReduceSum", "a", "e", keepdims=0)]
    nodes = [*BEFORE, *positive("x"), cond("i", then, other, "r"), node("Reshape", "r all", "y")]
    check(model(nodes, [value("x", [SIZE])], WEIGHTS | {"two": np.array([2, 3]), "all": np.array([-1])}), x)


@pytest.mark.parametrize("x", POINTS)
def test_branches_whose_results_differ_in_one_size_agree(x):
    then, other = [node("Concat", "a b", "t", axis=0)], [node("Sin", "a", "e")]
    nodes = [*BEFORE, *positive("x"), cond("i", then, other, "r"), node("ReduceSum", "r", "s", keepdims=1)]
    check(model([*nodes, node("Mul", "r s", "y")], [value("x", [SIZE])], WEIGHTS), x)


@pytest.mark.parametrize("x", [*POINTS, random(SIZE, seed=8)])
def test_an_if_within_an_if_agrees(x):
    inner = cond("inner", [node("Mul", "p a", "t2")], [node("Sin", "b", "e2")], "t", "d", ("t2", "e2"))
    then = [node("Exp", "b", "p"), *positive("p", "d0"), node("Less", "a0 nought", "d"), inner]
    other = [node("Tanh", "a", "e")]
    first = node("ReduceMin", "a", "a0", keepdims=0)
    proto = model([*BEFORE, first, *positive("x"), cond("i", then, other)], [value("x", [SIZE])], WEIGHTS)
    check(proto, x)


@pytest.mark.parametrize("x", POINTS)
def test_several_results_of_an_if_agree(x):
    then = branch("then", [node("Exp", "a", "t0"), node("Mul", "t0 b", "t1"), node("Shape", "t1", "t2")], ["t0", "t1"])
    other = branch("else", [node("Sin", "b", "e0"), node("Neg", "a", "e1"), node("Shape", "a", "e2")], ["e0", "e1"])
    for graph, name in ((then, "t2"), (other, "e2")):
        graph.output.append(value(name, kind=INT64))
    nodes = [*BEFORE, *positive("x"), node("If", "c", "r0 r1 r2", then_branch=then, else_branch=other)]
    nodes += [node("Cast", "r2", "size", to=DOUBLE), node("Mul", "r1 size", "r3"), node("Mul", "r3 r0", "y")]
    check(model(nodes, [value("x", [SIZE])], WEIGHTS), x)


def test_a_branch_that_is_chosen_beforehand_is_all_that_is_left():
    """As exporters write ``squeeze``: if that axis is one, take it away, else leave it."""
    then, other = [node("ReduceSum", "h one", "t", keepdims=0)], [node("Identity", "h", "e")]
    for rows, y in ((1, (4, 3)), (2, (4, 2, 3))):
        nodes = [
            node("Tanh", "x", "h"), node("Shape", "h", "size"), node("Gather", "size one", "rows", axis=0),
            node("Equal", "rows one", "c"), cond("i", then, other, "s"), node("MatMul", "s w", "y"),
        ]  # fmt: skip
        proto = model(nodes, [value("x", ["batch", rows, 3])], {"one": np.array([1]), "w": random(3, 3)})
        x = random(4, rows, 3, seed=3)
        both = check(proto, x)
        assert not kinds(both)
        assert session(proto).run(None, {"x": x})[0].shape == y


def test_a_condition_that_follows_from_constants_is_worked_out_in_inner_graphs_too():
    inner = cond("inner", [node("Exp", "a", "t2")], [node("Hardmax", "a", "e2")], "t", "d", ("t2", "e2"))
    then = [node("Shape", "a", "n"), node("Squeeze", "n", "n0"), node("Less", "n0 ten", "d"), inner]
    constants = WEIGHTS | {"ten": np.array(10)}
    proto = model([*BEFORE, *positive("x"), cond("i", then, [node("Neg", "b", "e")])], [value("x", [SIZE])], constants)
    for x in POINTS:
        assert "Hardmax" not in {n.op_type for n in ir.from_proto(check(proto, x)).graph.all_nodes()}


FIRST_FLAT = lrp(LrpSettings(first="flat"), "lrp with a rule for the first layer")


@pytest.mark.parametrize("rules", [STANDARD, GUIDED_BACKPROP, DECONVNET, LRP, FIRST_FLAT], ids=lambda r: r.name)
@pytest.mark.parametrize("k", [0, 1])
def test_a_rule_set_goes_through_an_if_as_through_the_branch_that_is_taken(rules, k):
    bodies = [node("Relu", "a", "p"), node("MatMul", "p u", "t")], [node("Relu", "b", "q"), node("MatMul", "q u", "e")]
    constants = WEIGHTS | {"u": random(3, 3, seed=4)}
    x, g = POINTS[k], random(3, seed=5)
    chosen = [*BEFORE, *bodies[k], node("Identity", "te"[k], "y")]
    both = [chosen, [*BEFORE, *positive("x"), cond("i", *bodies)]]
    alone, branching = (
        session(ir.to_proto(differentiate(ir.from_proto(model(n, [value("x", [SIZE])], constants)), ["x"], rules))).run(
            ["gradient:x"], {"x": x, "cotangent:y": g}
        )[0]
        for n in both
    )
    np.testing.assert_array_equal(branching, alone)


@pytest.mark.parametrize("op_type", ["If", "Scan"])
def test_deep_lift_refuses_what_has_no_values_at_the_reference(op_type):
    branching = model([*BEFORE, *positive("x"), cond("i", [node("Exp", "a", "t")], [node("Sin", "b", "e")])],
                      [value("x", [SIZE])], WEIGHTS)  # fmt: skip
    proto = {"If": branching, "Scan": unrolled_and_scanned()[1]}[op_type]
    for rules in (DEEP_LIFT, DEEP_LIFT.override("mine", {op_type: STANDARD.rules[op_type]})):
        with pytest.raises(UnsupportedOperatorError, match=f"{op_type}"):
            differentiate(ir.from_proto(proto), ["x"], rules)


def test_a_value_that_a_branch_returns_twice_gets_both_cotangents():
    """On ONNX's reference: ONNX Runtime's own answer is wrong there."""
    then = branch("then", [node("Exp", "x", "t")], ["t", "t"])
    other = branch("else", [node("Sin", "x", "e"), node("Neg", "x", "f")], ["e", "f"])
    nodes = [*positive("x"), node("If", "c", "r s", then_branch=then, else_branch=other)]
    nodes += [node("Reshape", "r all", "a"), node("Reshape", "s all", "b"), node("Mul", "a b", "y")]
    proto = model(nodes, [value("x", [SIZE])], {"nought": np.float64(0), "all": np.array([-1])})
    run = ReferenceEvaluator(ir.to_proto(differentiate(ir.from_proto(proto), ["x"]))).run
    for x, want in (
        (POINTS[0], 2 * np.exp(2 * POINTS[0])),
        (POINTS[1], -np.sin(POINTS[1]) - POINTS[1] * np.cos(POINTS[1])),
    ):
        (got,) = run(["gradient:x"], {"x": x, "cotangent:y": np.ones(SIZE)})
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_nodes_of_a_branch_are_among_those_that_have_no_rule():
    nodes = [*BEFORE, *positive("x"), cond("i", [node("Exp", "a", "t")], [node("Sin", "b", "e")])]
    graph = infer_shapes(ir.from_proto(model(nodes, [value("x", [SIZE])], WEIGHTS))).graph
    assert not missing_rules(graph, graph.outputs, graph.inputs, STANDARD)
    poor = STANDARD.without("Sin", "Tanh")
    assert [n.name for n in missing_rules(graph, graph.outputs, graph.inputs, poor)] == ["node_h", "node_e"]


def test_random_numbers_inside_are_refused_by_name():
    then = [node("RandomNormalLike", "a", "noise"), node("Mul", "noise a", "t")]
    proto = model([*BEFORE, *positive("x"), cond("i", then, [node("Sin", "b", "e")])], [value("x", [SIZE])], WEIGHTS)
    with pytest.raises(UnsupportedOperatorError, match=r"If at node 'node_y'.*RandomNormalLike inside it"):
        differentiate(ir.from_proto(proto), ["x"])


def test_quantised_values_that_leave_a_branch_are_refused_by_name():
    int8, kept = TensorProto.INT8, {"w": WEIGHTS["w"], "v": WEIGHTS["v"]}
    graphs = [branch(n, [node("QuantizeLinear", f"{n} scale zero", f"q{n}")], [f"q{n}"], int8) for n in "ab"]
    chosen = node("If", "c", "q", then_branch=graphs[0], else_branch=graphs[1])
    first = [node("Cast", "x", "h", to=FLOAT), *BEFORE[1:], *positive("a")]
    constants = {k: v.astype(np.float32) for k, v in kept.items()}
    constants |= {"scale": np.float32(0.1), "zero": np.int8(0), "nought": np.float32(0)}
    proto = model([*first, chosen, node("DequantizeLinear", "q scale zero", "y")], [value("x", [SIZE])], constants)
    proto.graph.output[0].type.tensor_type.elem_type = FLOAT
    with pytest.raises(UnsupportedOperatorError, match=r"If at node 'node_q' works on quantised"):
        differentiate(ir.from_proto(proto), ["x"])


def by_sign(results):
    then, other = [node("Exp", "m", "t")], [node("Sin", "m", "e")]
    means = [node("ReduceMean", "x one", "m", keepdims=0), *positive("x"), cond("i", then, other, results)]
    return means, {"one": np.array([1]), "nought": 0.0}


def test_a_condition_on_the_input_is_refused_along_a_path():
    tape = tape_of(windowed(*by_sign("last")))
    with pytest.raises(UnsupportedOperatorError, match=r"If at node 'node_last'.*of a path"):
        tape.evaluate_path(tape.x.unsqueeze(0) * tape.feed_var("alphas", (-1, 1, 1)), anchor=0)


def test_a_reference_takes_its_own_branch():
    """DeepLIFT refuses to go back through the branch; by rules that end there, each end still has its own."""
    nodes, constants = by_sign("f")
    proto = windowed([*nodes, node("Ceil", "f", "factor"), node("Mul", "m factor", "last")], constants)
    tape = tape_of(proto, DEEP_LIFT)
    with pytest.raises(UnsupportedOperatorError, match="no rule for operator If"):
        tape.evaluate(DEEP_LIFT, reference=tape.feed_var("reference", (3, 4)))
    ending = DEEP_LIFT.override("ending", {"If": lambda ctx, node, cotangents: []})
    tape = tape_of(proto, ending)
    found = tape.evaluate(ending, reference=tape.feed_var("reference", (3, 4)))
    tape.result("cells", found.gradient)
    tape.result("at_reference", found.reference_score)
    x, reference = (
        np.abs(random(1, 3, 4, seed=1)).astype(np.float32),
        -np.abs(random(1, 3, 4, seed=2)).astype(np.float32),
    )
    got = run(tape, x, reference=reference)
    want = (session(proto).run(None, {"x": v})[0] @ [1, -1] for v in (x, reference))
    for name, scores in zip(("score", "at_reference"), want, strict=True):
        np.testing.assert_allclose(got[name], scores, rtol=1e-5)
