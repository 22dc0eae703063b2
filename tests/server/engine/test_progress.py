"""Explanations that get better with time: what is yielded, how it is judged, and when it ends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats

from tests.anytime import METHODS, NestedTrapezoid, ScaledByCalls
from tonescope_server import plugin
from tonescope_server.engine.progress import Reason, Stop, half_width, refine, relative_error
from tonescope_server.errors import DeadlineError, ParameterError, PluginError
from tonescope_server.testing import tiny_models, tiny_windows

SAMPLED = ["scaled_graph", "scaled_calls"]


@pytest.fixture
def explainer(explainer_with):
    return explainer_with(*METHODS, model="conv_1d")


@pytest.fixture(scope="module")
def x():
    return tiny_windows(tiny_models()["conv_1d"], 3)


def reasons(updates):
    return [update.reason for update in updates]


# -- what is yielded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SAMPLED)
def test_a_sampled_estimate_is_yielded_after_every_sample_and_ends_exhausted(explainer, x, method):
    updates = list(explainer.explain_progressively(x[:1], method, 0, samples=16))
    known_to_be_last = method == "scaled_graph"  # a procedural method is not asked ahead: its last comes twice
    assert reasons(updates) == [None] * (15 if known_to_be_last else 16) + [Reason.EXHAUSTED]
    assert [update.number for update in updates][:16] == list(range(16))
    assert [update.attribution.batches for update in updates][:16] == list(range(1, 17))
    widths = [update.half_width.max() for update in updates[1:]]
    assert widths[-1] < widths[3] < widths[0]


@pytest.mark.parametrize("method", [*SAMPLED, "nested_trapezoid"])
def test_the_last_update_is_what_explain_returns(explainer, x, method):
    last = list(explainer.explain_progressively(x[:1], method, 0))[-1].attribution
    whole = explainer.explain(x[:1], method, 0)
    np.testing.assert_array_equal(last.cells, whole.cells)
    np.testing.assert_array_equal(last.tones, whole.tones)
    np.testing.assert_array_equal(last.score, whole.score)
    assert (last.evaluations, last.batches) == (whole.evaluations, whole.batches)


def test_a_method_with_one_estimate_gives_it_once_and_is_exhausted(explainer, x):
    for method in ("input_x_gradient", "occlusion"):
        (update,) = explainer.explain_progressively(x[:1], method, 0, stop=Stop(0.01, 1, 1e-9))
        assert update.reason is Reason.EXHAUSTED
        assert update.relative_error is None
        np.testing.assert_array_equal(update.attribution.tones, explainer.explain(x[:1], method, 0).tones)


@pytest.mark.parametrize("method", SAMPLED)
def test_windows_take_turns_and_none_depends_on_the_others(explainer, x, method):
    together = list(explainer.explain_progressively(x, method, samples=5))
    assert [update.window for update in together[:6]] == [0, 1, 2, 0, 1, 2]
    for row in range(3):
        alone = list(explainer.explain_progressively(x[row : row + 1], method, samples=5))
        own = [update for update in together if update.window == row]
        assert reasons(own) == reasons(alone)
        for one, other in zip(own, alone, strict=True):
            np.testing.assert_array_equal(one.attribution.tones, other.attribution.tones)


def test_a_window_has_its_own_of_what_the_request_has_one_for_each(explainer, x):
    labels = np.array([2, 0, 1])
    baselines = (x * 0.5).tolist()
    for method, given in {"scaled_calls": {}, "integrated_gradients": {"baseline": baselines}}.items():
        whole = explainer.explain(x, method, labels, **given)
        for update in explainer.explain_progressively(x, method, labels, **given):
            if update.reason is not None:
                np.testing.assert_allclose(
                    update.attribution.tones[0], whole.tones[update.window], rtol=1e-4, atol=1e-6
                )


# -- when it ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SAMPLED)
def test_it_ends_where_every_tones_interval_is_within_the_tolerance(explainer, x, method):
    updates = list(explainer.explain_progressively(x[:1], method, 0, stop=Stop(tolerance=0.1), samples=0))
    last = updates[-1]
    assert last.reason is Reason.CONVERGED
    assert last.half_width.max() <= 0.1 * np.abs(last.attribution.tones).max()
    assert all(each.relative_error is None or each.relative_error > 0.1 for each in updates[:-1])
    right = explainer.model.cells.fold(explainer.gradient(x[:1], 0))  # the factors have mean 1
    assert (np.abs(last.attribution.tones - right) <= last.half_width + 1e-7).all()


def test_one_sample_is_never_good_enough(explainer, x):
    """Its standard error is not known; that it is complete, or that it has no spread, proves nothing."""
    first, second, *_ = explainer.explain_progressively(x[:1], "scaled_calls", 0, stop=Stop(1e9), spread=0.0)
    assert (first.half_width, first.relative_error, first.reason) == (None, None, None)
    assert (second.relative_error, second.reason) == (0.0, Reason.CONVERGED)


def test_a_path_ends_where_the_convergence_delta_is_within_the_tolerance(explainer, x):
    updates = list(explainer.explain_progressively(x[:1], "nested_trapezoid", 0, stop=Stop(0.02), levels=20))
    delta = float(updates[-1].attribution.convergence_delta[0])
    scores = explainer.score(np.stack([x[0], np.zeros_like(x[0])]), 0)
    assert updates[-1].reason is Reason.CONVERGED
    assert updates[-1].relative_error == pytest.approx(abs(delta) / abs(scores[0] - scores[1]), rel=1e-3)
    assert updates[0].relative_error > 0.02 >= updates[-1].relative_error


@pytest.mark.parametrize("method", SAMPLED)
def test_a_budget_is_not_overspent(explainer, x, method):
    costs = {"samples": 0, "points": 4} if method == "scaled_calls" else {"samples": 0}
    updates = list(explainer.explain_progressively(x[:1], method, 0, stop=Stop(budget=42), **costs))
    assert updates[-1].reason is Reason.BUDGET
    # By calls: one evaluation for the score, then four a sample: ten samples are 41, and an eleventh would be 45.
    assert updates[-1].attribution.evaluations == (41 if method == "scaled_calls" else 42)


def test_the_first_estimate_is_worked_out_whatever_it_costs(explainer, x):
    for stop, reason in {Stop(budget=1): Reason.BUDGET, Stop(time_limit_s=1e-9): Reason.TIME_LIMIT}.items():
        (update,) = explainer.explain_progressively(x[:1], "scaled_calls", 0, stop=stop, samples=0)
        assert update.reason is reason
        assert update.attribution.batches == 1


def test_a_time_limit_ends_what_has_no_end_in_all_windows(explainer, x):
    updates = list(explainer.explain_progressively(x, "scaled_graph", 0, stop=Stop(time_limit_s=0.05), samples=0))
    assert sorted(each.window for each in updates if each.reason is Reason.TIME_LIMIT) == [0, 1, 2]


def test_the_time_limit_ends_a_step_that_takes_long_with_what_was_found_before(explainer_with, x):
    class Slow(ScaledByCalls):
        name = "slow"

        def refine(self, model, windows, parameters):
            estimates = super().refine(model, windows, parameters)
            yield next(estimates)
            try:
                while True:
                    model.score(windows.x, np.zeros(1, np.int64))
            except Exception:  # noqa: BLE001  what ends the work is no error that a method could take for its own
                yield plugin.Estimate(np.zeros_like(windows.x))

    explainer = explainer_with(Slow(), model="conv_1d")
    first, last = explainer.explain_progressively(x[:1], "slow", 0, stop=Stop(time_limit_s=0.05))
    assert (first.reason, last.reason, last.number) == (None, Reason.TIME_LIMIT, 0)
    np.testing.assert_array_equal(first.attribution.tones, last.attribution.tones)


def test_a_check_that_raises_ends_the_work(explainer, x):
    asked = []

    def check():
        asked.append(None)
        if len(asked) > 5:
            raise DeadlineError("late")

    prepared = explainer.prepare("scaled_graph", 0, {"samples": 0})
    found = []
    with pytest.raises(DeadlineError, match="late"):
        found.extend(update.number for update in refine(prepared, x[:1], Stop(), check))
    assert len(asked) == 6


@pytest.mark.parametrize(
    "wrong", [{"tolerance": -0.1}, {"tolerance": float("nan")}, {"budget": -1}, {"time_limit_s": float("inf")}]
)
def test_a_condition_that_cannot_be_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ParameterError, match=f"^{name}: expected a finite number of at least 0, got"):
        Stop(**wrong)


def test_a_method_that_fails_or_gives_nothing_is_blamed(explainer_with, x):
    class Failing(ScaledByCalls):
        name = "failing"

        def refine(self, model, windows, parameters):
            yield from ()
            if parameters.spread:
                raise ValueError("no spread, please")

    explainer = explainer_with(Failing(), model="conv_1d")
    with pytest.raises(PluginError, match="method 'failing' failed: ValueError: no spread, please"):
        list(explainer.explain_progressively(x[:1], "failing", 0))
    with pytest.raises(PluginError, match="method 'failing' gave no estimate"):
        list(explainer.explain_progressively(x[:1], "failing", 0, spread=0.0))


# -- how it is judged ---------------------------------------------------------------------------------------------


def test_the_quantile_is_students_where_the_batches_are_known_and_the_normal_ones_else(explainer, x):
    found = explainer.explain(x[:1], "scaled_calls", 0, samples=7)
    error = found.standard_error[0]
    np.testing.assert_allclose(half_width(found), stats.t.ppf(0.975, 6) * error, rtol=1e-6)
    np.testing.assert_allclose(half_width(replace(found, batches=None)), stats.norm.ppf(0.975) * error, rtol=1e-6)
    assert half_width(replace(found, batches=1)) is None
    assert half_width(replace(found, standard_error=found.standard_error * np.nan)) is None


def test_the_intervals_cover_the_right_answer_as_often_as_they_say(explainer, x):
    """95 % of 2,000 intervals of 5 normal samples each, give or take three standard errors: 93.5–96.5 %."""
    samples = np.random.default_rng(11).standard_normal((2000, 5)).astype(np.float32)
    error = samples.std(axis=1, ddof=1) / np.sqrt(5)
    found = replace(explainer.explain(x[:1]), tones=samples.mean(axis=1)[None], standard_error=error[None], batches=5)
    covered = np.abs(found.tones[0]) <= half_width(found)
    assert 0.935 <= covered.mean() <= 0.965


def test_an_error_relative_to_nothing_is_infinite_and_no_error_is_zero(explainer, x):
    found = explainer.explain(x[:1], "scaled_calls", 0, samples=4)
    nothing = np.zeros_like(found.tones)
    assert relative_error(replace(found, tones=nothing), False) == np.inf
    assert relative_error(replace(found, tones=nothing, standard_error=nothing), False) == 0.0


def test_completeness_says_nothing_of_a_sampled_method_nor_of_one_that_does_not_promise_it(explainer, x):
    found = explainer.explain(x[:1], "nested_trapezoid", 0, levels=2)
    judged = partial(relative_error, found)
    assert judged(complete=True) > 0
    assert judged(complete=False) is None
    assert relative_error(replace(found, batches=1), True) is None
    assert NestedTrapezoid.complete
