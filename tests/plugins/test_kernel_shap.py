"""KernelSHAP: against exact Shapley values, and what it says of how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.games import shapley_of, write_game
from tonescope_plugins._coalitions import kernel_plan
from tonescope_server.engine.progress import Reason, Stop
from tonescope_server.errors import DeadlineError, ParameterError

METHOD = "kernel_shap"
GAME = {(0,): 1.5, (1, 2): -2.0, (2, 3, 4): 0.75, (5, 6): 1.0, (4, 5, 6, 7): -0.5}  # features from 8 on do nothing


def windows(features, batch=3):
    return np.random.default_rng(5).standard_normal((batch, features)).astype(np.float32)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("name", ["conv_1d", "conv_2d", "scrambled", "mlp", "complex"])
def test_with_the_full_budget_it_is_exact(oracles, name, paired):
    oracle = oracles[name]
    players = "tone" if oracle.n_tones <= 12 else "band"
    exact = oracle.explainer.explain(oracle.x, "shapley_exact", 1, players=players)
    count = exact.units.shape[1]
    found = oracle.explainer.explain(oracle.x, METHOD, 1, players=players, budget=2**count - 2, paired=paired)
    assert np.abs(found.units - exact.units).max() <= 1e-6 * np.abs(found.score).max()
    assert (found.standard_error, found.batches) == (None, None)
    assert found.evaluations == exact.evaluations


def test_one_coalition_less_and_it_says_that_it_is_an_estimate(oracles):
    oracle = oracles["mlp"]
    found = oracle.explainer.explain(oracle.x, METHOD, 1, budget=2**12 - 3)
    assert found.batches is not None
    assert found.standard_error is not None


@pytest.mark.parametrize(("budget", "features"), [(40, 10), (100, 10), (80, 20), (2048, 20)])
def test_whatever_the_budget_shares_add_up_to_the_change_of_the_target(tmp_path, budget, features):
    x = windows(features)
    found = write_game(tmp_path, features, GAME).explain(x, METHOD, budget=budget)
    np.testing.assert_allclose(found.tones.sum(axis=1), found.score, atol=1e-5)  # from a baseline of zero
    assert np.abs(found.convergence_delta).max() < 1e-5


def test_on_a_linear_model_any_budget_is_exact(tmp_path):
    weights = {(i,): float(i - 5) for i in range(30)}
    x = windows(30)
    found = write_game(tmp_path, 30, weights).explain(x, METHOD, budget=120)
    np.testing.assert_allclose(found.tones, x * (np.arange(30) - 5), atol=1e-4)
    assert found.standard_error.max() < 1e-4


def test_what_has_pairs_only_is_exact_by_pairs_for_any_budget(tmp_path):
    """A coalition and its complement cancel what is quadratic."""
    game = {(i, j): 1.0 + i - j for i in range(20) for j in range(i)}
    x = windows(20)
    found = write_game(tmp_path, 20, game).explain(x, METHOD, budget=80)
    np.testing.assert_allclose(found.tones, shapley_of(game, x), atol=1e-4)
    alone = write_game(tmp_path, 20, game).explain(x, METHOD, budget=80, paired=False)
    assert np.abs(alone.tones - shapley_of(game, x)).max() > 1e-2


def test_no_player_is_left_out_however_many_there_are(tmp_path):
    """Two hundred players of which all but a few matter little: none is set to zero."""
    game = {(i,): 100.0 if i < 5 else 0.01 for i in range(200)}
    x = windows(200)
    found = write_game(tmp_path, 200, game).explain(x, METHOD, budget=800)
    np.testing.assert_allclose(found.tones[:, 5:], 0.01 * x[:, 5:], atol=1e-3)
    assert (found.tones != 0).all()


def test_players_at_the_baseline_have_nothing_whatever_the_other_windows_hold(oracles):
    """Null tones, mostly: with sampled shares of their own they would be told as a wrong layout."""
    oracle = oracles["conv_1d"]
    x = oracle.x.copy()
    x[0, 10:20], x[1, [3, 4]], x[2] = 0.25, 0.25, 0.25
    found = oracle.explainer.explain(x, METHOD, 1, budget=400)
    assert not found.tones[0, 10:20].any()
    assert not found.tones[1, [3, 4]].any()
    assert (found.tones[0, 20:] != 0).all()
    assert (found.tones[3] != 0).all()
    assert np.abs(found.tones[2]).max() < 1e-6  # there is nothing to share
    for row in range(5):
        alone = oracle.explainer.explain(x[row : row + 1], METHOD, 1, budget=400)
        np.testing.assert_allclose(alone.tones[0], found.tones[row], atol=1e-5 * np.abs(found.score).max())
    np.testing.assert_allclose(found.tones.sum(axis=1), oracle.element(1)(x) - oracle.element(1)(x[2:3]), atol=1e-4)


def test_pairs_halve_the_error(oracles, capsys):
    oracle = oracles["mlp"]
    exact = oracle.explainer.explain(oracle.x, "shapley_exact", 1, players="tone").units

    def error(paired):
        found = [oracle.explainer.explain(oracle.x, METHOD, 1, budget=200, seed=s, paired=paired) for s in range(30)]
        return np.mean([np.linalg.norm(each.units - exact) for each in found])

    ratio = error(True) / error(False)
    with capsys.disabled():
        print(f"\nkernel_shap: the error of pairs is {ratio:.2f} of that without", end="")
    assert ratio < 0.6


def test_more_budget_is_less_error_and_less_standard_error(oracles):
    oracle = oracles["mlp"]
    exact = oracle.explainer.explain(oracle.x, "shapley_exact", 1, players="tone").units
    found = [oracle.explainer.explain(oracle.x, METHOD, 1, budget=budget, seed=3) for budget in (100, 400, 1600)]
    errors = [np.linalg.norm(each.units - exact) for each in found]
    assert errors == sorted(errors, reverse=True)
    told = [np.linalg.norm(each.standard_error) for each in found]
    assert told == sorted(told, reverse=True)


@pytest.mark.parametrize(("players", "least"), [(10, 40), (56, 224), (3, 6), (2, 2)])
def test_the_smallest_budget_is_four_times_the_players_or_all_there_is(players, least):
    assert len(kernel_plan(players, least, paired=True).enumerated) >= min(2 * players, least)
    with pytest.raises(ParameterError, match=rf"'budget': expected at least {least} for {players} players, got"):
        kernel_plan(players, least - 1, paired=True)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("players", [2, 3, 5, 8, 12, 17, 56])
def test_a_plan_never_overspends_and_its_weights_are_the_kernels(players, paired):
    kernel = np.array([1.0 / (s * (players - s)) for s in range(1, players)])
    for budget in (4 * players, 5 * players + 1, 300, 2048):
        if budget < 4 * players:
            continue
        plan = kernel_plan(players, budget, paired=paired)
        spent = len(plan.enumerated) + sum(plan.batches) * (2 if paired else 1)
        assert spent <= min(budget, 2**players - 2)
        assert spent >= min(budget, 2**players - 2) - 1
        assert plan.weights.sum() + plan.share == pytest.approx(1.0)
        for size in range(1, players):
            own = plan.weights[plan.enumerated.sum(axis=1) == size]
            expected = kernel[size - 1] / kernel.sum()
            assert size in plan.sizes if len(own) == 0 else own.sum() == pytest.approx(expected)
        assert len({each.tobytes() for each in plan.enumerated}) == len(plan.enumerated)


@pytest.mark.parametrize("paired", [True, False])
def test_draws_follow_the_kernel(paired):
    plan = kernel_plan(30, 40_000, paired=paired)
    drawn = np.concatenate([plan.draw(0, batch) for batch in range(len(plan.batches))])
    mass = 1.0 / (plan.sizes * (30 - plan.sizes))
    for size, share in zip(plan.sizes, mass / mass.sum(), strict=True):
        off = abs((drawn.sum(axis=1) == size).mean() - share)
        assert off < 5 * np.sqrt(share / (len(drawn) / 2))
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 0.02
    assert (plan.draw(0, 0) == plan.draw(0, 0)).all()
    assert (plan.draw(0, 0) != plan.draw(1, 0)).any()


def test_draws_come_with_their_complements():
    drawn = kernel_plan(30, 4_000, paired=True).draw(0, 0)
    assert (drawn[: len(drawn) // 2] == ~drawn[len(drawn) // 2 :]).all()


def test_seeds_give_other_estimates_and_one_seed_the_same_bytes(oracles):
    oracle = oracles["mlp"]
    one, again, other = (oracle.explainer.explain(oracle.x, METHOD, 1, seed=s, budget=100).tones for s in (4, 4, 5))
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()


def test_estimates_narrow_batch_by_batch_and_the_last_is_the_answer(oracles):
    oracle = oracles["mlp"]
    x = oracle.x[:1]
    updates = list(oracle.explainer.explain_progressively(x, METHOD, 1, budget=600))
    errors = [u.attribution.standard_error for u in updates if u.attribution.standard_error is not None]
    assert len(errors) >= 10
    assert np.linalg.norm(errors[-1]) < np.linalg.norm(errors[0])
    answer = oracle.explainer.explain(x, METHOD, 1, budget=600)
    assert updates[-1].attribution.tones.tobytes() == answer.tones.tobytes()
    assert updates[-1].reason is Reason.EXHAUSTED
    early = list(oracle.explainer.explain_progressively(x, METHOD, 1, budget=600, stop=Stop(budget=200)))
    assert early[-1].attribution.evaluations <= 200
    assert early[-1].reason is Reason.BUDGET


def test_there_is_no_standard_error_before_there_are_as_many_pairs_as_players(oracles):
    oracle = oracles["conv_1d"]
    updates = list(oracle.explainer.explain_progressively(oracle.x[:1], METHOD, 1, budget=300))
    known = [update.attribution.standard_error is not None for update in updates]
    assert known == sorted(known)
    assert not known[1]
    assert known[-1]
    assert all(update.attribution.batches is not None for update in updates)


def test_a_deadline_is_met_between_batches(oracles):
    oracle = oracles["mlp"]
    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 5:
            raise DeadlineError("late")

    prepared = oracle.explainer.prepare(METHOD, None, {"budget": 1000})
    with pytest.raises(DeadlineError):
        prepared.run(oracle.x, check)
    assert calls == 5


def test_players_of_several_tones_have_intervals_per_tone(oracles):
    """A tone's share in its band is as unsure as the band's, divided by the tones in it."""
    oracle = oracles["conv_1d"]
    band_of_tone = np.arange(56) // 4
    found = oracle.explainer.explain(oracle.x, METHOD, 1, players=band_of_tone, axis=1, budget=200)
    np.testing.assert_allclose(found.tones, found.units[:, band_of_tone] / 4, atol=1e-6)
    assert (found.standard_error[:, ::4] == found.standard_error[:, 1::4]).all()
    seeds = [oracle.explainer.explain(oracle.x, METHOD, 1, players=band_of_tone, axis=1, budget=200, seed=s)
             for s in range(100)]  # fmt: skip
    spread = np.std([each.tones for each in seeds], axis=0)
    told = np.sqrt(np.mean([each.standard_error**2 for each in seeds], axis=0))
    assert 0.8 < np.median(told / spread) < 1.25
