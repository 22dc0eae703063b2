"""What biases absorb of relevance is told apart from the rest: f(x) = Σ relevance + bias share + rest."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tonescope_server import Explainer, Target

SOURCE = Path(__file__).resolve().parents[2] / "families.py"
SPEC = importlib.util.spec_from_file_location("tonescope_test_families_absorbed", SOURCE)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

TARGET = Target.element(2)
# Sums, products, pools, ReLUs and normalisations of held statistics: nothing but biases absorbs there, and ε.
PLAIN = ("mlp", "lenet", "resnet", "depthwise", "tcn", "unet")
KEEPING = ("transformer", "vit", "lstm")  # softmax and gates keep relevance of their own


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("absorbed"), {}

    def named(name):
        if name not in made:
            onnx.save(families.FAMILIES[name](), folder / f"{name}.onnx")
            made[name] = Explainer.load(folder / f"{name}.onnx")
        return made[name]

    return named


def windows(explainer, n=3):
    return np.random.default_rng(1).standard_normal((n, *explainer.model.input.shape[1:])).astype(np.float32)


def parts(explainer, x, **parameters):
    found = explainer.explain(x, "lrp", TARGET, **parameters)
    total = found.cells.reshape(len(x), -1).sum(1, dtype=np.float64)
    mass = np.abs(found.cells).reshape(len(x), -1).sum(1)
    score = explainer.score(x, TARGET).astype(np.float64)
    return total, found.maps["bias"], score - total - found.maps["bias"], mass + np.abs(score)


@pytest.mark.parametrize("preset", ["epsilon_gamma", "epsilon"])
@pytest.mark.parametrize("name", PLAIN)
def test_relevance_and_what_biases_absorbed_are_the_score(load, name, preset):
    explainer = load(name)
    _, bias, rest, mass = parts(explainer, windows(explainer), preset=preset)
    assert bias.shape == (3,)
    # ε takes a share of 1e-6 of what is near nothing, and float32 rounds sums of cells that cancel.
    assert (np.abs(rest) <= 1e-3 * (mass + np.abs(bias))).all()
    assert np.abs(bias).max() > 1e-3


@pytest.mark.parametrize("name", ["mlp", "lenet", *KEEPING])
def test_the_bias_share_of_a_window_does_not_depend_on_its_batch(load, name):
    explainer = load(name)
    x = windows(explainer, 4)
    together = explainer.explain(x, "lrp", TARGET).maps["bias"]
    alone = [explainer.explain(one[None], "lrp", TARGET).maps["bias"][0] for one in x]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5 * np.abs(together).max() + 1e-7)


@pytest.mark.parametrize("name", sorted({*PLAIN} - {"mlp"}))  # which has a layer normalisation: its bias is kept
def test_biases_that_are_left_out_absorb_nothing(load, name):
    explainer = load(name)
    assert not parts(explainer, windows(explainer), zero_bias=True)[1].any()


@pytest.mark.parametrize("spelled", ["Gemm", "MatMul, Add"])
def test_a_layers_bias_absorbs_in_proportion_to_what_it_gave(make_case, tmp_path, spelled):
    """Two layers by hand, unit by unit, however an exporter writes the first."""
    random = np.random.default_rng(3)
    w, b, v = (random.standard_normal(s).astype(np.float32) for s in ((6, 5), (5,), (5, 3)))
    first = {
        "Gemm": [helper.make_node("Gemm", ["x", "w", "b"], ["h"])],
        "MatMul, Add": [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["h"])],
    }[spelled]
    nodes = [*first, helper.make_node("Relu", ["h"], ["r"]), helper.make_node("MatMul", ["r", "v"], ["y"])]
    path = tmp_path / "two.onnx"
    onnx.save(make_case(nodes, (6,), {"w": w, "b": b, "v": v}, dtype=TensorProto.FLOAT), path)
    explainer = Explainer.load(path)
    x = random.standard_normal((4, 6)).astype(np.float32)
    found = explainer.explain(x, "lrp", TARGET)
    for row in range(4):
        h = x[row] @ w + b
        relevance = np.maximum(h, 0) * v[:, 2]
        assert found.maps["bias"][row] == pytest.approx(sum(relevance * b / h), rel=1e-4, abs=1e-5)


SUMS = {
    "Sum": [("Sum", "h b x", "s")],
    "Sum, the constant first": [("Sum", "b x h", "s")],
    "Add, Add": [("Add", "h b", "t"), ("Add", "t x", "s")],
    "Mean": [("Mean", "h b x", "s")],
}


@pytest.mark.parametrize("zero_bias", [False, True])
@pytest.mark.parametrize("spelled", SUMS)
def test_a_constant_among_several_terms_is_a_bias(make_case, tmp_path, spelled, zero_bias):
    """By hand: each term has of a sum's relevance what it gave to it, and a bias too where it is not left out."""
    random = np.random.default_rng(3)
    v, b, w = (random.standard_normal(s).astype(np.float32) for s in ((4, 4), (1, 4), (4, 3)))
    nodes = [helper.make_node("MatMul", ["x", "v"], ["h"])]
    nodes += [helper.make_node(op, operands.split(), [result]) for op, operands, result in SUMS[spelled]]
    nodes.append(helper.make_node("MatMul", ["s", "w"], ["y"]))
    path = tmp_path / "sum.onnx"
    onnx.save(make_case(nodes, (4,), {"v": v, "b": b, "w": w}, dtype=TensorProto.FLOAT), path)
    explainer = Explainer.load(path)
    x = random.standard_normal((4, 4)).astype(np.float32)
    found = explainer.explain(x, "lrp", TARGET, zero_bias=zero_bias)
    h, number = x @ v, 3 if spelled == "Mean" else 1
    relevance = (h + b + x) / number * w[:, 2]
    below = h + x + (0 if zero_bias and spelled != "Add, Add" else b)
    if zero_bias and spelled == "Add, Add":  # the bias is left out of the first sum, not of the second, which has it
        below, own = h + b + x, relevance * (h + b) / (h + b + x)
    else:
        own = relevance * h / below
    want = relevance * x / below + x * np.einsum("ij,nj->ni", v, own / h)
    np.testing.assert_allclose(found.cells, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    bias = np.zeros(4) if zero_bias else (relevance * b / below).sum(1)
    np.testing.assert_allclose(found.maps["bias"], bias, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_a_mask_of_minus_infinity_leaves_the_share_a_number(make_case, tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["q"]),
        helper.make_node("Softmax", ["q"], ["p"]),
        helper.make_node("Gemm", ["p", "w", "b"], ["y"]),
    ]
    random = np.random.default_rng(3)
    w, b = random.standard_normal((4, 3)).astype(np.float32), random.standard_normal(3).astype(np.float32)
    mask = np.array([0, 0, -np.inf, 0], np.float32)
    path = tmp_path / "masked.onnx"
    onnx.save(make_case(nodes, (4,), {"w": w, "b": b, "mask": mask}, dtype=TensorProto.FLOAT), path)
    explainer = Explainer.load(path)
    found = explainer.explain(random.standard_normal((3, 4)).astype(np.float32), "lrp", TARGET)
    np.testing.assert_allclose(found.maps["bias"], b[2], rtol=1e-4)  # all of the last layer's
