"""Live streams whose daemon is killed, drained or late: what is lost, repeated, counted and said."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tonescope
from tonescope import Retry, Window, errors

from .daemons import Daemon, free_port
from .frames import FAST, expected_windows, frames, slow


def test_where_no_daemon_is_a_stream_says_so_at_once_unless_told_to_wait(tiny_store: Path) -> None:
    port = free_port()
    with tonescope.connect(f"127.0.0.1:{port}") as client:
        began = time.monotonic()
        with pytest.raises(errors.UnavailableError, match="no daemon answers"):
            list(client.live(model="tiny", frames=frames(4)))
        assert time.monotonic() - began < 5
        patient = Retry(first_s=0.05, cap_s=0.2, attempts=200, wait_for_daemon=True)
        stream = client.live(model="tiny", frames=frames(4), retry=patient)
        late = Daemon(tiny_store, port)
        try:
            assert [each.last_sequence for each in stream] == [3]
        finally:
            late.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_daemon_is_gone_and_back_nothing_is_lost_and_nothing_is_repeated(
    mortal: Daemon, how: signal.Signals
) -> None:
    n = 400
    answered: list[tuple[int | None, int | None]] = []
    deaths = iter([20, 90])
    next_death = next(deaths)
    slowly = slow(frames(n), 0.002)
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", frames=slowly, retry=FAST, overload="back_pressure")
        for each in stream:
            answered.append((each.first_sequence, each.last_sequence))
            if len(answered) == next_death:
                mortal.stop(how)
                mortal.start()
                next_death = next(deaths, 0)
    assert answered == expected_windows(n)
    assert stream.counts.reconnects >= 2
    assert stream.counts.sent == n
    assert stream.counts.resent > 0
    assert stream.counts.forgotten == stream.counts.discarded == 0


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
    assert stream.counts.reconnects >= 1
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


def test_a_daemon_that_stays_away_ends_the_stream_after_the_last_attempt(mortal: Daemon) -> None:
    retry = Retry(first_s=0.1, cap_s=0.2, attempts=4)
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", retry=retry)
        for frame in frames(4):
            stream.send(frame)
        assert stream.receive(timeout=10) is not None
        mortal.stop(signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(errors.UnavailableError, match="no daemon answers"):
            stream.receive(timeout=20)
        assert time.monotonic() - began >= 0.3  # half of 0.1 + 0.2 + 0.2 + 0.2: the jitter takes no more
        assert stream.counts.reconnects == 4


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
