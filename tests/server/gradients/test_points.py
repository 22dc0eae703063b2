"""What methods that evaluate at many points share: against NumPy, in every order of cells."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server import Explainer, Target
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.gradients.points import pair_differences, spread_of_cells, sum_over_tones_at, weighted_gradient
from tonescope_server.testing import tiny_models, tiny_windows


def run(name, describe, **feeds):
    """Describe a graph on a tiny model's tape, and run it on five windows."""
    explainer = Explainer(tiny_models()[name], installed_plugins())
    x = tiny_windows(explainer.model)
    target = explainer.resolve(Target.element(0))
    plan = explainer.compiled(("test", describe.__name__), target, describe)
    feeds |= {explainer.model.input.name: x, **target.feeds(slice(None), len(x))}
    return x, explainer.model.cells, plan.session.run(feeds)["found"]


@pytest.mark.parametrize("name", sorted(tiny_models()))
def test_cells_are_summed_over_tones_at_each_point(name):
    def sums(tape):
        tape.score()
        points = tape.x.unsqueeze(0) * tape.feed_var("factors", (-1, *(1,) * len(tape.x.shape)))
        tape.result("found", sum_over_tones_at(tape, points))

    factors = np.array([1.0, -2.0, 0.5], np.float32)
    ones = [1] * len(tiny_models()[name].input.shape[1:])
    x, cells, found = run(name, sums, factors=factors.reshape(1, 3, *ones))
    assert found.shape == (5, 3, cells.n_tones)
    for point, factor in enumerate(factors):
        np.testing.assert_allclose(found[:, point], cells.fold(factor * x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(tiny_models()))
def test_the_spread_of_cells_is_each_windows_own(name):
    def spread(tape):
        tape.score()
        tape.result("found", spread_of_cells(tape, tape.x))

    x, _, found = run(name, spread)
    assert found.shape == (5, *[1] * (x.ndim - 1))
    np.testing.assert_array_equal(found.ravel(), np.ptp(x.reshape(5, -1), axis=1))


@pytest.mark.parametrize("points", [2, 3, 4, 5, 6, 9])
def test_points_are_paired_from_the_second_on(points):
    def pairs(tape):
        tape.score()
        tape.result("found", pair_differences(tape, tape.x.unsqueeze(0) * tape.feed_var("factors", (-1, 1))))

    factors = np.arange(points, dtype=np.float32) ** 2
    x, _, found = run("mlp", pairs, factors=factors.reshape(1, points, 1))
    want = [factors[i] - factors[i + 1] for i in range(1, points - 1, 2)]
    assert found.shape == (5, len(want), 12)
    assert len(want) == (points - 1) // 2
    for pair, factor in enumerate(want):
        np.testing.assert_allclose(found[:, pair], factor * x, rtol=1e-5)


FACTORS, WEIGHTS = np.array([1.0, 0.0, 0.5, -1.5], np.float32), np.array([7.0, 7.0, -2.0, 0.25], np.float32)


def path_over(tape):
    """Evaluate at multiples of the windows; return that, and the weights of the points."""
    ones = (1,) * len(tape.x.shape)
    found = tape.evaluate_path(tape.x.unsqueeze(0) * tape.feed_var("factors", (-1, *ones)), anchor=0)
    return found, tape.feed_var("weights", (-1, *ones))


def each_point(tape):
    found, weights = path_over(tape)
    tape.result("found", found.gradient * weights)


def weighed_at_once(tape):
    found, weights = path_over(tape)
    tape.result("found", weighted_gradient(tape, found, weights, skipped=2))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", sorted(tiny_models()))
def test_gradients_are_weighed_before_the_layer_that_reads_the_input(name, own):
    ones = [1] * len(tiny_models()[name].input.shape[1:])
    weights = np.outer(np.arange(1, 6), WEIGHTS) if own else WEIGHTS[None]  # of each window, or of all
    feeds = {"factors": FACTORS.reshape(1, 4, *ones), "weights": weights.reshape(-1, 4, *ones).astype(np.float32)}
    _, _, found = run(name, weighed_at_once, **feeds)
    want = run(name, each_point, **feeds)[2][:, 2:].sum(axis=1)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())  # the order of float32 sums


@pytest.mark.parametrize(("name", "layer"), [("conv_1d", "Conv"), ("scrambled", "ConvTranspose")])
def test_the_layer_that_reads_the_input_hands_back_one_gradient_a_window(name, layer):
    explainer = Explainer(tiny_models()[name], installed_plugins())
    plan = explainer.compiled(("test", "once"), explainer.resolve(Target.element(0)), weighed_at_once)
    types = [node.op_type for node in plan.graph.graph]
    weighed = len(types) - 1 - types[::-1].index("MatMul")
    assert layer in types[weighed:]
