"""What methods that evaluate at many points share: against NumPy, in every order of cells."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server import Explainer, Target
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.gradients.points import pair_differences, spread_of_cells, sum_over_tones_at
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
