"""Scan against central differences in float64 on ONNX Runtime: the reference knows no directions and no axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.server.gradients.control_flow import (
    DOUBLE,
    FLOAT,
    INT64,
    OF_SEQUENCE,
    POINTS,
    SEQUENCE,
    SIZE,
    check,
    cond,
    model,
    node,
    positive,
    random,
    run,
    scanned,
    session,
    tape_of,
    unrolled_and_scanned,
    value,
    windowed,
)
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import STANDARD, differentiate
from tonescope_server.gradients.rule_sets.deconvnet import DECONVNET
from tonescope_server.gradients.rule_sets.guided_backprop import GUIDED_BACKPROP
from tonescope_server.gradients.rule_sets.lrp import ATTN_LRP, LRP, LrpSettings, lrp

STEPS = 4


@st.composite
def scans(draw):
    """A Scan of vectors of two, made and used in one of many ways; states, inputs and outputs are mixed by weights."""
    n_states, n_inputs, n_outputs = draw(st.integers(0, 2)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
    if n_states + n_outputs == 0:
        n_outputs = 1
    width = 2
    pick = lambda n, *options: [draw(st.sampled_from(options)) for _ in range(n)]  # noqa: E731
    depends = pick(n_states + n_inputs, True, True, False)
    depends[draw(st.integers(0, len(depends) - 1))] = True
    input_axes, output_axes = pick(n_inputs, 0, 1, -1, -2), pick(n_outputs, 0, 1, -1)
    attributes = {}
    if draw(st.booleans()):
        attributes["scan_input_directions"] = pick(n_inputs, 0, 1)
    if n_outputs and draw(st.booleans()):
        attributes["scan_output_directions"] = pick(n_outputs, 0, 1)
    if any(input_axes) or draw(st.booleans()):
        attributes["scan_input_axes"] = input_axes
    if any(output_axes) or (n_outputs and draw(st.booleans())):
        attributes["scan_output_axes"] = output_axes
    constants, nodes, seed = {}, [], iter(range(1000))

    def weights(name, *shape):
        constants[name] = random(*shape, seed=next(seed))
        return name

    def made_of_x(name, shape, of_x):
        if not of_x:
            constants[name] = random(*shape, seed=next(seed))
            return
        constants[f"{name}_shape"] = np.array(shape)
        w = weights(f"{name}_w", SIZE, int(np.prod(shape)))
        nodes.extend([node("MatMul", f"x {w}", f"{name}_flat"), node("Reshape", f"{name}_flat {name}_shape", name)])

    names = []
    for i in range(n_states):
        names.append(f"initial{i}")
        made_of_x(names[-1], [width], depends[i])
    for j in range(n_inputs):
        names.append(f"sequence{j}")
        along_first = input_axes[j] in (0, -2)
        made_of_x(names[-1], [STEPS, width] if along_first else [width, STEPS], depends[n_states + j])
    counter = draw(st.booleans())
    captures = draw(st.sampled_from(["nothing", "constant", "of x"]))
    if captures != "nothing":
        made_of_x("outer", [width], captures == "of x")
    inner = [f"state{i}" for i in range(n_states)] + [f"element{j}" for j in range(n_inputs)]
    sources = inner + (["outer"] if captures != "nothing" else [])
    body, results = [], []
    for k in range(n_states + n_outputs):
        terms = []
        for source in sources:
            if not draw(st.booleans()):
                continue
            terms.append(f"mix{k}_{source}")
            body.append(node("MatMul", f"{source} {weights(f'w{k}_{source}', width, width)}", terms[-1]))
        if not terms:
            terms = [sources[-1]]
        body.append(node("Sum", " ".join(terms), f"sum{k}"))
        kind = draw(st.sampled_from(["Tanh", "Sigmoid", "Identity", "product"]))
        if kind == "product":
            body.append(node("Mul", f"sum{k} {sources[0]}", f"result{k}"))
        else:
            body.append(node(kind, f"sum{k}", f"result{k}"))
        results.append(f"result{k}")
    body_inputs = [value(n) for n in inner]
    outputs = [f"last{i}" for i in range(n_states)] + [f"out{k}" for k in range(n_outputs)]
    if counter:  # a state of integers: how many steps there have been scales the first result
        constants |= {"zero": np.array(0), "one": np.array(1)}
        names.insert(n_states, "zero")
        body_inputs.insert(n_states, value("count", [], INT64))
        body += [node("Add", "count one", "next"), node("Cast", "count", "weight", to=DOUBLE)]
        body.append(node("Mul", f"{results[0]} weight", "scaled"))
        results[0] = "scaled"
        results.insert(n_states, "next")
        outputs.insert(n_states, "counted")
    infos = [value(r, kind=INT64 if r == "next" else DOUBLE) for r in results]
    graph = helper.make_graph(body, "body", body_inputs, infos)
    nodes.append(node("Scan", " ".join(names), " ".join(outputs), body=graph, num_scan_inputs=n_inputs, **attributes))
    used = [o for o in outputs if o != "counted"]
    used = [o for o in used if draw(st.booleans())] or used[:1]
    constants["flat"] = np.array([-1])
    nodes += [node("Reshape", f"{o} flat", f"{o}_flat") for o in used]
    # So that a drawn Scan which does not depend on x is not the only thing that is compared.
    nodes.append(node("Tanh", "x", "beside"))
    nodes.append(node("Concat", " ".join([*(f"{o}_flat" for o in used), "beside"]), "y", axis=0))
    return model(nodes, [value("x", [SIZE])], constants)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(scans())
def test_a_scan_agrees_with_differences(proto):
    check(proto, random(SIZE, seed=5))


def test_a_scan_whose_steps_are_linear_agrees():
    """Nothing of the forward pass is read on the way back: only the number of steps is."""
    step = [node("MatMul", "h r", "hr"), node("Add", "hr c", "next")]
    scan = scanned(step, ["h"], ["s"], ["next"], ["h0"], ["seq"], "y")
    nodes = [*SEQUENCE, node("Sin", "h0", "c"), scan]
    check(model(nodes, [value("x", [SIZE])], OF_SEQUENCE), random(SIZE, seed=3))


@pytest.mark.parametrize("x", POINTS)
def test_an_if_within_a_scan_agrees(x):
    inner = cond("i", [node("Tanh", "sum", "t")], [node("Mul", "sum outer", "e")], "next")
    step = [
        node("MatMul", "h r", "hr"),
        node("Add", "hr s", "sum"),
        *positive("sum"),
        inner,
        node("Exp", "next", "out"),
    ]
    scan = scanned(step, ["h"], ["s"], ["next", "out"], ["h0"], ["seq"], "last y", scan_output_directions=[1])
    check(model([*SEQUENCE, node("Sin", "h0", "outer"), scan], [value("x", [SIZE])], OF_SEQUENCE), x)


@pytest.mark.parametrize("x", POINTS)
def test_a_scan_within_an_if_and_within_a_scan_agrees(x):
    inner = scanned([node("Mul", "g outer", "go"), node("Add", "go u", "g2"), node("Sin", "g2", "o2")],
                    ["g"], ["u"], ["g2", "o2"], ["sum"], ["seq"], "g1 os", scan_input_directions=[1])  # fmt: skip
    step = [node("MatMul", "h r", "hr"), node("Add", "hr s", "sum"), inner, node("Tanh", "g1", "next"),
            node("ReduceSum", "os axis", "o", keepdims=0), node("Mul", "o next", "out")]  # fmt: skip
    scan = scanned(step, ["h"], ["s"], ["next", "out"], ["h0"], ["seq"], "last t")
    then, other = [scan], [node("Exp", "seq", "e")]
    nodes = [*SEQUENCE, node("Sin", "h0", "outer"), *positive("x"), cond("i", then, other)]
    check(model(nodes, [value("x", [SIZE])], OF_SEQUENCE | {"axis": np.array([0])}), x)


@pytest.mark.parametrize("length", [1, 5])
def test_a_scan_of_unknown_length_and_batch_agrees(length):
    step = [
        node("MatMul", "h r", "hr"),
        node("Add", "hr s", "sum"),
        node("Tanh", "sum", "next"),
        node("Exp", "next", "o"),
    ]
    scan = scanned(
        step, ["h"], ["s"], ["next", "o"], ["h0"], ["x"], "last y", scan_input_axes=[1], scan_output_axes=[1]
    )
    first = [node("ReduceMean", "x one", "h0", keepdims=0)]
    proto = model([*first, scan], [value("x", ["batch", "length", 2])], OF_SEQUENCE | {"one": np.array([1])})
    check(proto, random(3, length, 2, seed=5))


def test_an_rnn_written_as_a_scan_has_the_gradient_of_the_operator():
    steps, batch, size, hidden = 6, 2, 3, 4
    w, r, b = (
        random(*s, seed=k).astype(np.float32) for k, s in enumerate([(hidden, size), (hidden, hidden), (hidden,)])
    )
    native = node("RNN", "x w1 r1 b1", "Y", hidden_size=hidden)
    native_constants = {"w1": w[None], "r1": r[None], "b1": np.concatenate([b, 0 * b])[None], "one": np.array([1])}
    step = [node("MatMul", "h rt", "hr"), node("Add", "xw hr", "sum"), node("Tanh", "sum", "next"),
            node("Identity", "next", "out")]  # fmt: skip
    body = helper.make_graph(
        step, "body", [value("h", kind=FLOAT), value("xw", kind=FLOAT)],
        [value("next", kind=FLOAT), value("out", kind=FLOAT)],
    )  # fmt: skip
    written = [node("MatMul", "x wt", "xw0"), node("Add", "xw0 b", "all"),
               node("Scan", "h0 all", "last y", body=body, num_scan_inputs=1)]  # fmt: skip
    constants = {"wt": w.T.copy(), "rt": r.T.copy(), "b": b, "h0": np.zeros((batch, hidden), np.float32)}
    x = random(steps, batch, size, seed=7).astype(np.float32)
    cotangent = random(steps, batch, hidden, seed=8).astype(np.float32)
    found = []
    for nodes, weights in (([native, node("Squeeze", "Y one", "y")], native_constants), (written, constants)):
        proto = model(nodes, [value("x", [steps, batch, size], FLOAT)], weights)
        proto.graph.output[0].type.tensor_type.elem_type = FLOAT
        both = session(ir.to_proto(differentiate(ir.from_proto(proto), ["x"])))
        found.append(both.run(["y", "gradient:x"], {"x": x, "cotangent:y": cotangent}))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # float32, sums of a dozen terms


@pytest.mark.parametrize("rules", [STANDARD, GUIDED_BACKPROP, DECONVNET, LRP, ATTN_LRP], ids=lambda r: r.name)
def test_a_rule_set_goes_through_a_scan_as_through_its_steps_written_out(rules):
    x, g = random(SIZE, seed=31), random(4, 3, seed=32)
    written, scan = (
        session(ir.to_proto(differentiate(ir.from_proto(p), ["x"], rules))).run(
            ["gradient:x"], {"x": x, "cotangent:y": g}
        )[0]
        for p in unrolled_and_scanned()
    )
    assert np.abs(written).max() > 1e-2
    np.testing.assert_allclose(scan, written, rtol=1e-9, atol=1e-12)


def test_a_rule_for_the_first_layer_is_refused_inside_a_scan():
    scan = unrolled_and_scanned()[1]
    with pytest.raises(UnsupportedOperatorError, match=r"MatMul at node 'node_hr'.*first layer"):
        differentiate(ir.from_proto(scan), ["x"], lrp(LrpSettings(first="flat")))


def test_a_missing_rule_inside_a_scan_is_refused_by_name_unless_it_is_beside_the_way():
    step = [node("Cast", "s", "s32", to=FLOAT), node("Hardmax", "s32", "h32"), node("Cast", "h32", "hard", to=DOUBLE),
            node("Add", "h hard", "next"), node("Tanh", "next", "out")]  # fmt: skip
    scan = scanned(step, ["h"], ["s"], ["next", "out"], ["h0"], ["seq"], "last y")
    hard = model([*SEQUENCE, scan], [value("x", [SIZE])], OF_SEQUENCE)
    with pytest.raises(UnsupportedOperatorError, match=r"Hardmax \(node 'node_h32'\)"):
        differentiate(ir.from_proto(hard), ["x"])
    # Where the sequence is a constant nothing goes back through it.
    beside = model([SEQUENCE[2], scan], [value("x", [SIZE])], OF_SEQUENCE | {"seq": random(4, 2, seed=41)})
    check(beside, random(SIZE, seed=3))


def test_the_callers_model_is_not_changed():
    proto = unrolled_and_scanned()[1]
    given = ir.from_proto(proto)
    before = ir.to_proto(given).SerializeToString()
    differentiate(given, ["x"])
    assert ir.to_proto(given).SerializeToString() == before


def test_several_cotangents_at_once_are_one_after_another():
    proto, x, g = unrolled_and_scanned()[1], random(SIZE, seed=31), random(3, 4, 3, seed=32)
    at_once = session(ir.to_proto(differentiate(ir.from_proto(proto), ["x"], seeds=3)))
    one = session(ir.to_proto(differentiate(ir.from_proto(proto), ["x"])))
    (got,) = at_once.run(["gradient:x"], {"x": x, "cotangent:y": g})
    for k in range(3):
        np.testing.assert_array_equal(got[k], one.run(["gradient:x"], {"x": x, "cotangent:y": g[k]})[0])


def test_a_scan_that_takes_the_input_from_around_it_reads_the_points_of_a_path():
    step = [node("ReduceMean", "x one", "mean", keepdims=0), node("Mul", "mean s", "ms"), node("Add", "ms h", "sum"),
            node("Tanh", "sum", "next")]  # fmt: skip
    scan = scanned(step, ["h"], ["s"], ["next"], ["h0"], ["x"], "last", scan_input_axes=[1])
    proto = windowed([node("ReduceMax", "x one", "h0", keepdims=0), scan], {"one": np.array([1])})
    x, alphas = random(2, 3, 4, seed=6).astype(np.float32), np.array([1, 0.5, -2], np.float32)
    tape = tape_of(proto)
    found = tape.evaluate_path(tape.x.unsqueeze(0) * tape.feed_var("alphas", (-1, 1, 1)), anchor=0)
    tape.result("cells", found.gradient)
    got = run(tape, x, alphas=alphas.reshape(1, -1, 1, 1))["cells"]
    for k, alpha in enumerate(alphas):
        alone = tape_of(proto)
        alone.result("cells", alone.evaluate().gradient)
        np.testing.assert_allclose(got[:, k], run(alone, alpha * x)["cells"], rtol=1e-5, atol=1e-6)


def test_nothing_inside_keeps_a_shape_on_a_tape():
    """Sizes are by name, and along a path one name would stand for two sizes."""
    step = [node("Add", "h s", "sum"), node("Tanh", "sum", "next")]
    scan = scanned(step, ["h"], ["s"], ["next"], ["h0"], ["x"], "last", scan_input_axes=[1])
    tape = tape_of(windowed([node("ReduceMax", "x one", "h0", keepdims=0), scan], {"one": np.array([1])}))
    tape.result("cells", tape.evaluate().gradient)
    graphs = list(tape.finish().graph.subgraphs())
    assert len(graphs) == 2
    assert not [v for g in graphs for v in (*g.inputs, *(v for n in g for v in n.outputs)) if v.shape is not None]
