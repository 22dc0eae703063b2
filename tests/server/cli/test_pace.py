"""A recording played again keeps its pace."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.cli.pace import Played, play, speed_of
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import ParameterError

SECOND = 10**9


def frame(at_s: float | None, node: int = 1, values: np.ndarray | None = None) -> Frame:
    values = np.ones(4, dtype=np.float32) if values is None else values
    return Frame(values, node_id=node, capture_time_ns=None if at_s is None else round(at_s * SECOND))


def waits(frames: list[Frame], speed: float) -> list[float]:
    waited: list[float] = []
    assert len(list(play(frames, speed, Played(), wait=waited.append))) == len(frames)
    return waited


def test_frames_come_when_they_came() -> None:
    # No time passes while the test waits, so each wait is from the start.
    assert waits([frame(100.0), frame(100.5), frame(102.0)], 1.0) == pytest.approx([0.5, 2.0], abs=0.1)


def test_twice_the_speed_takes_half_the_time() -> None:
    assert waits([frame(100.0), frame(102.0)], 2.0) == pytest.approx([1.0], abs=0.1)


def test_as_fast_as_possible_never_waits_and_frames_without_a_time_come_at_once() -> None:
    assert waits([frame(100.0), frame(102.0)], 0.0) == []
    assert waits([frame(None), frame(None)], 1.0) == []


def test_a_clock_that_jumps_back_does_not_hold_the_frames_up() -> None:
    assert waits([frame(100.0), frame(50.0)], 1.0) == []


def test_what_is_no_frame_is_counted_by_node_and_kind() -> None:
    played = Played()
    items = [frame(1.0), Skipped("vitals", "", 1), Skipped("vitals", "", 1), Skipped("corrupt", ""), frame(1.0, 2)]
    ticks: list[int] = []
    assert len(list(play(items, 0.0, played, lambda: ticks.append(1)))) == 2
    assert played.sent == {1: {4: 1}, 2: {4: 1}}
    assert played.skipped == {1: {"vitals": 2}, None: {"corrupt": 1}}
    assert len(ticks) == 5


def test_only_the_nodes_asked_for_are_played() -> None:
    played = Played()
    frames = list(play([frame(1.0, 1), frame(1.0, 2)], 0.0, played, nodes=frozenset({2})))
    assert [each.node_id for each in frames] == [2]


def test_each_antenna_is_a_stream_of_its_own() -> None:
    both = frame(1.0, values=np.ones((2, 4), dtype=np.complex64))
    played = Played()
    frames = list(play([both], 0.0, played))
    assert (played.frames, played.messages) == (1, 2)
    assert [each.transmitter for each in frames] == ["/rx0", "/rx1"]
    assert all(each.iq is not None for each in frames)


def test_antennas_stay_together_for_windows_that_hold_them_all() -> None:
    both = frame(1.0, values=np.ones((2, 4), dtype=np.complex64))
    (whole,) = play([both], 0.0, Played(), whole=True)
    assert np.shape(whole.iq) == (2, 4)
    assert whole.transmitter == both.transmitter


def test_as_fast_as_possible_wins_over_a_speed() -> None:
    assert speed_of(3.0, True) == 0.0
    assert speed_of(3.0, False) == 3.0
    with pytest.raises(ParameterError, match="above 0"):
        speed_of(-3.0, False)
