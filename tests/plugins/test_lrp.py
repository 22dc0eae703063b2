"""LRP conserves the target's value, but for what biases absorb, and that is reported."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import families
from tonescope_server import Explainer, Target
from tonescope_server.errors import ParameterError

SIZES = (6, 9, 7, 3)
# Relevance is float32, and denominators near zero make single cells many times as large as what they add up to.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense network with biases; and the same without any, whose last cell, always 1, carries them."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("dense")
    weights = [random.standard_normal(shape).astype(np.float32) for shape in pairwise(SIZES)]
    biases = [random.standard_normal(size).astype(np.float32) for size in SIZES[1:]]
    carried = []
    for weight, bias in zip(weights, biases, strict=True):
        below = np.vstack([weight, bias])
        one = np.zeros((len(below), 1), np.float32)
        one[-1] = 1.0  # which the ReLUs leave as it is
        carried.append(below if weight is weights[-1] else np.hstack([below, one]))
    return saved(folder / "biased.onnx", weights, biases), saved(folder / "carried.onnx", carried, None)


def saved(path, weights, biases):
    nodes, constants, x = [], [], "x"
    for number, weight in enumerate(weights):
        operands = [(f"w{number}", weight), *([] if biases is None else [(f"b{number}", biases[number])])]
        constants += [numpy_helper.from_array(array, name) for name, array in operands]
        last = number == len(weights) - 1
        nodes.append(helper.make_node("Gemm", [x, *(name for name, _ in operands)], ["y" if last else f"a{number}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"a{number}"], [f"h{number}"]))
            x = f"h{number}"
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", len(weights[0])), ("y", weights[-1].shape[1]))
    ]
    graph = helper.make_graph(nodes, "dense", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return Explainer.load(path)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus"])
def test_the_delta_is_what_the_biases_absorbed(dense, rule):
    """A bias is a weight of a cell that is always 1: what that cell gets is what the biases get."""
    biased, carried = dense
    x = np.random.default_rng(1).standard_normal((5, SIZES[0])).astype(np.float32)
    with_one = np.hstack([x, np.ones((5, 1), np.float32)])
    found, whole = (e.explain(v, "lrp", 1, dense=rule) for e, v in ((biased, x), (carried, with_one)))
    np.testing.assert_allclose(found.score, whole.score, rtol=1e-5)
    mass = np.abs(whole.cells).sum(axis=1)
    np.testing.assert_allclose(found.cells, whole.cells[:, :-1], atol=ROUNDING * mass.max(), rtol=0)
    absorbed = whole.cells[:, -1]
    assert (np.abs(absorbed) > 0.01 * mass).all()  # else nothing would be reported
    assert (np.abs(found.convergence_delta + absorbed) <= ROUNDING * mass).all()
    assert (np.abs(whole.convergence_delta) <= ROUNDING * mass).all()


# Convolutions, pools, products and ReLUs. Elsewhere normalisations, softmax, gates, and units that only their bias
# makes active keep relevance too.
CONSERVING = ("count_net", "lenet", "resnet", "tcn", "unet")


@pytest.mark.parametrize("name", CONSERVING)
def test_relevance_is_conserved_where_biases_are_left_out(tmp_path, name):
    """MatMul's bias is an Add of its own, a batch normalisation's is folded into the convolution before it."""
    onnx.save(families.FAMILIES[name](), tmp_path / f"{name}.onnx")
    explainer = Explainer.load(tmp_path / f"{name}.onnx")
    x = np.random.default_rng(1).standard_normal((3, *explainer.model.input.shape[1:])).astype(np.float32)
    for folded in (True, False):
        left_out, kept = (
            explainer.explain(x, "lrp", Target.element(2), zero_bias=zero, fold_batch_normalization=folded)
            for zero in (True, False)
        )
        mass = np.abs(left_out.cells).reshape(3, -1).sum(axis=1)
        assert (np.abs(left_out.convergence_delta) <= ROUNDING * mass).all()
        assert (np.abs(kept.convergence_delta) > 10 * ROUNDING * mass).any()


# -- presets ----------------------------------------------------------------------------------------------------

# What each preset is, written out: the rules of dense layers, of convolutions, and of those that read the input.
WRITTEN_OUT = {
    "epsilon_gamma": ("epsilon", "gamma", ""),
    "epsilon": ("epsilon", "epsilon", ""),
    "epsilon_plus": ("epsilon", "z_plus", ""),
    "epsilon_plus_flat": ("epsilon", "z_plus", "flat"),
    "epsilon_gamma_flat": ("epsilon", "gamma", "flat"),
    "epsilon_alpha2_beta1": ("epsilon", "alpha_beta", ""),
    "epsilon_alpha2_beta1_flat": ("epsilon", "alpha_beta", "flat"),
    "z_plus": ("z_plus", "z_plus", ""),
    "alpha2_beta1": ("alpha_beta", "alpha_beta", ""),
    "flat": ("flat", "flat", ""),
    "w2_flat": ("flat", "flat", "w_square"),
    "attn_lrp": ("epsilon", "epsilon", ""),
}


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    path = tmp_path_factory.mktemp("lenet") / "lenet.onnx"
    onnx.save(families.FAMILIES["lenet"](), path)
    explainer = Explainer.load(path)
    return explainer, np.random.default_rng(1).standard_normal((3, *explainer.model.input.shape[1:])).astype(np.float32)


@pytest.mark.parametrize("preset", WRITTEN_OUT)
def test_a_preset_is_the_rules_that_it_stands_for_and_the_result_states_them(lenet, preset):
    explainer, x = lenet
    dense, convolution, first = WRITTEN_OUT[preset]
    named = explainer.explain(x, "lrp", 1, preset=preset)
    spelled = explainer.explain(x, "lrp", 1, dense=dense, convolution=convolution, first=first, alpha=2.0)
    assert named.cells.tobytes() == spelled.cells.tobytes()
    stated = {name: named.parameters[name] for name in ("dense", "convolution", "first")}
    assert stated == {"dense": dense, "convolution": convolution, "first": first}
    assert explainer.explain(x, "lrp", 1, **named.parameters).cells.tobytes() == named.cells.tobytes()


def test_presets_differ_and_all_are_listed(lenet):
    explainer, x = lenet
    choices = explainer.host.method("lrp").Parameters.model_json_schema()["properties"]["preset"]["enum"]
    assert choices == list(WRITTEN_OUT)
    found = {preset: explainer.explain(x, "lrp", 1, preset=preset).cells.tobytes() for preset in WRITTEN_OUT}
    assert len(set(found.values())) == len(set(WRITTEN_OUT.values()))


def test_what_is_stated_beside_a_preset_wins(lenet):
    explainer, x = lenet
    found = explainer.explain(x, "lrp", 1, preset="epsilon_plus_flat", convolution="gamma", epsilon=1e-3)
    want = explainer.explain(x, "lrp", 1, dense="epsilon", convolution="gamma", first="flat", epsilon=1e-3)
    assert found.cells.tobytes() == want.cells.tobytes()
    assert found.parameters["preset"] == "epsilon_plus_flat"


@pytest.mark.parametrize("name", ["transformer", "vit"])
def test_attn_lrp_is_the_rule_set_of_that_name_on_transformers(tmp_path, name):
    onnx.save(families.FAMILIES[name](), tmp_path / "m.onnx")
    explainer = Explainer.load(tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((3, *explainer.model.input.shape[1:])).astype(np.float32)
    found = explainer.explain(x, "lrp", Target.element(1), preset="attn_lrp")
    rules = explainer.gradient(x, Target.element(1), rule_set="attn_lrp")
    np.testing.assert_allclose(found.cells, rules, rtol=0, atol=ROUNDING * np.abs(rules).max())
    assert np.abs(found.cells).max() > 0


def test_an_unknown_preset_is_refused_with_those_there_are(lenet):
    explainer, x = lenet
    with pytest.raises(ParameterError, match=r"'preset'.*'epsilon_gamma', .*got 'best'"):
        explainer.explain(x, "lrp", preset="best")
