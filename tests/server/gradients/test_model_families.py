"""Whole networks: gradients, batch invariance, and completeness where a method promises it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy import special

from tonescope_server import Explainer, Target
from tonescope_server.gradients import differentiate
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.seed import Term
from tonescope_server.gradients.tape import Tape

SOURCE = Path(__file__).resolve().parents[2] / "families.py"
SPEC = importlib.util.spec_from_file_location("tonescope_test_families", SOURCE)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

DIRECTIONS = 8
STEP = 1e-6
# The gradient is float32's, with sums of some hundred terms; the difference in float64 errs by some 1e-9.
TOLERANCE = 1e-5
# The widest float32 can promise of a sum of attributions: each is rounded, and so is the score at both ends.
ROUNDING = 8 * np.finfo(np.float32).eps

# Functions of one element along the whole path: 50 Gauss-Legendre nodes leave nothing but rounding.
SMOOTH = ("mlp", "rnn", "gru", "lstm", "bilstm", "vit", "transformer")
# What takes the time, and what no rule writes again as it is.
LAYERS = ("Conv", "ConvTranspose", "MatMul", "LayerNormalization", "BatchNormalization", "Relu", "Gelu", "Softmax",
          "LSTM", "GRU", "RNN")  # fmt: skip


class LayerNormalization(OpRun):
    """In float64: ONNX's own works in float32 whatever it is given, and a difference of 1e-6 would drown."""

    op_domain = ""

    def _run(self, x, scale, bias, axis=-1, epsilon=1e-5, stash_type=1):
        assert axis == -1
        centred = x - x.mean(axis=-1, keepdims=True)
        return (centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * scale + bias,)


class Gelu(OpRun):
    """In float64: the error function of ONNX's own is rounded to float32."""

    op_domain = ""

    def _run(self, x, approximate="none"):
        return (x * special.ndtr(x),)


class Case:
    """One network, its explainer, and windows for it."""

    def __init__(self, name, folder):
        self.proto = families.FAMILIES[name]()
        onnx.save(self.proto, folder / f"{name}.onnx")
        self.explainer = Explainer.load(folder / f"{name}.onnx")
        self.x = self.windows(1, seed=1)

    def windows(self, n, seed):
        shape = self.explainer.model.input.shape[1:]
        return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("families"), {}

    def case(name):
        if name not in made:
            made[name] = Case(name, folder)
        return made[name]

    return case


def close(cells, change, scores):
    """Tell whether cells add up to a change: to 1e-5 of it, or as far as float32 rounding lets anything add up.

    Where the target hardly changes while cells cancel, or while the scores are large, what is left is rounding: of
    each cell, relative to itself, and of the two scores.
    """
    cells = cells.astype(np.float64)
    allowed = 1e-5 * abs(change) + ROUNDING * (np.abs(cells).sum() + np.abs(scores).max())
    return abs(cells.sum() - change) <= allowed


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_gradient_of_a_linear_functional_agrees_with_central_differences(cases, name):
    case = cases(name)
    random = np.random.default_rng(2)
    functional = random.standard_normal((1, families.CLASSES))
    graph = ir.to_proto(differentiate(ir.from_proto(case.proto), ["x"]))
    session = ort.InferenceSession(graph.SerializeToString())
    feeds = {"x": case.x, "cotangent:logits": functional.astype(np.float32)}
    gradient = session.run(["gradient:x"], feeds)[0].astype(np.float64)[0]
    directions = random.standard_normal((DIRECTIONS, *gradient.shape))
    directions /= np.sqrt((directions.reshape(DIRECTIONS, -1) ** 2).sum(1)).reshape(-1, *[1] * gradient.ndim)
    plain = ReferenceEvaluator(families.in_float64(case.proto), new_ops=[Gelu, LayerNormalization])
    steps = np.concatenate([directions, -directions]) * STEP
    scores = plain.run(None, {"x": case.x + steps})[0] @ functional.astype(np.float32).astype(np.float64).ravel()
    want = (scores[:DIRECTIONS] - scores[DIRECTIONS:]) / (2 * STEP)
    got = (directions * gradient).reshape(DIRECTIONS, -1).sum(1)
    np.testing.assert_allclose(got, want, atol=TOLERANCE * np.linalg.norm(gradient), rtol=0)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_compiled_gradient_is_the_one_of_the_plain_graph(cases, name):
    """What the explainer runs is lifted to two dimensions where it can be; a gradient must not tell."""
    case = cases(name)
    session = ort.InferenceSession(
        ir.to_proto(differentiate(ir.from_proto(case.proto), ["x"], portable=True)).SerializeToString()
    )
    cotangent = np.eye(families.CLASSES, dtype=np.float32)[3:4]
    (want,) = session.run(["gradient:x"], {"x": case.x, "cotangent:logits": cotangent})
    got = case.explainer.gradient(case.x, Target.element(3))
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_jacobian_agrees_with_central_differences_and_with_one_gradient_for_each_target(cases, name, count):
    """One window folds the targets into the batch, three take a backward pass for each."""
    case = cases(name)
    x = case.windows(count, seed=4)
    got = case.explainer.jacobian(x)
    assert got.shape == (families.CLASSES, *x.shape)
    want = np.stack([case.explainer.gradient(x, target) for target in range(families.CLASSES)])
    # The same arithmetic on batches of other sizes: kernels may sum in another order.
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max(), rtol=0)
    directions = np.random.default_rng(2).standard_normal((DIRECTIONS, *x.shape[1:]))
    directions /= np.linalg.norm(directions.reshape(DIRECTIONS, -1), axis=1).reshape(-1, *[1] * (x.ndim - 1))
    plain = ReferenceEvaluator(families.in_float64(case.proto), new_ops=[Gelu, LayerNormalization])
    scores = plain.run(None, {"x": x[-1:] + np.concatenate([directions, -directions]) * STEP})[0]
    slopes = (scores[:DIRECTIONS] - scores[DIRECTIONS:]) / (2 * STEP)
    along = np.einsum("tn,dn->dt", got[:, -1].reshape(families.CLASSES, -1), directions.reshape(DIRECTIONS, -1))
    sizes = np.linalg.norm(got[:, -1].reshape(families.CLASSES, -1), axis=1)
    assert (np.abs(along - slopes) <= TOLERANCE * sizes).all()


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_jacobians_graph_holds_each_node_of_the_forward_pass_once(cases, name, fold):
    explainer = cases(name).explainer
    seed = (Term("logits"),)

    def graph_of(describe):
        cells, graph = explainer.model.cells, infer_shapes(explainer.model.graph.clone(deep_copy=False))
        tape = Tape(graph, "x", seed, explainer.host.rule_set, cells.tone_of_cell, cells.n_tones)
        describe(tape)
        return tape.finish().graph

    forward, found = (
        signatures(graph_of(describe))
        for describe in (Tape.predict, lambda tape: tape.jacobian(["x"], families.CLASSES, fold=fold))
    )
    # The result is the Jacobian alone: of the forward pass the graph has what a gradient reads, once, on x itself.
    layers = {s for s in forward if s[0] in LAYERS and (s[0] != "MatMul" or s[-1] is not None)}
    assert any(found[s] for s in layers)
    for each in layers:
        assert found[each] <= forward[each], each
        assert not found["repeated", *each], each


def signatures(graph):
    """Count nodes by operator and by the constants that they are given: those are a node's own in these networks.

    What comes after a Tile, which repeats windows for each target, is counted as ``repeated`` too.
    """
    made_of = {value: name for name, value in graph.initializers.items()}
    found, repeated = Counter(), set()
    for node in graph:
        parts = [made_of.get(v) for v in node.inputs if v is not None]
        if parts and None not in parts:
            made_of[node.outputs[0]] = (node.op_type, *parts)
            continue
        found[node.op_type, *parts] += 1
        if node.op_type == "Tile" or any(v in repeated for v in node.inputs):
            repeated.update(node.outputs)
            found["repeated", node.op_type, *parts] += 1
    return found


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_windows_gradient_does_not_depend_on_its_batch(cases, name):
    case = cases(name)
    many = case.windows(64, seed=3)
    together = case.explainer.gradient(many, Target.element(1))
    for index in range(64):
        alone = case.explainer.gradient(many[index : index + 1], Target.element(1))[0]
        np.testing.assert_allclose(together[index], alone, atol=1e-6 * np.abs(alone).max(), rtol=0)


@pytest.mark.parametrize("name", SMOOTH)
def test_integrated_gradients_of_smooth_networks_are_complete(cases, name):
    case = cases(name)
    found = case.explainer.explain(case.x, "integrated_gradients", Target.element(2))
    ends = np.concatenate([case.x, np.zeros_like(case.x)])
    scores = case.explainer.score(ends, Target.element(2)).astype(np.float64)
    assert close(found.cells, scores[0] - scores[1], scores)


@pytest.mark.parametrize("name", sorted(set(families.FAMILIES) - set(SMOOTH)))
def test_integrated_gradients_of_networks_with_kinks_approach_completeness(cases, name):
    """Each kink on the path leaves an error that falls with the steps; the reported delta says how much."""
    case = cases(name)
    left = []
    for steps in (32, 2048):
        found = case.explainer.explain(case.x, "integrated_gradients", Target.element(2), n_steps=steps)
        mass = np.abs(found.cells).sum()
        left.append(abs(float(found.convergence_delta[0])) / mass)
    assert left[1] <= 1e-4
    assert left[1] <= left[0] + 1e-6


@pytest.mark.parametrize("scale", [1, 3, 10, 30])
@pytest.mark.parametrize("name", families.FAMILIES)
def test_deep_lift_is_complete(cases, name, scale):
    """However large the windows are: softmax saturates there, and at a reference of zeros it is flat."""
    case = cases(name)
    x = case.x * np.float32(scale)
    for baseline in (0.0, 0.3):
        found = case.explainer.explain(x, "deep_lift", Target.element(2), baseline=baseline)
        ends = np.concatenate([x, np.full_like(x, baseline)])
        scores = case.explainer.score(ends, Target.element(2)).astype(np.float64)
        assert close(found.cells, scores[0] - scores[1], scores), (found.convergence_delta, scores)
        # Parts that cancel a thousandfold would be complete, and say nothing.
        assert np.abs(found.cells).sum() <= 1e3 * np.abs(scores).max()
