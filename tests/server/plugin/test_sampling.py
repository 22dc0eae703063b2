"""What sampling methods share."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.plugin import even_runs, generator, standard_error


def test_a_draw_depends_on_its_seed_purpose_and_number_alone():
    def draw(*key):
        return generator(*key).standard_normal(4).tolist()

    base = draw(1, "noise", 5)
    assert draw(1, "noise", 5) == base
    assert base not in (draw(2, "noise", 5), draw(1, "path", 5), draw(1, "noise", 6))
    assert draw(2**63 - 1, "noise", 2**32) == draw(2**63 - 1, "noise", 2**32)


def test_long_draws_do_not_run_into_the_next():
    first = generator(0, "noise", 0).random(20_000)
    assert not np.isin(generator(0, "noise", 1).random(20_000), first).any()


@pytest.mark.parametrize("total", [0, 1, 2, 31, 32, 33, 50, 64, 65, 1000])
@pytest.mark.parametrize("most", [1, 32])
def test_runs_cover_everything_once_and_are_of_even_size(total, most):
    runs = list(even_runs(total, most))
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(total))
    sizes = [run.stop - run.start for run in runs]
    assert len(runs) == -(-total // most)
    assert max(sizes, default=0) <= most
    assert not sizes or max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_standard_error_is_that_of_a_mean_whatever_it_is_counted_from(shift):
    draws = np.random.default_rng(0).standard_normal((40, 3, 2)) + 3.0
    away = draws - shift
    found = standard_error(away.sum(axis=0), (away**2).sum(axis=0), 40)
    np.testing.assert_allclose(found, draws.std(axis=0, ddof=1) / np.sqrt(40), rtol=1e-5)
    assert found.dtype == np.float32


def test_one_draw_has_no_standard_error_and_equal_draws_have_none_below_zero():
    ones = np.ones((1, 2), np.float32)
    assert standard_error(ones, ones, 1) is None
    tenths = np.full((1, 2), 0.1, np.float32)
    np.testing.assert_array_equal(standard_error(tenths * 7, np.float32(0.0699999) * ones, 7), 0)
