"""The temporal difference: integrated gradients from the window before. How streams hand it in is live's own test."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.testing import tiny_windows

METHOD = "temporal_difference"
ALONE = "NO_PREVIOUS_WINDOW"


def alone(result):
    return [warning.window for warning in result.warnings if warning.code == ALONE]


def test_it_is_integrated_gradients_from_the_window_before(oracle):
    previous = tiny_windows(oracle.model, 5, seed=6)
    found = oracle.explainer.explain(oracle.x, METHOD, 1, previous=previous)
    want = oracle.explainer.explain(oracle.x, "integrated_gradients", 1, baseline=previous)
    for name in ("cells", "tones", "convergence_delta", "score"):
        assert getattr(found, name).tobytes() == getattr(want, name).tobytes()
    assert alone(found) == []


@pytest.mark.parametrize("name", ["mlp", "scrambled", "complex"])
def test_the_cells_sum_to_what_the_prediction_changed_by(oracles, name):
    """The score is that of the class that is predicted now, at both windows."""
    oracle = oracles[name]
    x = tiny_windows(oracle.model, 8, seed=3)
    previous = np.concatenate([x[:1], x[:-1]])
    found = oracle.explainer.explain(x, METHOD, previous=previous)
    change = found.score - oracle.explainer.score(previous, found.target)
    cells = found.cells.reshape(8, -1).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(cells, change, atol=2e-4 * np.abs(found.score).max())
    assert np.abs(change[1:]).max() > 0.1
    np.testing.assert_array_equal(found.cells[0], 0)  # it is its own predecessor


def test_a_window_before_which_there_is_none_is_compared_with_itself_and_says_so(oracles):
    oracle = oracles["scrambled"]
    found = oracle.explainer.explain(oracle.x, METHOD)
    np.testing.assert_array_equal(found.cells, 0)
    np.testing.assert_allclose(found.convergence_delta, 0, atol=1e-5)
    assert alone(found) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rule", ["gauss_legendre", "adaptive"])
def test_windows_of_which_only_some_have_one_before_are_told_apart(oracles, rule):
    oracle, count = oracles["scrambled"], 40  # more than fit into one run
    x, previous = tiny_windows(oracle.model, count), tiny_windows(oracle.model, count, seed=6)
    unknown = [0, 7, 33]
    partly = previous.copy()
    partly[unknown] = np.nan
    prepared = oracle.explainer.prepare(METHOD, 0, {"rule": rule})
    found = prepared.run(x, previous=partly)
    assert alone(found) == unknown
    np.testing.assert_array_equal(found.cells[unknown], 0)
    known = [row for row in range(count) if row not in unknown]
    want = oracle.explainer.explain(x, METHOD, 0, previous=previous, rule=rule).cells
    np.testing.assert_allclose(found.cells[known], want[known], rtol=0, atol=1e-5 * np.abs(want).max())


def test_what_the_request_names_wins_over_what_the_stream_has(oracles):
    oracle = oracles["mlp"]
    one, other = tiny_windows(oracle.model, 2, seed=6)
    prepared = oracle.explainer.prepare(METHOD, 0, {"previous": one})
    found = prepared.run(oracle.x, previous=np.broadcast_to(other, oracle.x.shape))
    want = oracle.explainer.explain(oracle.x, "integrated_gradients", 0, baseline=one)
    assert found.cells.tobytes() == want.cells.tobytes()


def test_the_window_before_may_be_one_for_all_or_one_for_each(oracles):
    oracle = oracles["scrambled"]
    one = tiny_windows(oracle.model, 1, seed=6)
    want = oracle.explainer.explain(oracle.x, METHOD, 0, previous=one).cells
    for same in (one[0], one.tolist(), np.repeat(one, 5, axis=0)):
        assert oracle.explainer.explain(oracle.x, METHOD, 0, previous=same).cells.tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("previous", "error", "message"),
    [
        (np.zeros((5, 10)), ShapeError, r"'previous': expected \(10, 5\), alone or .*got \(5, 10\)"),
        (np.zeros((3, 10, 5)), ShapeError, r"got \(3, 10, 5\)"),
        (np.full((10, 5), np.inf), ParameterError, "'previous': expected finite numbers"),
        (1.0, ParameterError, "'previous'"),
    ],
)
def test_what_is_no_window_is_refused_in_one_line(oracles, previous, error, message):
    with pytest.raises(error, match=message) as caught:
        oracles["scrambled"].explainer.explain(oracles["scrambled"].x, METHOD, previous=previous)
    assert "\n" not in str(caught.value)
