"""Noise around the window: against central differences in float64, sample by sample, on given noise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.linear import write_linear
from tonescope_server import Explainer, plugin
from tonescope_server.errors import ParameterError, ShapeError

METHODS = ["smoothgrad", "smoothgrad_squared", "vargrad"]
SMOOTH = ["mlp", "scrambled"]
# float32 against central differences in float64, relative to the largest value; of a variance, likewise.
TOLERANCE = 2e-4


def close(got, want, tolerance=TOLERANCE):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def noise_for(oracle, n=9, scale=0.5, seed=4):
    return (scale * np.random.default_rng(seed).standard_normal((n, *oracle.x.shape[1:]))).astype(np.float32)


def gradients(oracle, noise, index=1):
    """Return the gradient at each noisy copy of each window: (n, batch, *input shape)."""
    return np.stack([oracle.gradient(oracle.element(index), oracle.x.astype(np.float64) + each) for each in noise])


DEFINITIONS = {
    "smoothgrad": lambda g: g.mean(axis=0),
    "smoothgrad_squared": lambda g: (g**2).mean(axis=0),
    "vargrad": lambda g: g.var(axis=0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SMOOTH)
def test_it_is_what_its_definition_says_of_the_gradients_at_the_noisy_copies(oracles, name, method):
    oracle, noise = oracles[name], noise_for(oracles[name])
    want = DEFINITIONS[method](gradients(oracle, noise))
    result = oracle.explainer.explain(oracle.x, method, 1, noise=noise)
    close(result.cells, want)
    close(result.tones, oracle.fold(want))


@pytest.mark.parametrize("name", SMOOTH)
def test_the_standard_error_is_that_of_the_mean_over_samples(oracles, name):
    oracle, noise = oracles[name], noise_for(oracles[name])
    each = gradients(oracle, noise)
    for method, power in (("smoothgrad", 1), ("smoothgrad_squared", 2)):
        tones = np.stack([oracle.fold(one**power) for one in each])
        result = oracle.explainer.explain(oracle.x, method, 1, noise=noise)
        close(result.standard_error, tones.std(axis=0, ddof=1) / np.sqrt(len(noise)), 1e-3)
        assert result.batches == len(noise)


@pytest.mark.parametrize("n", [2, 8, 9])
def test_the_standard_error_of_a_variance_is_that_of_the_mean_over_independent_pairs(oracles, n):
    oracle = oracles["mlp"]
    noise = noise_for(oracle, n)
    each = gradients(oracle, noise)
    pairs = [oracle.fold((each[i] - each[i + 1]) ** 2 / 2) for i in range(0, n - 1, 2)]
    result = oracle.explainer.explain(oracle.x, "vargrad", 1, noise=noise)
    assert result.batches == len(pairs) == n // 2
    if n == 2:
        assert result.standard_error is None
    else:
        close(result.standard_error, np.std(pairs, axis=0, ddof=1) / np.sqrt(len(pairs)), 1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_drawn_noise_is_normal_and_scaled_by_the_windows_own_range(oracles, method):
    oracle, level, n = oracles["scrambled"], 0.2, 40
    unit = np.stack([plugin.generator(3, "noise", i).standard_normal(oracle.x.shape[1:]) for i in range(n)])
    drawn = oracle.explainer.explain(oracle.x, method, 0, n=n, noise_level=level, seed=3)
    assert drawn.evaluations == n + 2  # two runs, each with the window itself
    for row, window in enumerate(oracle.x):
        noise = unit * level * float(window.max() - window.min())
        given = oracle.explainer.explain(window[None], method, 0, noise=noise)
        close(drawn.cells[row], given.cells[0], 1e-5)


def test_draws_are_normal_and_differ_from_each_other():
    drawn = np.stack([plugin.generator(0, "noise", i).standard_normal(2000) for i in range(20)])
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)
    assert abs(drawn.std() - 1) < 4 / np.sqrt(2 * drawn.size)
    correlated = np.corrcoef(drawn) - np.eye(20)
    assert np.abs(correlated).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize("method", METHODS)
def test_fewer_samples_are_the_first_of_more(oracles, method):
    """What a run adds depends on nothing but the seed, so that an estimate under way is that of fewer samples."""
    oracle = oracles["mlp"]
    steps = [found for found, _ in oracle.explainer.prepare(method, 1, {"n": 96}).progress(oracle.x[:1])]
    assert [step.batches for step in steps] == ([16, 32, 48] if method == "vargrad" else [32, 64, 96])
    for step, n in zip(steps, (32, 64, 96), strict=True):
        alone = oracle.explainer.explain(oracle.x[:1], method, 1, n=n)
        close(step.cells, alone.cells, 1e-5)
        close(step.standard_error, alone.standard_error, 1e-4)
    assert steps[-1].cells.tobytes() == oracle.explainer.explain(oracle.x[:1], method, 1, n=96).cells.tobytes()


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A model that is a scalar product, and its weights."""
    weights = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    store = write_linear(tmp_path_factory.mktemp("linear") / "m", weights, '[input]\ncell_order = "tone_frame"\n')
    return Explainer.load(store / "m"), weights


def test_a_linear_model_has_the_same_gradient_everywhere(linear):
    explainer, weights = linear
    x = np.random.default_rng(5).standard_normal((3, 6, 5)).astype(np.float32)
    want = np.broadcast_to(weights, x.shape)
    smooth = explainer.explain(x, "smoothgrad")
    close(smooth.cells, want, 1e-6)
    np.testing.assert_allclose(smooth.standard_error, 0, atol=1e-6)
    close(explainer.explain(x, "smoothgrad_squared").cells, want**2, 1e-6)
    varied = explainer.explain(x, "vargrad")
    np.testing.assert_allclose(varied.cells, 0, atol=1e-12)
    assert (varied.cells >= 0).all()


def test_a_small_variance_of_large_gradients_is_not_lost_in_rounding(tmp_path):
    """``y = 3000 Σ x + Σ tanh x``: float32 sums of squares of gradients keep no digit of the variance of tanh's."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["curved"]),
        helper.make_node("Mul", ["x", "steep"], ["straight"]),
        helper.make_node("Add", ["curved", "straight"], ["both"]),
        helper.make_node("ReduceSum", ["both", "axis"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(3000.0, np.float32), "steep"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 8), ("y", 1))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    noise = 0.3 * np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)
    want = (1 - np.tanh(x.astype(np.float64) + noise[:, None]) ** 2).var(axis=0)
    squares = ((3000 + np.sqrt(want)).astype(np.float32) ** 2).max()
    assert np.spacing(squares) > 0.5 * want.min()  # else sums of squares would do
    found = Explainer.load(tmp_path / "m.onnx").explain(x, "vargrad", 0, noise=noise)
    # A gradient of 3,000 is itself rounded to 1.2e-4.
    np.testing.assert_allclose(found.cells, want, rtol=5e-3, atol=1e-5)


def test_another_seed_draws_other_noise(oracles):
    oracle = oracles["mlp"]
    one, other, again = (oracle.explainer.explain(oracle.x, "smoothgrad", 1, seed=seed).cells for seed in (0, 1, 0))
    assert one.tobytes() == again.tobytes()
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (np.zeros((4, 5, 10)), ShapeError, r"'noise': expected \(n, 10, 5\), n at least 2; got \(4, 5, 10\)"),
        (np.zeros((1, 10, 5)), ShapeError, r"n at least 2; got \(1, 10, 5\)"),
        (np.zeros((0, 10, 5)), ShapeError, r"n at least 2; got \(0,"),
        (np.full((2, 10, 5), np.nan), ParameterError, "'noise': expected finite numbers"),
        ("loud", ParameterError, "'noise'"),
    ],
)
def test_noise_that_fits_no_window_is_refused_in_one_line(oracles, noise, error, message):
    with pytest.raises(error, match=message) as caught:
        oracles["scrambled"].explainer.explain(oracles["scrambled"].x, "smoothgrad", noise=noise)
    assert "\n" not in str(caught.value)
