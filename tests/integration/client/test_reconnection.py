"""Live streams whose daemon is killed, drained or late: what is lost, repeated, counted and said."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tonescope
from tonescope import Disconnected, Frame, Reconnected, Retry, Window, errors

from .daemons import Daemon, free_port
from .frames import FAST, expected_windows, frames


def test_where_no_daemon_is_a_stream_says_so_at_once_unless_told_to_wait(tiny_store: Path) -> None:
    port = free_port()
    with tonescope.connect(f"127.0.0.1:{port}") as client:
        began = time.monotonic()
        with pytest.raises(errors.UnavailableError, match="no daemon answers"):
            list(client.live(model="tiny", frames=frames(4)))
        assert time.monotonic() - began < 5
        patient = Retry(first_s=0.05, cap_s=0.2, wait_for_daemon=True)
        told: list[tonescope.ConnectionEvent] = []
        stream = client.live(model="tiny", frames=frames(4), retry=patient, on_connection=told.append)
        late = Daemon(tiny_store, port)
        try:
            assert [each.last_sequence for each in stream] == [3]
        finally:
            late.stop()
    assert [type(event) for event in told] == [Disconnected, Reconnected]
    assert stream.counts.reconnects == 0  # it is the first connection


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_daemon_is_gone_and_back_nothing_is_lost_and_nothing_is_repeated(
    mortal: Daemon, how: signal.Signals
) -> None:
    n, deaths = 400, [20, 90]
    answered: list[tuple[int | None, int | None]] = []
    told: list[tonescope.ConnectionEvent] = []
    back = [threading.Event() for _ in deaths]

    def source() -> Iterator[Frame]:
        """Keep frames back for the next daemon: one that drains would answer all it can get."""
        for i, frame in enumerate(frames(n)):
            if i in (100, 250):
                back[i // 250].wait(30)
            yield frame

    with tonescope.connect(mortal.address) as client:
        stream = client.live(
            model="tiny", frames=source(), retry=FAST, overload="back_pressure", on_connection=told.append
        )
        for each in stream:
            answered.append((each.first_sequence, each.last_sequence))
            if len(answered) in deaths:
                mortal.stop(how)
                mortal.start()
                back[deaths.index(len(answered))].set()
    assert answered == expected_windows(n)
    assert [type(event) for event in told] == [Disconnected, Reconnected, Disconnected, Reconnected]
    assert all(event.address == mortal.address for event in told)
    assert stream.counts.reconnects == 2
    assert stream.counts.sent == n
    assert stream.counts.resent > 0
    assert stream.counts.forgotten == stream.counts.discarded == 0


def test_windows_of_two_lengths_are_neither_lost_nor_repeated_nor_shifted(mortal: Daemon) -> None:
    sent = [
        Frame(amplitude=np.ones(64 if i % 5 in (1, 2) else 56, np.float32) * (1 + i % 7), sequence=i)
        for i in range(300)
    ]
    back = threading.Event()

    def source() -> Iterator[Frame]:
        for i, frame in enumerate(sent):
            if i == 150:
                back.wait(30)
            yield frame

    def run(dies: bool) -> list[tuple[int | None, int | None]]:
        answered: list[tuple[int | None, int | None]] = []
        with tonescope.connect(mortal.address) as client:
            stream = client.live(model="tiny", frames=source() if dies else sent, retry=FAST, overload="back_pressure")
            for each in stream:
                answered.append((each.first_sequence, each.last_sequence))
                if dies and len(answered) == 30:
                    mortal.stop(signal.SIGKILL)
                    mortal.start()
                    back.set()
        assert stream.counts.reconnects == dies
        assert stream.counts.forgotten == 0
        return answered

    whole = run(dies=False)
    assert len(whole) == (180 - 2) // 2 + (120 - 2) // 2
    assert run(dies=True) == whole


def test_a_daemon_that_drains_in_the_middle_of_a_long_stream_loses_none_of_it(mortal: Daemon) -> None:
    n = 6000
    answered = []
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", frames=frames(n), retry=FAST, overload="back_pressure", buffer=20_000)
        for each in stream:
            answered.append((each.first_sequence, each.last_sequence))
            if len(answered) == 1:
                stopping = threading.Thread(target=lambda: (mortal.stop(), mortal.start()))
                stopping.start()
    stopping.join()
    assert answered == expected_windows(n)
    assert stream.counts.reconnects == 1
    assert "draining" in {notice.kind for notice in stream.notices()}


def test_windows_too_are_neither_lost_nor_repeated(mortal: Daemon, windows: np.ndarray) -> None:
    sent = [Window(windows[i % 6], first_sequence=10 * i, last_sequence=10 * i + 9) for i in range(120)]
    answered = []
    with tonescope.connect(mortal.address) as client:
        source = (window for window in sent if not time.sleep(0.003))
        for each in client.live(model="tiny", windows=source, retry=FAST, overload="back_pressure"):
            answered.append(each.last_sequence)
            if len(answered) == 30:
                mortal.stop(signal.SIGKILL)
                mortal.start()
    assert answered == [window.last_sequence for window in sent]


def test_a_daemon_that_stays_away_ends_the_stream_after_the_time_it_was_given(mortal: Daemon) -> None:
    retry = Retry(first_s=0.01, cap_s=0.02, give_up_after_s=1.0)
    told: list[tonescope.ConnectionEvent] = []
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", retry=retry, on_connection=told.append)
        for frame in frames(4):
            stream.send(frame)
        assert stream.receive(timeout=10) is not None
        mortal.stop(signal.SIGKILL)
        with pytest.raises(errors.UnavailableError, match=f"no daemon answers at {mortal.address}.*gave up after 1 s"):
            stream.receive(timeout=20)
    (event,) = told
    assert isinstance(event, Disconnected)
    assert event.address == mortal.address
    assert mortal.address in str(event.error)
    assert event.give_up_after_s == 1.0
    assert stream.counts.reconnects == 0  # some fifty attempts, and none succeeded


def test_what_is_told_of_the_connection_comes_while_it_is_lost_and_when_it_is_back(mortal: Daemon) -> None:
    told: queue.SimpleQueue[tonescope.ConnectionEvent] = queue.SimpleQueue()
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", retry=FAST, on_connection=told.put)
        for frame in frames(4):
            stream.send(frame)
        assert stream.receive(timeout=10) is not None
        assert told.empty()  # a first connection is nothing to tell
        mortal.stop(signal.SIGKILL)
        assert isinstance(told.get(timeout=10), Disconnected)
        mortal.start()
        back = told.get(timeout=20)
        assert isinstance(back, Reconnected)
        assert back.attempts >= 1
        assert back.away_s > 0
        assert stream.counts.reconnects == 1
        for frame in frames(2, start=4):
            stream.send(frame)
        stream.close()
        assert [each.last_sequence for each in stream] == [5]
    assert told.empty()


def test_a_stream_fails_with_what_the_callers_own_code_raised_when_told(mortal: Daemon) -> None:
    def refuse(event: tonescope.ConnectionEvent) -> None:
        raise OSError("the log is full")

    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", retry=FAST, on_connection=refuse)
        for frame in frames(4):
            stream.send(frame)
        assert stream.receive(timeout=10) is not None
        mortal.stop(signal.SIGKILL)
        with pytest.raises(errors.TonescopeError, match="on_connection failed: the log is full") as caught:
            stream.receive(timeout=20)
    assert isinstance(caught.value.__cause__, OSError)


def test_while_the_daemon_is_away_a_full_buffer_drops_the_oldest_and_counts_them(mortal: Daemon) -> None:
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", retry=FAST, buffer=16)
        for frame in frames(4):
            stream.send(frame)
        assert stream.receive(timeout=10) is not None
        mortal.stop(signal.SIGKILL)
        for frame in frames(100, start=4):
            stream.send(frame)
        mortal.start()
        stream.close()
        answered = [each.last_sequence for each in stream]
    counts = stream.counts
    assert answered[-1] == 103
    assert counts.sent + counts.discarded == 104
    assert counts.discarded + counts.forgotten == 104 - 16
