"""Live streams of the blocking client, while the daemon stays."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import tonescope
from tonescope import Frame, errors

from .frames import expected_windows, frames


def test_frames_in_explanations_out(client: tonescope.Client) -> None:
    both = [each for pair in zip(frames(20, node=1), frames(20, node=2), strict=True) for each in pair]
    stream = client.live(model="tiny", frames=both, overload="back_pressure")
    found = list(stream)
    for node in (1, 2):
        got = [(e.first_sequence, e.last_sequence) for e in found if e.node_id == node]
        assert got == expected_windows(20)
    assert all(each.tone_table.id == "ruview56" and each.running is not None for each in found)
    assert stream.counts.sent == 40
    assert stream.counts.answered == len(found) == 18
    assert stream.opened is not None
    assert stream.opened.window_shape == (56, 4)
    assert stream.summary is not None
    assert (stream.summary.frames_used, stream.summary.explained) == (40, 18)


def test_live_windows_are_answered_as_single_calls_are(client: tonescope.Client, windows: np.ndarray) -> None:
    live = list(client.live(model="tiny", windows=windows, overload="back_pressure"))
    single = client.explain(windows, model="tiny")
    assert np.stack([each.tones for each in live]).tobytes() == single.tones.tobytes()


def test_a_stream_is_an_iterator_of_explanations(client: tonescope.Client, windows: np.ndarray) -> None:
    stream = client.live(model="tiny", windows=windows[:2], overload="back_pressure")
    assert [next(stream).window_index, next(stream).window_index] == [0, 1]
    assert next(stream, None) is None


def test_a_handle_sends_and_receives_by_turns(client: tonescope.Client) -> None:
    with client.live(model="tiny") as stream:
        for frame in frames(4):
            stream.send(frame)
        first = stream.receive(timeout=10)
        assert first is not None
        assert (first.first_sequence, first.last_sequence) == (0, 3)
        with pytest.raises(TimeoutError):
            stream.receive(timeout=0.05)
        for frame in frames(2, start=4):
            stream.send(frame)
        stream.close()
        assert [each.last_sequence for each in stream] == [5]
        with pytest.raises(errors.ProtocolError, match="close"):
            stream.send(frames(1)[0])


def test_a_stream_goes_on_after_a_bad_window_and_a_bad_frame(client: tonescope.Client, windows: np.ndarray) -> None:
    mixed = [windows[0], windows[1].T, windows[2]]
    answers = list(client.live(model="tiny", windows=mixed, overload="back_pressure"))
    assert [type(each.problem) for each in answers] == [type(None), errors.ShapeError, type(None)]

    stream = client.live(model="tiny", frames=[*frames(3), b"garbage", *frames(1, start=3)], default_format="adr018")
    assert [each.last_sequence for each in stream] == [3]
    rejected = [notice for notice in stream.notices() if notice.kind == "rejected"]
    assert stream.counts.rejected == len(rejected) == 1


def test_a_stream_that_is_refused_raises_why_and_does_not_try_again(client: tonescope.Client) -> None:
    stream = client.live(model="nobody", frames=frames(3))
    with pytest.raises(errors.UnknownModelError, match="nobody"):
        list(stream)
    assert stream.counts.reconnects == 0


def test_a_source_that_fails_ends_the_stream_with_its_own_error(client: tonescope.Client) -> None:
    def source() -> Iterator[Frame]:
        yield from frames(5)
        raise OSError("the radio is gone")

    with pytest.raises(errors.TonescopeError, match="the radio is gone") as caught:
        list(client.live(model="tiny", frames=source()))
    assert isinstance(caught.value.__cause__, OSError)


def test_leaving_early_ends_the_stream_and_its_threads(client: tonescope.Client) -> None:
    endless = (frame for i in itertools.count() for frame in frames(50, start=50 * i))
    with client.live(model="tiny", frames=endless) as stream:
        for _ in zip(range(5), stream, strict=False):
            pass
    until = time.monotonic() + 10
    while time.monotonic() < until and any(t.name == "tonescope-live" for t in threading.enumerate()):
        time.sleep(0.02)
    assert not [t for t in threading.enumerate() if t.name == "tonescope-live"]
