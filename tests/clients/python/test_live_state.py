"""When a stream gives up: by the time without a daemon, and by connections that end without an answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tonescope import Disconnected, Frame, Reconnected, Retry, errors
from tonescope.calls import opening
from tonescope.live_state import LiveState
from tonescope.request import frame_message
from tonescope.v1 import attribution_pb2, live_pb2

ADDRESS = "sensor:50551"
OPENED = live_pb2.LiveResponse(opened=live_pb2.Opened(model="tiny"))


class Stream:
    """A stream's state, its daemon's side of the story told by the test, and a clock that the test moves."""

    def __init__(self, retry: Retry) -> None:
        self.now = 1000.0
        self.told: list[object] = []
        self.state = LiveState(opening(model="tiny"), retry, 100, ADDRESS, self.told.append, lambda: self.now)
        self._sequence = 0
        self.open()

    def open(self) -> None:
        self.state.begin()
        self.state.receive(OPENED)
        self.state.tell()

    def send(self) -> None:
        self.state.outbox.add(frame_message(Frame(amplitude=np.ones(2), sequence=self._sequence)))
        self.state.outbox.take()
        self._sequence += 1

    def answer(self, index: int = 0) -> None:
        last = self._sequence - 1
        answered = attribution_pb2.Explanation(first_sequence=last, last_sequence=last, window_index=index)
        batch = live_pb2.ExplanationBatch(explanations=[answered])
        self.state.receive(live_pb2.LiveResponse(explanations=batch))

    def sum_up(self, **counts: Any) -> None:
        self.state.receive(live_pb2.LiveResponse(summary=live_pb2.Summary(**counts)))

    def lose(self) -> float | None:
        delay_s = self.state.next_delay_s(None)
        self.state.tell()
        return delay_s

    def fail_to_connect(self) -> float | None:
        self.state.begin()
        return self.lose()


def test_the_wait_never_goes_beyond_the_time_given_and_then_the_stream_gives_up() -> None:
    stream = Stream(Retry(first_s=4.0, cap_s=4.0, give_up_after_s=10.0))
    waited = 0.0
    while (delay_s := stream.fail_to_connect() if waited else stream.lose()) is not None:
        waited += delay_s
        stream.now += delay_s
    assert waited == pytest.approx(10.0)
    assert type(stream.state.error) is errors.UnavailableError
    assert ADDRESS in str(stream.state.error)
    assert "gave up after 10 s" in str(stream.state.error)
    assert [type(event) for event in stream.told] == [Disconnected]


def test_each_loss_has_the_whole_time_again() -> None:
    stream = Stream(Retry(give_up_after_s=10.0))
    for _ in range(5):
        assert stream.lose() is not None
        stream.now += 9.0
        assert stream.fail_to_connect() is not None
        stream.open()
        stream.now += 3600.0
    assert stream.told[1::2] == [Reconnected(ADDRESS, 9.0, 2)] * 5
    assert stream.state.outbox.counts.reconnects == 5


def test_a_stream_that_is_to_give_up_at_once_does_not_say_that_it_goes_on() -> None:
    stream = Stream(Retry(give_up_after_s=0.0))
    assert stream.lose() is None
    assert stream.told == []
    assert ADDRESS in str(stream.state.error)


def test_a_stream_that_is_never_to_give_up_does_not() -> None:
    stream = Stream(Retry(give_up_after_s=math.inf))
    assert stream.lose() is not None
    stream.now += 1e9
    assert stream.fail_to_connect() is not None


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(errors.InvalidInputError, match="give_up_after_s"):
        Retry(give_up_after_s=seconds)


def test_what_ends_every_connection_before_an_answer_is_not_sent_for_ever() -> None:
    stream = Stream(Retry(unanswered=3))
    for _ in range(3):
        stream.send()
        assert stream.lose() is not None
        stream.open()
    stream.send()
    assert stream.lose() is None
    assert "4 connections in a row" in str(stream.state.error)


def test_an_answer_in_between_begins_the_count_of_unanswered_connections_anew() -> None:
    stream = Stream(Retry(unanswered=3))
    for i in range(12):
        stream.send()
        if i % 4 == 3:
            stream.answer()
        assert stream.lose() is not None
        stream.open()


def test_a_quiet_stream_may_lose_its_connection_any_number_of_times() -> None:
    stream = Stream(Retry(unanswered=3))
    for _ in range(20):
        assert stream.lose() is not None
        stream.open()
    assert stream.state.outbox.counts.reconnects == 20


def test_the_counts_of_all_connections_are_added_up() -> None:
    stream = Stream(Retry())
    assert stream.state.summary is None
    for skipped in ({"vitals": 2}, {"vitals": 1, "length_192": 4}):
        stream.send()
        stream.sum_up(frames_received=9, frames_used=5, frames_skipped=skipped, gaps=1, findings={"GAIN_STEPS": 1})
        assert stream.lose() is not None
        stream.open()
    summary = stream.state.summary
    assert summary is not None
    assert (summary.frames_received, summary.frames_used, summary.gaps, summary.windows) == (18, 10, 2, 0)
    assert summary.frames_skipped == {"vitals": 3, "length_192": 4}
    assert summary.findings == {"GAIN_STEPS": 2}
    assert stream.state.outbox.counts.unaccounted == 0


def test_a_connection_that_was_lost_before_it_was_summed_up_is_counted_and_the_others_counts_are_kept() -> None:
    stream = Stream(Retry())
    stream.send()
    stream.sum_up(frames_received=9)
    assert stream.lose() is not None
    assert stream.fail_to_connect() is not None  # an attempt takes nothing
    stream.open()
    stream.send()
    assert stream.lose() is not None
    stream.open()
    assert stream.lose() is not None  # nothing was sent to this one
    summary = stream.state.summary
    assert summary is not None
    assert summary.frames_received == 9
    assert stream.state.outbox.counts.unaccounted == 1


def test_a_stream_that_is_left_counts_what_its_daemon_did_not_sum_up_once() -> None:
    stream = Stream(Retry())
    stream.send()
    stream.state.account()
    stream.state.account()
    assert stream.state.outbox.counts.unaccounted == 1
    assert stream.state.summary is None


def test_windows_are_numbered_on_after_a_reconnection() -> None:
    stream = Stream(Retry())
    for connection in range(3):
        for index in range(3):
            if connection == 1 and index == 0:  # answered again after the loss, and withheld
                stream.answer(index)
                continue
            stream.send()
            stream.answer(index)
        assert stream.lose() is not None
        stream.open()
    assert [each.window_index for each in stream.state.unread] == list(range(8))
