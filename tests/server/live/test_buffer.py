from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tonescope_server.live.buffer import WindowBuffer
from tonescope_server.live.messages import Dropped, Job, Overload


def job(index: int, arrived: float = 0.0) -> Job:
    return Job(np.zeros((1, 2), np.float32), index, arrived, "none")


def indices(jobs: list[Job]) -> list[int]:
    return [each.index for each in jobs]


def test_the_oldest_window_gives_way_when_the_queue_is_full() -> None:
    buffer = WindowBuffer(3, Overload.DROP_OLDEST)
    for index in range(5):
        buffer.push(job(index))
    assert indices(buffer.take(10, now=0.0)) == [2, 3, 4]
    assert buffer.dropped == 2


def test_drops_are_said_once_with_their_cause_and_the_total() -> None:
    buffer = WindowBuffer(1, Overload.DROP_OLDEST)
    for index in range(3):
        buffer.push(job(index))
    assert buffer.notices() == [Dropped(2, 2, "queue_full")]
    assert buffer.notices() == []
    buffer.push(job(3))
    assert buffer.notices() == [Dropped(1, 3, "queue_full")]


def test_drops_since_the_last_answer_start_anew_with_each_answer() -> None:
    buffer = WindowBuffer(1, Overload.DROP_OLDEST)
    buffer.push(job(0))
    buffer.push(job(1))
    assert buffer.dropped_since_answer() == 1
    assert buffer.dropped_since_answer() == 0


def test_windows_beyond_the_latency_budget_are_dropped_when_their_turn_comes() -> None:
    buffer = WindowBuffer(8, Overload.DROP_OLDEST, latency_budget_s=0.5)
    for index, arrived in enumerate((0.0, 0.4, 0.9)):
        buffer.push(job(index, arrived))
    assert indices(buffer.take(8, now=1.0)) == [2]
    assert buffer.notices() == [Dropped(2, 2, "latency_budget")]


def test_under_back_pressure_nothing_is_dropped_and_the_reader_is_told_to_wait() -> None:
    buffer = WindowBuffer(2, Overload.BACK_PRESSURE)
    for index in range(4):
        buffer.push(job(index))
    assert buffer.must_wait
    assert indices(buffer.take(3, now=0.0)) == [0, 1, 2]
    assert not buffer.must_wait
    assert buffer.dropped == 0


def test_dropping_never_makes_the_reader_wait() -> None:
    buffer = WindowBuffer(1, Overload.DROP_OLDEST)
    buffer.push(job(0))
    assert not buffer.must_wait


@given(
    capacity=st.integers(1, 5),
    steps=st.lists(st.one_of(st.just("push"), st.integers(1, 4)), max_size=60),
)
def test_every_window_is_taken_in_order_or_counted_as_dropped(capacity: int, steps: list[str | int]) -> None:
    buffer = WindowBuffer(capacity, Overload.DROP_OLDEST)
    pushed, taken = 0, []
    for step in steps:
        if step == "push":
            buffer.push(job(pushed))
            pushed += 1
        elif isinstance(step, int):
            taken += indices(buffer.take(step, now=0.0))
        assert len(buffer) <= capacity
    assert taken == sorted(set(taken))
    assert pushed == len(taken) + buffer.dropped + len(buffer)
    said = sum(notice.windows for notice in buffer.notices())
    assert said == buffer.dropped
