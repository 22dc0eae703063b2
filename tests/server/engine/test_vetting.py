from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.engine.vetting import fault_of, first_not_finite, is_finite, rows_not_finite
from tonescope_server.plugin.api import Estimate
from tonescope_server.types import ResultWarning

SHAPE, TONES = (3, 10, 5), 10


def array(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(array(*SHAPE)),
        Estimate(array(*SHAPE, dtype=np.float64)),
        Estimate(None, array(3, 10), array(3), array(3, 7), array(3, 10), 4, {"layer": array(3, 2, 2)}),
        Estimate(None, array(3, 10), warnings=(ResultWarning("A", "b"),)),
    ],
)
def test_an_estimate_of_the_right_form_has_no_fault(estimate):
    assert fault_of(estimate, SHAPE, TONES) == ""


@pytest.mark.parametrize(
    ("estimate", "says"),
    [
        (None, "expected an Estimate, got NoneType"),
        (array(3), "expected an Estimate, got ndarray"),
        (Estimate(array(3, 50)), "expected cells of shape (3, 10, 5), got (3, 50)"),
        (Estimate(array(*SHAPE, dtype=np.int64)), "expected cells to be an array of floating-point numbers, got int64"),
        (Estimate(array(*SHAPE, dtype=object)), "expected cells to be an array of floating-point numbers, got object"),
        (Estimate(None, [[0.0]]), "expected tones to be an array of floating-point numbers, got list"),
        (Estimate(None, array(3, 10), array(2)), "expected convergence_delta of shape (3, …), got (2,)"),
        (Estimate(None, array(3, 10), units=array(1, 3)), "expected units of shape (3, …), got (1, 3)"),
        (Estimate(None, array(3, 10), batches=1.5), "expected batches to be a whole number, got 1.5"),
        (Estimate(None, array(3, 10), warnings=("a",)), "expected warnings to be a tuple of ResultWarning"),
    ],
)
def test_what_is_wrong_with_an_estimate_is_said(estimate, says):
    assert fault_of(estimate, SHAPE, TONES) == says


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_seen_and_placed_and_a_large_one_is_fine(wrong):
    values = array(3, 10, 5)
    assert is_finite(values)
    values[0] = 3e38  # its square is not finite, and the sum is not either
    assert is_finite(values)
    values[1, 7, 2] = wrong
    assert not is_finite(values)
    assert rows_not_finite(values).tolist() == [1]
    assert first_not_finite(values[1]) == f"{wrong} at (7, 2)"
