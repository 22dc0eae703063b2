"""A target of windows, for points that belong to them."""

from __future__ import annotations

import numpy as np

from tonescope_server.engine.fixed_target import target_of_rows
from tonescope_server.types import Target

ROWS = np.array([2, 0, 0])


def test_an_index_for_each_window_becomes_one_for_each_point():
    found = target_of_rows(Target.element(np.array([5, 6, 7]), "out"), ROWS)
    assert found.output == "out"
    assert found.index.tolist() == [7, 5, 5]


def test_both_parts_of_a_difference_do():
    target = Target.difference(Target.element(np.array([1, 2, 3])), Target.mean((4, 5)))
    found = target_of_rows(target, ROWS)
    assert found.plus.index.tolist() == [3, 1, 1]
    assert found.minus == Target.mean((4, 5))


def test_one_index_for_all_stays():
    for target in (Target.element(3), Target.element((1, 2)), Target.mean(), Target.sum([0, 1])):
        assert target_of_rows(target, ROWS) == target
