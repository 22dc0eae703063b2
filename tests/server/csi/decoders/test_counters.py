from __future__ import annotations

from tonescope_server.csi.decoders._counters import WrappingCounter


def test_a_counter_goes_on_over_its_wraps():
    counter = WrappingCounter(256)
    assert [counter.unwrapped(value) for value in (250, 255, 4, 130, 250, 3)] == [250, 255, 260, 386, 506, 515]


def test_a_small_step_back_is_no_wrap():
    counter = WrappingCounter(256)
    assert [counter.unwrapped(value) for value in (100, 90, 110)] == [100, 90, 110]


def test_a_late_value_from_before_a_wrap_is_put_before_it():
    counter = WrappingCounter(256)
    assert [counter.unwrapped(value) for value in (254, 1, 255, 2)] == [254, 257, 255, 258]


def test_each_key_has_a_counter_of_its_own():
    counter = WrappingCounter(256)
    assert [counter.unwrapped(250, "a"), counter.unwrapped(3, "b"), counter.unwrapped(2, "a")] == [250, 3, 258]
