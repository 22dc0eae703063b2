"""The plan cache: a bound that holds, and graphs that are compiled once."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest

from tonescope_server.engine.plan import Plan, PlanCache
from tonescope_server.testing import tiny_models, tiny_windows
from tonescope_server.types import Target


@dataclass(frozen=True)
class Weighing:
    """As much of a session as the cache looks at."""

    weights_bytes: int


def plan(size: int) -> Plan:
    return Plan(None, Weighing(size))


def made(cache, key, size=1):
    """Return whether the plan had to be made."""
    calls = []

    def make():
        calls.append(key)
        return plan(size)

    cache.get(key, make)
    return bool(calls)


def test_a_plan_is_made_once_per_key():
    cache = PlanCache(100)
    assert made(cache, "a")
    assert not made(cache, "a")
    assert made(cache, "b")
    assert len(cache) == 2


def test_the_least_recently_used_plan_goes_first_once_the_bound_is_passed():
    cache = PlanCache(3)
    for key in "abc":
        made(cache, key)
    made(cache, "a")  # used again: b is the oldest now
    made(cache, "d")
    assert len(cache) == 3
    assert not made(cache, "a")
    assert made(cache, "b")


def test_a_large_plan_pushes_out_as_many_as_it_takes():
    cache = PlanCache(10)
    for key in range(5):
        made(cache, key, 2)
    made(cache, "large", 7)
    assert len(cache) == 2
    assert not made(cache, 4, 2)
    assert made(cache, 3, 2)


def test_a_plan_larger_than_the_bound_is_used_and_not_kept():
    cache = PlanCache(5)
    made(cache, "small", 1)
    found = cache.get("large", lambda: plan(6))
    assert found.session.weights_bytes == 6
    assert len(cache) == 0
    assert made(cache, "large", 6)


def test_room_that_was_freed_is_used_again():
    cache = PlanCache(10)
    for key in range(50):
        made(cache, key, 3)
        assert len(cache) == min(key + 1, 3)


def test_a_failure_to_compile_leaves_nothing_behind():
    cache = PlanCache(10)

    def fail():
        raise ValueError

    with pytest.raises(ValueError):
        cache.get("a", fail)
    assert made(cache, "a")


def test_threads_that_ask_at_once_count_a_plan_once():
    cache = PlanCache(100)
    barrier = threading.Barrier(4)

    def slow():
        barrier.wait()  # all four are making it
        return plan(30)

    threads = [threading.Thread(target=lambda: cache.get("a", slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 1
    made(cache, "b", 30)
    made(cache, "c", 30)
    assert len(cache) == 3  # 90 bytes: had "a" been counted four times, it would be gone


def test_explainers_compile_once_for_targets_and_parameters_that_do_not_shape_the_graph(explainer_with):
    cache = PlanCache()
    explainer, x = explainer_with(cache=cache), tiny_windows(tiny_models()["scrambled"])
    explainer.explain(x, "integrated_gradients", 0)
    before = len(cache)
    explainer.explain(x, "integrated_gradients", np.array([0, 1, 2, 0, 1]), n_steps=7, rule="trapezoid", baseline=1.0)
    explainer.explain(x[:2], "integrated_gradients", Target.mean())
    assert len(cache) == before
    explainer.explain(x, "integrated_gradients", Target.log_probability(0))
    assert len(cache) == before + 1


def test_parameters_that_shape_the_graph_have_graphs_of_their_own(explainer_with):
    explainer, x = explainer_with(), tiny_windows(tiny_models()["scrambled"])
    absolute = explainer.explain(x, "saliency").cells
    signed = explainer.explain(x, "saliency", absolute=False).cells
    assert (signed < 0).any()
    np.testing.assert_array_equal(np.abs(signed), absolute)
    np.testing.assert_array_equal(explainer.explain(x, "saliency").cells, absolute)


def test_explainers_that_share_a_cache_do_not_share_answers(explainer_with):
    cache = PlanCache()
    first = explainer_with(model="scrambled", cache=cache)
    second = explainer_with(model="conv_2d", cache=cache)  # its output goes by the same name: so does its target
    for name, explainer in (("scrambled", first), ("conv_2d", second), ("scrambled", first)):
        x = tiny_windows(tiny_models()[name])
        np.testing.assert_array_equal(explainer.explain(x).tones, explainer_with(model=name).explain(x).tones)


def test_a_prepared_request_still_runs_when_its_plan_was_dropped(explainer_with):
    cache = PlanCache(1)
    explainer, x = explainer_with(cache=cache), tiny_windows(tiny_models()["scrambled"])
    prepared = explainer.prepare("saliency")
    assert len(cache) == 0
    assert prepared.run(x).tones.shape == (5, 10)
