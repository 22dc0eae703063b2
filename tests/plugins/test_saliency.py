from __future__ import annotations

import numpy as np

# float32 against central differences in float64, relative to the largest value.
TOLERANCE = 1e-4


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


def test_saliency_is_the_absolute_gradient(oracle):
    want = oracle.gradient(oracle.element(1))
    close(oracle.explainer.explain(oracle.x, "saliency", 1).cells, np.abs(want))
    assert (want < 0).any()


def test_the_signed_gradient_is_there_for_the_asking(oracle):
    close(oracle.explainer.explain(oracle.x, "saliency", 1, absolute=False).cells, oracle.gradient(oracle.element(1)))


def test_a_tones_saliency_is_the_sum_over_its_cells(oracle):
    want = oracle.gradient(oracle.element(0))
    close(oracle.explainer.explain(oracle.x, "saliency", 0).tones, oracle.fold(np.abs(want)))
    close(oracle.explainer.explain(oracle.x, "saliency", 0, absolute=False).tones, oracle.fold(want))


def test_the_gradient_of_the_signed_form_is_the_explainers_own(oracle):
    cells = oracle.explainer.explain(oracle.x, "saliency", 0, absolute=False).cells
    close(cells, oracle.explainer.gradient(oracle.x, 0))
