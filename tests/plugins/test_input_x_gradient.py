from __future__ import annotations

import numpy as np

# float32 against central differences in float64, relative to the largest value.
TOLERANCE = 1e-4


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


def test_each_cell_is_its_value_times_its_gradient(oracle):
    want = oracle.x * oracle.gradient(oracle.element(1))
    close(oracle.explainer.explain(oracle.x, "input_x_gradient", 1).cells, want)


def test_a_tone_is_the_signed_sum_of_its_cells(oracle):
    want = oracle.fold(oracle.x * oracle.gradient(oracle.element(2)))
    assert (want < 0).any()
    assert (want > 0).any()
    close(oracle.explainer.explain(oracle.x, "input_x_gradient", 2).tones, want)


def test_a_cell_that_is_zero_gets_nothing(oracle):
    x = oracle.x.copy()
    x.reshape(len(x), -1)[:, ::3] = 0.0
    cells = oracle.explainer.explain(x, "input_x_gradient", 0).cells.reshape(len(x), -1)
    assert (cells[:, ::3] == 0).all()
    assert (cells[:, 1::3] != 0).any()


def test_it_is_the_default_method(oracle):
    default, named = oracle.explainer.explain(oracle.x), oracle.explainer.explain(oracle.x, "input_x_gradient")
    assert default.method == "input_x_gradient"
    np.testing.assert_array_equal(default.cells, named.cells)
