from __future__ import annotations

import numpy as np
import pytest

from tonescope_server import Target
from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.testing import tiny_windows

METHOD = "integrated_gradients"
SMOOTH = ["mlp", "scrambled"]
# float32 against an integral of central differences in float64, relative to the largest value.
TOLERANCE = 2e-4


def close(got, want, tolerance=TOLERANCE):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def integral(oracle, baseline, score, nodes, weights):
    """Return (x − b) · Σ w ∇f(b + α (x − b)) by central differences, point by point."""
    x, b = oracle.x.astype(np.float64), np.broadcast_to(baseline, oracle.x.shape).astype(np.float64)
    total = sum(w * oracle.gradient(score, b + a * (x - b)) for a, w in zip(nodes, weights, strict=True))
    return (x - b) * total


def change(oracle, baseline, score):
    b = np.broadcast_to(baseline, oracle.x.shape)
    return score(oracle.x) - score(b)


@pytest.mark.parametrize("name", SMOOTH)
def test_it_is_the_integral_of_the_gradient_along_the_path(oracles, name):
    oracle = oracles[name]
    midpoints = (np.arange(100) + 0.5) / 100  # a rule of its own: the midpoint rule errs by about 1e-4 here
    want = integral(oracle, 0.3, oracle.element(1), midpoints, np.full(100, 0.01))
    close(oracle.explainer.explain(oracle.x, METHOD, 1, baseline=0.3).cells, want, 1e-3)


@pytest.mark.parametrize("rule", ["gauss_legendre", "trapezoid", "riemann_trapezoid"])
@pytest.mark.parametrize("name", ["mlp", "conv_1d"])
def test_each_rule_has_its_own_nodes_and_weights(oracles, name, rule):
    oracle, n = oracles[name], 5
    nodes = np.linspace(0, 1, n)
    weights = {
        "trapezoid": np.array([0.125, 0.25, 0.25, 0.25, 0.125]),
        "riemann_trapezoid": np.array([0.1, 0.2, 0.2, 0.2, 0.1]),
        # The roots of the fifth Legendre polynomial, moved from [-1, 1] to [0, 1].
        "gauss_legendre": np.array([0.1184634425, 0.2393143352, 0.2844444444, 0.2393143352, 0.1184634425]),
    }[rule]
    if rule == "gauss_legendre":
        a, b = np.sqrt(5 - 2 * np.sqrt(10 / 7)) / 3, np.sqrt(5 + 2 * np.sqrt(10 / 7)) / 3
        nodes = (np.array([-b, -a, 0, a, b]) + 1) / 2
    want = integral(oracle, 0.0, oracle.element(0), nodes, weights)
    result = oracle.explainer.explain(oracle.x, METHOD, 0, n_steps=n, rule=rule, baseline=0.0)
    close(result.cells, want)
    close(result.tones, oracle.fold(want))


def test_captums_trapezoid_is_the_textbooks_times_n_minus_one_over_n(oracles):
    oracle = oracles["mlp"]
    for n in (2, 5, 50):
        textbook = oracle.explainer.explain(oracle.x, METHOD, n_steps=n, rule="trapezoid").cells
        captums = oracle.explainer.explain(oracle.x, METHOD, n_steps=n, rule="riemann_trapezoid").cells
        close(captums, textbook * (n - 1) / n, 1e-6)


@pytest.mark.parametrize("baseline", [None, 0.0, -1.5])
def test_the_delta_is_what_the_cells_leave_of_the_change(oracle, baseline):
    options = {} if baseline is None else {"baseline": baseline}
    result = oracle.explainer.explain(oracle.x, METHOD, 1, n_steps=4, **options)
    stated = oracle.model.manifest.baseline
    start = np.full(oracle.x.shape[1:], stated.value)
    if stated.tones:
        start = np.array(stated.tones)[oracle.tone_of_cell].reshape(oracle.x.shape[1:])
    start = start if baseline is None else baseline
    moved = change(oracle, start, oracle.element(1))
    left = result.cells.reshape(5, -1).sum(axis=1, dtype=np.float64) - moved
    np.testing.assert_allclose(result.convergence_delta, left, atol=2e-5 * np.abs(oracle.output(oracle.x)).max())
    np.testing.assert_allclose(result.score, oracle.output(oracle.x)[:, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMOOTH)
def test_it_is_complete_on_smooth_models(oracles, name):
    oracle = oracles[name]
    result = oracle.explainer.explain(oracle.x, METHOD, 1, baseline=0.0)
    moved = change(oracle, 0.0, oracle.element(1))
    assert np.abs(result.convergence_delta).max() <= 1e-5 * np.abs(moved).max()


@pytest.mark.parametrize("name", ["conv_1d", "conv_2d"])
def test_it_is_complete_to_a_thousandth_on_relu_models_with_256_nodes(oracles, name):
    oracle = oracles[name]
    result = oracle.explainer.explain(oracle.x, METHOD, 1, n_steps=256, baseline=0.0)
    moved = change(oracle, 0.0, oracle.element(1))
    assert np.abs(result.convergence_delta).max() <= 1e-3 * np.abs(moved).max()


def test_more_nodes_leave_less(oracles):
    oracle = oracles["conv_1d"]
    left = [
        np.abs(oracle.explainer.explain(oracle.x, METHOD, 1, n_steps=n, rule="trapezoid").convergence_delta).max()
        for n in (4, 32, 256)
    ]
    assert left[0] > 4 * left[1] > 16 * left[2]


def test_a_linear_target_needs_two_nodes(oracles):
    """Of a linear function every rule gives (x − b) · slope: here of a model's own last layer."""
    oracle = oracles["mlp"]
    tiny = oracle.x * 1e-3  # where tanh and sigmoid are all but linear
    result = oracle.explainer.explain(tiny, METHOD, 0, n_steps=2, baseline=0.0)
    close(result.cells, tiny * oracle.gradient(oracle.element(0), tiny), 1e-3)


def test_the_predicted_class_is_that_of_the_window_all_along_the_path(oracles):
    oracle = oracles["scrambled"]
    classes = oracle.output(oracle.x).argmax(axis=1)
    along = [oracle.output(a * oracle.x).argmax(axis=1) for a in (-1.0, 0.25, 0.5)]
    assert any((c != classes).any() for c in along)  # else this could not fail
    by_default = oracle.explainer.explain(oracle.x, METHOD, baseline=-oracle.x)
    named = oracle.explainer.explain(oracle.x, METHOD, classes, baseline=-oracle.x)
    close(by_default.cells, named.cells, 1e-6)
    np.testing.assert_allclose(by_default.prediction.scores, oracle.output(oracle.x), rtol=1e-4, atol=1e-5)


def test_a_difference_of_targets_is_the_difference_of_their_attributions(oracles):
    oracle = oracles["conv_1d"]
    plus, minus = Target.element(0, "count"), Target.element(0, "confidence")
    both = oracle.explainer.explain(oracle.x, METHOD, Target.difference(plus, minus))
    a, b = (oracle.explainer.explain(oracle.x, METHOD, t) for t in (plus, minus))
    close(both.cells, a.cells - b.cells, 1e-5)
    np.testing.assert_allclose(both.convergence_delta, a.convergence_delta - b.convergence_delta, atol=1e-5)


# -- baselines --------------------------------------------------------------------------------------------------


def test_a_baseline_may_be_a_number_a_window_or_one_per_window(oracles):
    oracle = oracles["scrambled"]
    window = tiny_windows(oracle.model, 1, seed=8)
    want = oracle.explainer.explain(oracle.x, METHOD, 0, baseline=window)
    for same in (window[0], window.tolist(), np.repeat(window, 5, axis=0), window.astype(np.float64)):
        np.testing.assert_array_equal(oracle.explainer.explain(oracle.x, METHOD, 0, baseline=same).cells, want.cells)
    number = oracle.explainer.explain(oracle.x, METHOD, 0, baseline=0.5)
    full = oracle.explainer.explain(oracle.x, METHOD, 0, baseline=np.full((10, 5), 0.5))
    np.testing.assert_array_equal(number.cells, full.cells)


def test_one_baseline_per_window_stays_with_its_window(oracles):
    oracle = oracles["scrambled"]
    count = 30  # more than fit into one run
    x, baselines = tiny_windows(oracle.model, count), tiny_windows(oracle.model, count, seed=8)
    whole = oracle.explainer.explain(x, METHOD, 0, baseline=baselines)
    for row in (0, 7, 29):
        alone = oracle.explainer.explain(x[row : row + 1], METHOD, 0, baseline=baselines[row])
        close(whole.cells[row], alone.cells[0], 1e-5)


@pytest.mark.parametrize(
    ("baseline", "error", "message"),
    [
        (np.zeros((5, 10)), ShapeError, r"'baseline': expected \(10, 5\).*got \(5, 10\)"),
        (np.zeros((2, 10, 5)), ShapeError, r"'baseline': expected \(10, 5\).*got \(2, 10, 5\)"),
        (np.zeros((1, 1, 10, 5)), ShapeError, r"got \(1, 1, 10, 5\)"),
        (np.nan, ParameterError, r"'baseline': expected finite numbers"),
        (1e300, ParameterError, r"'baseline': expected finite numbers"),
        (np.full((10, 5), np.inf), ParameterError, r"'baseline': expected finite numbers"),
        ([[1.0], [1.0, 2.0]], ParameterError, r"'baseline': expected a number or nested lists"),
        ([["a"]], ParameterError, r"'baseline': expected a number or nested lists"),
        ("nothing", ParameterError, r"'baseline'.*'zero', 'manifest', .*got 'nothing'"),
        ("dataset_mean", ParameterError, r"'baseline': 'dataset_mean': the manifest states none: add dataset_mean"),
        ("empty_room", ParameterError, r"'baseline': 'empty_room': the manifest states none: add empty_room"),
        ({"a": 1}, ParameterError, r"'baseline'"),
    ],
)
def test_a_wrong_baseline_is_refused_in_one_line(oracles, baseline, error, message):
    oracle = oracles["scrambled"]
    with pytest.raises(error, match=message) as caught:
        oracle.explainer.explain(oracle.x, METHOD, baseline=baseline)
    assert "\n" not in str(caught.value)


# -- as many nodes as are needed --------------------------------------------------------------------------------

RAISED = ["adaptive", "progressive"]


@pytest.mark.parametrize("rule", RAISED)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_nodes_are_added_until_the_delta_is_within_the_tolerance(oracle, rule, tolerance):
    result = oracle.explainer.explain(oracle.x, METHOD, 1, rule=rule, tolerance=tolerance, max_steps=16384)
    moved = result.cells.reshape(5, -1).sum(axis=1, dtype=np.float64) - result.convergence_delta
    rounding = 3e-6 * np.abs(oracle.output(oracle.x)).max()
    assert (np.abs(result.convergence_delta) <= tolerance * np.abs(moved) + rounding).all()
    assert not [warning for warning in result.warnings if warning.code == "NOT_CONVERGED"]


@pytest.mark.parametrize("rule", RAISED)
@pytest.mark.parametrize("name", ["conv_1d", "scrambled"])
def test_a_window_takes_the_nodes_that_it_needs_and_no_more(oracles, rule, name):
    """The answer is that of the quadrature with as many nodes, whatever the others in the batch need."""
    oracle, options = oracles[name], {"rule": rule, "tolerance": 2e-3, "max_steps": 4096, "baseline": 0.0}
    found = oracle.explainer.explain(oracle.x, METHOD, 1, **options)
    steps = found.maps["n_steps"].astype(int)
    fixed = "gauss_legendre" if rule == "adaptive" else "trapezoid"
    if name == "conv_1d":
        assert len(set(steps.tolist())) > 1  # else no window would have had to wait for another
    for row, n in enumerate(steps.tolist()):
        window, scale = oracle.x[row : row + 1], np.abs(found.cells[row]).max()
        same = oracle.explainer.explain(window, METHOD, 1, rule=fixed, n_steps=n, baseline=0.0)
        np.testing.assert_allclose(found.cells[row], same.cells[0], rtol=0, atol=1e-5 * scale)
        alone = oracle.explainer.explain(window, METHOD, 1, **options)
        assert alone.maps["n_steps"].tolist() == [n]
        np.testing.assert_allclose(found.cells[row], alone.cells[0], rtol=0, atol=1e-5 * scale)
        fewer = (n // 2) if rule == "adaptive" else (n + 1) // 2
        if fewer >= 8:
            before = oracle.explainer.explain(window, METHOD, 1, rule=fixed, n_steps=fewer, baseline=0.0)
            moved = change(oracle, 0.0, oracle.element(1))[row]
            assert abs(float(before.convergence_delta[0])) > 2e-3 * abs(moved) - 1e-5


def test_smooth_models_need_few_nodes(oracles):
    for name in SMOOTH:
        steps = oracles[name].explainer.explain(oracles[name].x, METHOD, 1, rule="adaptive").maps["n_steps"]
        assert steps.max() <= 32


@pytest.mark.parametrize("rule", RAISED)
def test_a_bound_that_is_too_low_is_a_warning_for_each_window_it_stops(oracles, rule):
    oracle = oracles["conv_1d"]
    result = oracle.explainer.explain(oracle.x, METHOD, 1, rule=rule, tolerance=1e-6, max_steps=20)
    late = [warning for warning in result.warnings if warning.code == "NOT_CONVERGED"]
    assert late
    assert "raise max_steps (20), or tolerance" in late[0].message
    moved = result.cells.reshape(5, -1).sum(axis=1, dtype=np.float64) - result.convergence_delta
    rows = {warning.window for warning in late}
    for row in range(5):
        if abs(result.convergence_delta[row]) > 1e-4 * abs(moved[row]):
            assert row in rows
    assert set(result.maps["n_steps"][sorted(rows)]) == {16.0 if rule == "adaptive" else 17.0}


@pytest.mark.parametrize("rule", RAISED)
def test_each_level_is_shown_as_it_is_reached(oracles, rule):
    oracle = oracles["conv_1d"]
    parameters = {"rule": rule, "tolerance": 0.0, "max_steps": 300, "baseline": 0.0}
    prepared = oracle.explainer.prepare(METHOD, 1, parameters)
    shown = [found for found, _ in prepared.progress(oracle.x[:1])]
    steps = [int(found.maps["n_steps"][0]) for found in shown]
    assert steps == ([8, 16, 32, 64, 128, 256] if rule == "adaptive" else [5, 9, 17, 33, 65, 129, 257])
    fixed = "gauss_legendre" if rule == "adaptive" else "trapezoid"
    for found, n in zip(shown, steps, strict=True):
        want = oracle.explainer.explain(oracle.x[:1], METHOD, 1, rule=fixed, n_steps=n, baseline=0.0)
        close(found.cells, want.cells, 1e-5)


def test_progressive_uses_its_nodes_again_and_so_costs_half(oracles):
    oracle = oracles["conv_1d"]
    options = {"tolerance": 0.0, "baseline": 0.0}
    spent = {
        rule: oracle.explainer.explain(oracle.x[:1], METHOD, 1, rule=rule, max_steps=most, **options).evaluations
        for rule, most in (("adaptive", 4096), ("progressive", 4097))
    }
    # A level adds 4, 8, … 2,048 nodes to the first 5, in runs of at most 64, each of which evaluates both ends too.
    runs = 1 + sum(-(-(2**k) // 64) for k in range(2, 12))
    assert spent["progressive"] == 4097 + 2 * runs
    assert spent["progressive"] < 0.6 * spent["adaptive"]


def test_what_does_not_change_needs_no_more_nodes_than_the_fewest(oracles):
    oracle = oracles["conv_1d"]
    for rule, fewest in (("adaptive", 8), ("progressive", 5)):
        result = oracle.explainer.explain(oracle.x, METHOD, 1, rule=rule, baseline=oracle.x)
        np.testing.assert_array_equal(result.cells, 0)
        assert set(result.maps["n_steps"].tolist()) == {fewest}
