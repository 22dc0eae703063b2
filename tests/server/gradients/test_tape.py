"""The tape: what a method writes on it is what comes out of the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.errors import MethodNotApplicableError, UnknownTensorError
from tonescope_server.gradients import STANDARD
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.seed import Term
from tonescope_server.gradients.tape import Tape

TONE_FRAME = np.repeat(np.arange(3), 4)  # (3 tones, 4 frames), all frames of a tone first
FRAME_TONE = np.tile(np.arange(3), 4)  # the same buffer size, all tones of a frame first
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32
W = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
PREDICTED = (Term("y", predicted=True),)


def windows(count=5, seed=1):
    return np.random.default_rng(seed).standard_normal((count, 3, 4)).astype(np.float32)


@pytest.fixture
def model(make_case):
    """y = tanh(flat(x)) · W"""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Tanh", ["flat"], ["h"]),
        helper.make_node("MatMul", ["h", "W"], ["y"]),
    ]
    constants = {"shape": np.array([-1, 12]), "W": W}
    return infer_shapes(ir.from_proto(make_case(nodes, (3, 4), constants, dtype=TensorProto.FLOAT)))


def tape_of(model, seed=PREDICTED, tones=TONE_FRAME, **options):
    return Tape(model, "x", seed, lambda name: {"standard": STANDARD}[name], tones, 3, **options)


def run(tape, x=None, **feeds):
    proto = ir.to_proto(tape.finish())
    session = ort.InferenceSession(proto.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": windows() if x is None else x, **feeds}), strict=True))


def y_of(x):
    return np.tanh(x.reshape(len(x), -1)) @ W


def gradient_of(x, classes):
    return ((1 - np.tanh(x.reshape(len(x), -1)) ** 2) * W[:, classes].T).reshape(x.shape)


def test_arithmetic_on_the_tape_is_numpys(model):
    tape, x = tape_of(model), windows()
    v = tape.x
    tape.result("sum", v + v * 2.0)
    tape.result("difference", v - abs(v) - 1.0)
    tape.result("quotient", v / 4.0)
    tape.result("total", v.sum(1))
    tape.result("mean", v.mean(0))
    tape.result("taller", v.unsqueeze(1))
    tape.result("piece", v.slice(1, 1, 3))
    got = run(tape)
    want = {
        "sum": 3 * x,
        "difference": x - np.abs(x) - 1,
        "quotient": x / 4,
        "total": x.sum(axis=2),
        "mean": x.mean(axis=1),
        "taller": x[:, :, None],
        "piece": x[:, :, 1:3],
    }
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **CLOSE)


def test_shapes_on_the_tape_follow_the_arithmetic(model):
    tape = tape_of(model)
    v = tape.x
    scale = tape.feed_var("scale", (-1, 1, 1))
    assert v.shape == (3, 4)
    assert v.sum(0).shape == (4,)
    assert v.unsqueeze(0).shape == (1, 3, 4)
    assert v.slice(1, 1, 3).shape == (3, 2)
    assert (v.unsqueeze(0) * scale).shape == (-1, 3, 4)
    assert (v * v.mean(0)).shape == (3, 4)


def test_an_evaluation_gives_the_gradient_and_the_score_of_the_predicted_class(model):
    tape, x = tape_of(model), windows()
    found = tape.evaluate()
    tape.result("cells", found.gradient)
    got = run(tape)
    classes = y_of(x).argmax(axis=1)
    assert len(set(classes)) > 1  # else a fixed class would pass
    np.testing.assert_allclose(got["output:y"], y_of(x), **CLOSE)
    np.testing.assert_allclose(got["score"], y_of(x).max(axis=1), **CLOSE)
    np.testing.assert_allclose(got["cells"], gradient_of(x, classes), **CLOSE)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_predicted_class_picks_its_weights_from_a_dense_layer(make_case, trans_b, alpha):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Tanh", ["flat"], ["h"]),
        helper.make_node("Gemm", ["h", "W"], ["y"], transB=trans_b, alpha=alpha),
    ]
    constants = {"shape": np.array([-1, 12]), "W": W.T.copy() if trans_b else W}
    tape = tape_of(infer_shapes(ir.from_proto(make_case(nodes, (3, 4), constants, dtype=TensorProto.FLOAT))))
    tape.result("cells", tape.evaluate().gradient)
    got, x = run(tape), windows()
    classes = y_of(x).argmax(axis=1)
    assert len(set(classes)) > 1  # else a fixed class would pass
    np.testing.assert_allclose(got["cells"], alpha * gradient_of(x, classes), **CLOSE)


def test_a_seed_adds_up_its_terms(model):
    seed = (Term("y"), Term("y", predicted=True, scale=-2.0), Term("y", log_softmax=True))
    tape, x = tape_of(model, seed), windows()
    tape.result("cells", tape.evaluate().gradient)
    first = np.array([[1.0, 0, 0]] * 5, np.float32)
    second = np.array([[0, 0.5, 0.5]] * 5, np.float32)
    got = run(tape, **{"weights:0": first, "weights:2": second})
    y = y_of(x)
    log_p = y - np.log(np.exp(y).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(got["score"], y[:, 0] - 2 * y.max(axis=1) + log_p[:, 1:].mean(axis=1), **CLOSE)
    p = np.exp(log_p)
    by_y = first - 2 * np.eye(3)[y.argmax(axis=1)] + second - p
    np.testing.assert_allclose(
        got["cells"].reshape(5, -1), (1 - np.tanh(x.reshape(5, -1)) ** 2) * (by_y @ W.T), **CLOSE
    )


def test_kept_values_can_be_differentiated_by_and_read(model):
    tape, x = tape_of(model, keep=["h"]), windows()
    by_h, by_x = tape.evaluate_at(["h", "x"])
    tape.result("gradient", by_h.gradient)
    tape.result("value", by_h.at)
    tape.result("cells", by_x.gradient)
    got = run(tape)
    classes = y_of(x).argmax(axis=1)
    np.testing.assert_allclose(got["gradient"], W[:, classes].T, **CLOSE)
    np.testing.assert_allclose(got["value"], np.tanh(x.reshape(5, -1)), **CLOSE)
    np.testing.assert_allclose(got["cells"], gradient_of(x, classes), **CLOSE)


def test_activations_need_no_backward_pass(model):
    tape = tape_of(model)
    tape.result("value", tape.activations(["h"])[0])
    assert [n.op_type for n in tape.finish().graph] == ["Reshape", "Tanh"]


def test_the_score_alone_needs_no_backward_pass(model):
    tape, x = tape_of(model), windows()
    tape.score()
    got = run(tape)
    np.testing.assert_allclose(got["score"], y_of(x).max(axis=1), **CLOSE)
    assert len(list(tape.finish().graph)) < 10


def test_a_score_may_come_with_the_outputs_and_with_values_that_are_outputs_too(model):
    tape, x = tape_of(model, keep=["h", "y"]), windows()
    tape.score(outputs=True)
    for name, var in zip(("inner", "outer"), tape.values(tape.taps), strict=True):
        tape.result(name, var)
    got = run(tape)
    np.testing.assert_allclose(got["inner"], np.tanh(x.reshape(5, -1)), **CLOSE)
    np.testing.assert_allclose(got["outer"], y_of(x), **CLOSE)
    np.testing.assert_array_equal(got["outer"], got["output:y"])


def test_some_values_are_differentiated_by_under_rules_of_their_own(model):
    """The input by rules that double what passes tanh, the value before it by the plain ones."""

    def doubled(ctx, node, cotangents):
        (plain,) = STANDARD.rules["Tanh"](ctx, node, cotangents)
        return [ctx.op("Add", plain, plain)]

    other = STANDARD.override("doubled", {"Tanh": doubled}, summary="Twice the gradient of tanh.")
    rule_sets = {"standard": STANDARD, "doubled": other}
    tape = Tape(model, "x", PREDICTED, rule_sets.__getitem__, TONE_FRAME, 3, keep=["flat"])
    at_x, at_flat = tape.evaluate_at(["x", "flat"], "doubled", under={"flat": "standard"})
    tape.result("doubled", at_x.gradient)
    tape.result("plain", at_flat.gradient)
    got, x = run(tape), windows()
    expected = gradient_of(x, y_of(x).argmax(axis=1))
    np.testing.assert_allclose(got["doubled"], 2 * expected, **CLOSE)
    np.testing.assert_allclose(got["plain"], expected.reshape(5, -1), **CLOSE)
    assert tape.rule_set_used == "doubled"


def test_a_target_is_influenced_by_what_it_is_computed_from(make_case):
    nodes = [helper.make_node("Tanh", ["x"], ["y"]), helper.make_node("Exp", ["x"], ["aside"])]
    case = infer_shapes(ir.from_proto(make_case(nodes, (3, 4), {}, dtype=TensorProto.FLOAT)))
    tape = tape_of(case, keep=["aside", "y"])
    aside, y = tape.evaluate_at(tape.taps)
    assert [tape.influences(found.at) for found in (aside, y)] == [False, True]


@pytest.mark.parametrize("tones", [TONE_FRAME, FRAME_TONE])
def test_values_per_tone_and_per_frame_are_given_to_their_cells(model, tones):
    frames = np.arange(12) % 4 if tones is TONE_FRAME else np.arange(12) // 3
    tape = tape_of(model, tones=tones, frame_of_cell=frames)
    assert (tape.n_tones, tape.n_frames) == (3, 4)
    tape.score()
    tape.result("tones", tape.cells_of_tones(tape.feed_var("t", (3,))))
    tape.result("frames", tape.cells_of_frames(tape.feed_var("f", (4,))))
    t, f = np.random.default_rng(2).standard_normal((2, 5, 4)).astype(np.float32)
    got = run(tape, t=t[:, :3], f=f)
    np.testing.assert_array_equal(got["tones"].reshape(5, -1), t[:, tones])
    np.testing.assert_array_equal(got["frames"].reshape(5, -1), f[:, frames])


def test_tones_are_told_apart_along_axes_on_which_they_change(model):
    tape = tape_of(model)
    assert [tape.tells_tones_apart(along) for along in ((1,), (2,), (1, 2))] == [True, False, True]
    assert tape_of(model, tones=FRAME_TONE).tells_tones_apart((2,))  # written the other way round, frames hold both


def test_what_was_settled_and_warned_of_is_kept(model):
    tape = tape_of(model)
    tape.settle("layer", "h")
    tape.warn("CODE", "one line")
    assert tape.settled == {"layer": "h"}
    assert [(w.code, w.message, w.window) for w in tape.warnings] == [("CODE", "one line", None)]


def test_an_unknown_value_is_refused(model):
    with pytest.raises(UnknownTensorError, match="'nowhere'"):
        tape_of(model).evaluate_at(["nowhere"])


def test_a_tape_evaluates_once(model):
    tape = tape_of(model)
    tape.evaluate()
    with pytest.raises(MethodNotApplicableError, match="evaluates its model once"):
        tape.score()


def path(tape, alphas, anchor):
    """Evaluate at alpha·x for each alpha; the result ``cells`` has one row of gradients per point."""
    factors = tape.feed_var("alphas", (-1, 1, 1))
    found = tape.evaluate_path(tape.x.unsqueeze(0) * factors, anchor=anchor)
    tape.result("cells", found.gradient)
    tape.result("scores", found.score)
    return run(tape, alphas=np.array(alphas, np.float32).reshape(1, -1, 1, 1))


@pytest.mark.parametrize("anchor", [0, 2])
def test_a_path_is_judged_by_the_class_of_its_anchor(model, anchor):
    alphas, x = [1.0, -1.0, -0.5], windows()
    got = path(tape_of(model), alphas, anchor)
    classes = y_of(alphas[anchor] * x).argmax(axis=1)
    assert (classes != y_of(alphas[2 - anchor] * x).argmax(axis=1)).any()  # else the anchor would not matter
    np.testing.assert_allclose(got["output:y"], y_of(alphas[anchor] * x), **CLOSE)
    for k, alpha in enumerate(alphas):
        scores = y_of(alpha * x)
        np.testing.assert_allclose(got["cells"][:, k], gradient_of(alpha * x, classes), **CLOSE)
        np.testing.assert_allclose(got["scores"][:, k], scores[np.arange(5), classes], **CLOSE)
    np.testing.assert_allclose(got["score"], got["scores"][:, anchor], **CLOSE)


def test_a_path_repeats_weights_that_are_fed_per_window(model):
    tape, x = tape_of(model, (Term("y"),)), windows(2)
    alphas = np.array([1.0, 0.5, 2.0], np.float32).reshape(1, -1, 1, 1)
    factors = tape.feed_var("alphas", (-1, 1, 1))
    found = tape.evaluate_path(tape.x.unsqueeze(0) * factors, anchor=0)
    tape.result("scores", found.score)
    got = run(tape, x, alphas=alphas, **{"weights:0": np.array([[1, 0, 0], [0, 0, 1]], np.float32)})
    for k, alpha in enumerate(alphas.ravel()):
        np.testing.assert_allclose(got["scores"][:, k], y_of(alpha * x)[[0, 1], [0, 2]], **CLOSE)


def test_a_path_through_an_output_whose_width_inference_cannot_tell(make_case):
    # NonZero's size is known at run time only: so is y's width, which is four here.
    nodes = [
        helper.make_node("NonZero", ["mask"], ["where"]),
        helper.make_node("Squeeze", ["where", "axis"], ["picks"]),
        helper.make_node("Gather", ["W", "picks"], ["columns"], axis=1),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "columns"], ["y"]),
    ]
    wide = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
    constants = {
        "mask": np.array([1.0, 1, 0, 1, 0, 1], np.float32),
        "axis": np.array([0]),
        "shape": np.array([-1, 12]),
        "W": wide,
    }
    model = infer_shapes(ir.from_proto(make_case(nodes, (3, 4), constants, dtype=TensorProto.FLOAT)))
    x = windows()
    got = path(tape_of(model), [1.0, 0.5], 0)
    want = x.reshape(5, -1) @ wide[:, [0, 1, 3, 5]]
    np.testing.assert_allclose(got["score"], want.max(axis=1), **CLOSE)
    np.testing.assert_allclose(got["scores"][:, 1], want.max(axis=1) / 2, **CLOSE)


@pytest.mark.parametrize("tones", [TONE_FRAME, FRAME_TONE, np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 0])])
def test_cells_are_folded_by_the_map_of_cells(model, tones):
    tape, x = tape_of(model, tones=tones), windows()
    tape.result("sums", tape.sum_over_tones(tape.x))
    tape.result("means", tape.mean_over_tones(tape.x))
    got = run(tape)
    flat = x.reshape(5, -1)
    sums = np.stack([flat[:, tones == k].sum(axis=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(got["sums"], sums, **CLOSE)
    np.testing.assert_allclose(got["means"], sums / np.bincount(tones), **CLOSE)


def test_only_cells_are_folded(model):
    tape = tape_of(model)
    with pytest.raises(MethodNotApplicableError, match=r"expected 12 cells, got shape \(3,\)"):
        tape.sum_over_tones(tape.x.sum(1))


def test_the_models_own_graph_is_not_changed(model):
    before = ir.to_proto(model).SerializeToString()
    tape = tape_of(model)
    path(tape, [1.0, 0.5], 0)
    assert ir.to_proto(model).SerializeToString() == before


def test_what_is_not_asked_for_is_not_in_the_graph(model):
    tape = tape_of(model)
    tape.feed_var("unused", (3, 4))
    tape.result("cells", tape.x * 2.0)
    graph = tape.finish()
    assert [v.name for v in graph.graph.inputs] == ["x"]
    assert "MatMul" not in {n.op_type for n in graph.graph}


def test_the_rule_set_that_was_used_is_noted(model):
    tape = tape_of(model)
    assert tape.rule_set_used == ""
    tape.evaluate()
    assert tape.rule_set_used == "standard"


def test_portable_graphs_lift_nothing(make_case):
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    weight = np.ones((2, 3, 2), np.float32)
    case = infer_shapes(ir.from_proto(make_case([node], (3, 4), {"w": weight}, dtype=TensorProto.FLOAT)))
    for portable in (False, True):
        tape = tape_of(case, portable=portable)
        tape.result("cells", tape.evaluate().gradient)
        convolution = next(n for n in tape.finish().graph if n.op_type == "Conv")
        assert (convolution.inputs[0].name == "x") is portable


def test_values_of_the_model_may_go_by_the_names_of_results_and_of_what_is_fed(make_case):
    nodes = [
        helper.make_node("Mul", ["x", "score"], ["cells"]),
        helper.make_node("Tanh", ["cells"], ["baseline"]),
        helper.make_node("Exp", ["baseline"], ["y"]),
    ]
    constants = {"score": np.array([2.0, 3.0], np.float32)}
    model = make_case(nodes, (2,), constants, dtype=TensorProto.FLOAT)
    tape = Tape(ir.from_proto(model), "x", (Term("y"),), lambda name: STANDARD, np.zeros(2, np.int64), 1)
    factor = tape.feed_var("baseline", (2,))
    tape.result("cells", tape.evaluate().gradient * factor)
    session = ort.InferenceSession(ir.to_proto(tape.finish()).SerializeToString())
    x = np.array([[0.1, -0.2]], np.float32)
    ones = np.ones((1, 2), np.float32)
    (cells,) = session.run(["cells"], {"x": x, "baseline": ones, "weights:0": ones})
    t = np.tanh(x * constants["score"])
    np.testing.assert_allclose(cells, np.exp(t) * (1 - t**2) * constants["score"], rtol=1e-5)
