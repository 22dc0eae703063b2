"""Resumption: whatever breaks and whenever, every window is answered once, and none is lost within the buffer."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import pytest

from tonescope import Frame, Retry, Window
from tonescope.request import frame_message, window_message
from tonescope.resume import Outbox, frame_length
from tonescope.v1 import csi_pb2, live_pb2
from tonescope_server.csi.frames import Frame as ServerFrame
from tonescope_server.csi.windows import Windower
from tonescope_server.services.convert import options_of

N = 4
Answer = tuple[int, int, int]


LENGTHS = (2, 3)


def frame(sequence: int | None, node: int = 0, transmitter: str = "", length: int = 2) -> csi_pb2.Frame:
    return frame_message(Frame(amplitude=np.ones(length), node_id=node, transmitter=transmitter, sequence=sequence))


class Daemon:
    """One connection's end at a daemon, as far as windows go: the daemon's own windower, and its rule for resuming."""

    def __init__(self, hop: int, positions: Iterable[live_pb2.NodeSequence] = ()) -> None:
        asked = options_of(live_pb2.Open(source_id="s", resume_from=positions))
        self.windower = Windower(N, hop, 2, accept=LENGTHS, starts=asked.resume_starts)
        self.resume = asked.resume_from

    def windows(self, message: csi_pb2.Frame) -> list[Answer]:
        values = np.ones(message.amplitude.shape[0], np.float32)
        windows = self.windower.push(ServerFrame(values, message.node_id, message.transmitter, message.sequence))
        found = [(w.node_id, w.first_sequence, w.last_sequence) for w in windows]
        return [each for each in found if each[2] > self.resume.get(each[0], -1)]


def uninterrupted(frames: list[csi_pb2.Frame], hop: int) -> list[Answer]:
    daemon = Daemon(hop)
    return [window for each in frames for window in daemon.windows(each)]


@pytest.mark.parametrize("seed", range(200))
def test_the_windows_answered_are_those_of_an_uninterrupted_stream(seed: int) -> None:
    chance = random.Random(seed)
    hop, nodes, gap = chance.randint(1, 6), chance.randint(1, 3), chance.random() < 0.5
    mixed = chance.random() < 0.5  # 5 is a length that no window takes
    lengths = [chance.choices((2, 3, 5), (5, 4, 1))[0] if mixed else 2 for _ in range(60)]
    frames = [
        frame(i + (3 if gap and i > 17 else 0), node, length=lengths[i])
        for i in range(60 if mixed else 40)
        for node in range(nodes)
    ]
    outbox, received = Outbox(capacity=1000), []
    outbox.lengths = frozenset(LENGTHS)
    waiting, daemon = list(frames), Daemon(hop)
    in_flight: list[Answer] = []
    breaks = 0
    while waiting or outbox.waiting or in_flight:
        step = chance.choices(["add", "send", "answer", "break"], [6, 3, 4, 0.6])[0]
        if len(received) == 3 and not breaks:
            step = "break"  # each run is broken at least once, after something was answered
        if step == "add" and waiting:
            outbox.add(waiting.pop(0))
        elif step == "send" and (request := outbox.take(most=5)) is not None:
            in_flight += [window for each in request.frames.frames for window in daemon.windows(each)]
        elif step == "answer" and in_flight:
            answer = in_flight.pop(0)
            if outbox.answered(*answer):
                received.append(answer)
        elif step == "break":
            breaks += 1
            in_flight.clear()
            daemon = Daemon(hop, outbox.rewind())
    assert sorted(received) == sorted(uninterrupted(frames, hop))
    assert outbox.counts.forgotten == outbox.counts.discarded == 0


def test_frames_of_a_length_that_no_window_takes_are_kept_only_among_those_that_one_needs() -> None:
    outbox = Outbox(100)
    outbox.lengths = frozenset(LENGTHS)
    for i in range(12):
        outbox.add(frame(i, length=5 if i % 3 == 0 else 2))
    outbox.take()
    assert outbox.answered(0, 4, 8)
    (position,) = outbox.rewind()
    again = outbox.take()
    assert again is not None
    assert [each.sequence for each in again.frames.frames] == list(range(4, 12))
    assert dict(position.first_by_length) == {2: 4}


def test_a_lone_frame_of_another_length_holds_others_back_no_longer_than_the_buffer_lasts() -> None:
    outbox = Outbox(20)
    outbox.add(frame(0, length=3))
    for i in range(1, 100):
        outbox.add(frame(i))
        outbox.take()
        if i >= N:
            assert outbox.answered(0, i - N + 1, i)
    assert len(outbox) == N
    assert outbox.counts.forgotten == 1


@pytest.mark.parametrize(
    ("made", "length"),
    [
        (Frame(amplitude=np.ones(56)), 56),
        (Frame(amplitude=np.ones((2, 56))), 56),
        (Frame(iq=np.ones(64, complex)), 64),
        (Frame(iq=np.ones((3, 64, 2))), 64),
        (Frame(raw=(0xC5110001).to_bytes(4, "little") + bytes([1, 1, 192, 0]) + bytes(12)), 192),
        (Frame(raw=b"{}", format="ruview_jsonl"), 0),
    ],
)
def test_the_length_of_a_frame_is_known_where_it_can_be(made: Frame, length: int) -> None:
    assert frame_length(frame_message(made)) == length


def test_frames_are_sent_again_from_the_first_frame_of_the_last_answered_window() -> None:
    outbox = Outbox(100)
    for i in range(10):
        outbox.add(frame(i))
    outbox.take()
    assert outbox.answered(0, 0, 3)
    assert outbox.answered(0, 2, 5)
    positions = outbox.rewind()
    again = outbox.take()
    assert again is not None
    assert [(p.node_id, p.sequence) for p in positions] == [(0, 5)]
    assert [each.sequence for each in again.frames.frames] == list(range(2, 10))
    assert outbox.counts.resent == 8
    assert outbox.counts.sent == 10


def test_an_answer_that_comes_again_is_withheld_once() -> None:
    outbox = Outbox(100)
    for i in range(6):
        outbox.add(frame(i))
    outbox.take()
    assert outbox.answered(0, 0, 3)
    outbox.rewind()
    outbox.take()
    assert not outbox.answered(0, 0, 3)
    assert outbox.counts.repeated == 1
    assert outbox.answered(0, 2, 5)


def test_several_transmitters_of_a_node_are_not_given_one_position() -> None:
    outbox = Outbox(100)
    for i in range(5):
        outbox.add(frame(i, transmitter="a"))
        outbox.add(frame(i + 100, transmitter="b"))
    outbox.take()
    assert outbox.answered(0, 0, 3)
    assert outbox.rewind() == []
    again = outbox.take()
    assert again is not None
    assert len(again.frames.frames) == 10
    assert not outbox.answered(0, 0, 3)
    assert outbox.answered(0, 100, 103)


def test_windows_are_let_go_as_soon_as_they_are_answered() -> None:
    outbox = Outbox(100)
    for _ in range(5):
        outbox.add(window_message(Window(np.ones(2))))
    outbox.take()
    assert outbox.answered(0, 0, 0)
    assert outbox.answered(0, 2, 2)  # window 1 was dropped by the daemon: what comes later settles it
    assert len(outbox) == 2
    outbox.rewind()
    again = outbox.take()
    assert again is not None
    assert [each.last_sequence for each in again.windows.windows] == [3, 4]


def test_frames_without_a_number_are_numbered_by_node_and_transmitter() -> None:
    outbox = Outbox(100)
    for node, transmitter in [(1, ""), (2, ""), (1, ""), (1, "a")]:
        outbox.add(frame(None, node, transmitter))
    request = outbox.take()
    assert request is not None
    assert [each.sequence for each in request.frames.frames] == [0, 0, 1, 0]


def test_a_raw_frame_keeps_the_number_inside_it() -> None:
    header = (0xC5110001).to_bytes(4, "little") + bytes([7]) + bytes(7) + (513).to_bytes(4, "little") + bytes(4)
    outbox = Outbox(100)
    outbox.add(frame_message(Frame(raw=header, format="adr018")))
    request = outbox.take()
    assert request is not None
    assert not request.frames.frames[0].HasField("sequence")
    assert len(outbox) == 1
    assert outbox.answered(7, 513, 513)
    assert [(p.node_id, p.sequence) for p in outbox.rewind()] == [(7, 513)]


def test_raw_frames_of_a_format_without_numbers_are_never_sent_twice() -> None:
    outbox = Outbox(100)
    outbox.add(frame_message(Frame(raw=b"{}", format="ruview_jsonl")))
    outbox.take()
    outbox.rewind()
    assert outbox.take() is None
    assert len(outbox) == 0


def test_what_a_full_buffer_gives_up_is_counted_sent_and_unsent_apart() -> None:
    outbox = Outbox(4)
    for i in range(3):
        outbox.add(frame(i))
    outbox.take()
    for i in range(3, 9):
        outbox.add(frame(i))
    assert len(outbox) == 4
    assert outbox.counts.forgotten == 3
    assert outbox.counts.discarded == 2
    request = outbox.take()
    assert request is not None
    assert [each.sequence for each in request.frames.frames] == [5, 6, 7, 8]


def test_frames_and_windows_never_share_a_message() -> None:
    outbox = Outbox(10)
    outbox.add(frame(0))
    outbox.add(window_message(Window(np.ones(2))))
    first, second = outbox.take(), outbox.take()
    assert first is not None
    assert second is not None
    assert first.WhichOneof("message") == "frames"
    assert second.WhichOneof("message") == "windows"


@pytest.mark.parametrize(("attempt", "most"), [(1, 0.1), (2, 0.2), (5, 1.6), (9, 5.0), (4000, 5.0)])
def test_waits_double_up_to_the_cap_and_are_jittered(attempt: int, most: float) -> None:
    waits = [Retry().delay_s(attempt) for _ in range(50)]
    assert most / 2 <= min(waits) <= max(waits) <= most
    assert len(set(waits)) > 40
