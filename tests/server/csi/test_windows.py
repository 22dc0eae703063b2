from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tonescope_server.csi.decoders.recordings import RuviewJsonLinesDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.quantities import FrameReader, Quantity
from tonescope_server.csi.tones import tone_table, unknown_table
from tonescope_server.csi.windows import Window, Windower, accepted_lengths
from tonescope_server.errors import ParameterError

N = 4


def frame(value: float, sequence: int | None = None, n: int = N, **fields) -> Frame:
    return Frame(np.full(n, value, dtype=np.float32), sequence=sequence, **fields)


def push_all(windower: Windower, frames) -> list[Window]:
    return [window for item in frames for window in windower.push(item)]


def values(window: Window) -> list[float]:
    return window.frames[:, 0].tolist()


def sequences(windows: list[Window]) -> list[tuple[int, int]]:
    return [(window.first_sequence, window.last_sequence) for window in windows]


@pytest.mark.parametrize("hop", [1, 2, 3, 5])
def test_windows_are_the_slices_of_the_stream(hop: int):
    windows = push_all(Windower(3, hop, N), (frame(i, 100 + i) for i in range(20)))
    expected = [list(range(start, start + 3)) for start in range(0, 18, hop)]
    assert [values(window) for window in windows] == expected
    assert sequences(windows) == [(100 + start, 102 + start) for start in range(0, 18, hop)]
    assert [window.index for window in windows] == list(range(len(expected)))


def test_no_window_comes_before_there_are_frames_enough():
    windower = Windower(5, 1, N)
    assert [len(windower.push(frame(i, i))) for i in range(6)] == [0, 0, 0, 0, 1, 1]


def test_windows_of_several_links_hold_what_the_reader_reads_and_belong_to_no_antenna():
    reader = FrameReader(unknown_table(2), Quantity.COMPLEX, ("a", "b"))
    windower = Windower(2, 1, 2, reader=reader)
    frames = [Frame(np.array([[1 + 2j, 3], [4j, 5]], np.complex64) * k, sequence=k) for k in (1, 2)]
    (window,) = push_all(windower, frames)
    assert window.frames.tolist() == [[1, 3, 2, 0, 0, 5, 4, 0], [2, 6, 4, 0, 0, 10, 8, 0]]
    assert window.rx is None
    assert [(key, row.tolist()) for key, row in windower.taken] == [((0, "", 0, 2), [2, 6, 4, 0, 0, 10, 8, 0])]


def test_frames_that_the_reader_cannot_read_are_counted_by_its_words_and_keep_their_place():
    windower = Windower(2, 1, 2, reader=FrameReader(unknown_table(2), Quantity.COMPLEX, ("a", "b")))
    both, one, real = np.ones((2, 2), np.complex64), np.ones(2, np.complex64), np.ones((2, 2), np.float32)
    windows = push_all(windower, [Frame(values, sequence=i) for i, values in enumerate([both, one, real, both])])
    assert windower.counts.skipped == {"links_1": 1, "no_phase": 1}
    assert sequences(windows) == [(0, 3)]
    assert windower.counts.gaps == 0


def test_a_window_says_which_of_several_antennas_it_is_of():
    windower = Windower(1, 1, N)
    windows = push_all(windower, [Frame(np.ones((2, N), np.float32)), Frame(np.ones(N, np.float32), node_id=1)])
    assert [(window.node_id, window.rx) for window in windows] == [(0, 0), (0, 1), (1, None)]


def test_a_window_is_its_own_memory():
    windower = Windower(2, 1, N)
    (first,) = push_all(windower, (frame(i, i) for i in range(2)))
    push_all(windower, (frame(i, i) for i in range(2, 9)))
    assert values(first) == [0, 1]
    assert first.frames.flags.c_contiguous
    assert first.frames.flags.owndata
    assert first.frames.dtype == np.float32


def test_complex_frames_become_amplitudes():
    windower = Windower(1, 1, 2)
    (window,) = windower.push(Frame(np.array([3 + 4j, 1j], np.complex64)))
    assert window.frames.tolist() == [[5, 1]]


def test_nodes_and_transmitters_never_share_a_window():
    windower = Windower(3, 1, N)
    frames = [
        frame(100 * node + 10 * sender + i, i, node_id=node, transmitter=f"mac{sender}")
        for i in range(6)
        for node in (1, 2)
        for sender in (1, 2)
    ]
    windows = push_all(windower, frames)
    assert len(windows) == 4 * 4
    for window in windows:
        base = 100 * window.node_id + 10 * int(window.transmitter[-1])
        assert values(window) == [base + window.index + j for j in range(3)]


def test_antennas_never_share_a_window():
    windower = Windower(2, 1, N)
    antennas = np.array([[1.0] * N, [2.0] * N], dtype=np.float32)
    windows = push_all(windower, (Frame(antennas * (i + 1), sequence=i) for i in range(2)))
    assert [(window.rx, values(window)) for window in windows] == [(0, [1, 2]), (1, [2, 4])]
    assert {window.key for window in windows} == {(0, "", 0, N), (0, "", 1, N)}


def test_a_frame_counts_once_whatever_its_antennas_and_makes_no_gaps_for_frames_of_other_antennas():
    windower = Windower(20, 5, N)
    one, two = np.ones(N, np.float32), np.ones((2, N), np.float32)
    windows = push_all(windower, (Frame(two if i % 2 else one, sequence=i) for i in range(50)))
    counts = windower.counts
    assert (counts.frames, counts.gaps, counts.missing, counts.restarts) == (50, 0, 0, 0)
    assert [window.last_sequence for window in windows if window.rx == 1] == [39, 49]
    push_all(windower, (Frame(two, sequence=i) for i in (53, 53, 52, 54)))
    assert (counts.frames, counts.gaps, counts.missing) == (52, 1, 3)
    assert (counts.duplicates, counts.reordered, counts.restarts) == (1, 1, 1)
    push_all(windower, [Frame(np.ones((2, 7), np.float32), sequence=55), Frame(two * np.nan, sequence=56)])
    assert counts.skipped == {"length_7": 1, "non_finite": 1}


def test_an_antenna_that_cannot_be_read_is_counted_apart_from_frames_that_cannot():
    windower = Windower(2, 1, N)
    broken = np.ones((3, N), np.float32)
    broken[1, 0] = np.nan
    windows = push_all(windower, (Frame(broken, sequence=i) for i in range(3)))
    assert [window.rx for window in windows] == [0, 2, 0, 2]
    assert (windower.counts.frames, windower.counts.skipped) == (3, {"antenna_non_finite": 3})


def test_a_gap_that_all_antennas_of_a_node_show_is_one_gap():
    windower = Windower(2, 1, N)
    for i in (0, 1, 4, 5, 8):
        for rx in range(3):
            windower.push(frame(i, i, node_id=3, transmitter=f"ap/rx{rx}"))
    assert (windower.counts.gaps, windower.counts.missing) == (2, 4)
    push_all(windower, (frame(i, i, node_id=4) for i in (0, 1, 4)))
    assert windower.counts.gaps == 3


def test_frames_of_another_length_are_skipped_and_counted_without_making_a_gap():
    windower = Windower(3, 1, N)
    frames = [frame(i, i, n=6 if i % 2 else N) for i in range(10)]
    windows = push_all(windower, frames)
    assert [values(window) for window in windows] == [[0, 2, 4], [2, 4, 6], [4, 6, 8]]
    assert windower.counts.skipped == {"length_6": 5}
    assert windower.counts.gaps == 0


def test_frames_of_two_accepted_lengths_never_share_a_window_and_make_no_gaps_for_each_other():
    windower = Windower(4, 4, 56, accept=(56, 64))
    windows = push_all(windower, [frame(i, i, n=64 if i % 2 else 56) for i in range(16)])
    assert [(window.frame_length, values(window)) for window in windows] == [
        (56, [0, 2, 4, 6]),
        (64, [1, 3, 5, 7]),
        (56, [8, 10, 12, 14]),
        (64, [9, 11, 13, 15]),
    ]
    assert sequences(windows) == [(0, 6), (1, 7), (8, 14), (9, 15)]
    assert [window.index for window in windows] == [0, 0, 1, 1]
    assert {window.key for window in windows} == {(0, "", 0, 56), (0, "", 0, 64)}
    counts = windower.counts
    assert (counts.frames, counts.windows, counts.gaps, counts.restarts) == (16, 4, 0, 0)
    assert not counts.skipped


@pytest.mark.parametrize("seed", range(20))
def test_however_lengths_alternate_each_length_has_the_windows_it_would_have_alone(seed: int):
    chance = np.random.default_rng(seed)
    frames = [frame(i, 1000 + i, n=int(n)) for i, n in enumerate(chance.choice([4, 6, 9], 200, p=[0.5, 0.4, 0.1]))]
    windower = Windower(5, 3, N, accept=(4, 6))
    windows = push_all(windower, frames)
    for length in (4, 6):
        alone = push_all(Windower(5, 3, N, accept=(length,)), frames)
        assert [values(each) for each in windows if each.frame_length == length] == [values(each) for each in alone]
    assert windower.counts.skipped == {"length_9": sum(each.n_tones == 9 for each in frames)}


def test_one_counter_of_a_source_rules_the_frames_of_all_its_lengths():
    windower = Windower(2, 1, N, accept=(4, 6))
    lengths = {0: 4, 1: 6, 2: 4, 3: 6, 7: 4, 8: 6, 9: 4, 10: 6}
    windows = push_all(windower, [frame(i, i, n=n) for i, n in lengths.items()])
    assert sequences(windows) == [(0, 2), (1, 3), (7, 9), (8, 10)]  # both begin again after the gap
    assert (windower.counts.gaps, windower.counts.missing, windower.counts.restarts) == (1, 3, 1)
    assert not windower.push(frame(9, 9, n=6))
    assert not windower.push(frame(10, 10, n=4))
    assert (windower.counts.reordered, windower.counts.duplicates) == (1, 1)


def test_each_length_of_a_source_is_a_stream_that_counts():
    windower = Windower(1, 1, N, accept=(4, 5, 6), max_streams=2)
    windows = push_all(windower, [frame(i, i, n=n) for i, n in enumerate((4, 5, 6, 6, 4, 5))])
    assert [window.frame_length for window in windows] == [4, 5, 4, 5]
    assert windower.counts.skipped == {"too_many_streams": 2}
    windower.reset()
    assert len(windower.push(frame(0, 0, n=6))) == 1


def test_a_resumed_stream_begins_where_it_is_told_and_earlier_frames_keep_their_place():
    windower = Windower(2, 2, N, accept=(4, 6), starts={(0, 4): 4, (0, 6): 3})
    windows = push_all(windower, [frame(i, i, n=6 if i % 2 else 4) for i in range(10)])
    assert sequences(windows) == [(3, 5), (4, 6), (7, 9)]
    assert (windower.counts.known, windower.counts.frames, windower.counts.gaps) == (3, 7, 0)
    assert not windower.counts.skipped


def test_a_source_that_counts_anew_is_not_held_back_by_where_it_was_to_begin():
    windower = Windower(2, 1, N, starts={(0, N): 1_000_000})
    assert sequences(push_all(windower, [frame(0, 5), frame(0, 6)])) == [(5, 6)]
    begun = Windower(1, 1, N, starts={(0, N): 500})
    assert sequences(push_all(begun, [frame(0, 499), frame(0, 500), frame(0, 0)])) == [(500, 500), (0, 0)]


def test_a_gap_begins_the_stream_again():
    windower = Windower(3, 1, N)
    windows = push_all(windower, [frame(i, i) for i in (0, 1, 2, 3, 6, 7, 8)])
    assert sequences(windows) == [(0, 2), (1, 3), (6, 8)]
    counts = windower.counts
    assert (counts.gaps, counts.missing, counts.restarts) == (1, 2, 1)


def test_a_gap_of_the_allowed_width_is_bridged_and_counted():
    windower = Windower(3, 1, N, max_gap=2)
    windows = push_all(windower, [frame(i, i) for i in (0, 1, 4, 5, 9)])
    assert sequences(windows) == [(0, 4), (1, 5)]
    counts = windower.counts
    assert (counts.gaps, counts.missing, counts.restarts) == (2, 5, 1)


def test_duplicates_are_dropped_and_counted():
    windower = Windower(2, 1, N)
    windows = push_all(windower, [frame(i, i) for i in (0, 0, 1, 1, 1, 2)])
    assert sequences(windows) == [(0, 1), (1, 2)]
    assert windower.counts.duplicates == 3


def test_reordered_frames_are_dropped_and_counted():
    windower = Windower(2, 1, N)
    windows = push_all(windower, [frame(i, i) for i in (10, 11, 9, 12)])
    assert sequences(windows) == [(10, 11), (11, 12)]
    assert windower.counts.reordered == 1


def test_a_source_that_restarts_begins_its_stream_again():
    windower = Windower(2, 1, N)
    windows = push_all(windower, [frame(i, i) for i in (500, 501, 0, 1)])
    assert sequences(windows) == [(500, 501), (0, 1)]
    assert [window.index for window in windows] == [0, 1]
    assert (windower.counts.restarts, windower.counts.gaps) == (1, 0)


def test_a_counter_that_wraps_is_neither_a_gap_nor_a_restart():
    windower = Windower(2, 1, N)
    top = (1 << 32) - 1
    windows = push_all(windower, [frame(0, i) for i in (top - 1, top, 0, 1)])
    assert sequences(windows) == [(top - 1, top), (top, 0), (0, 1)]
    assert (windower.counts.restarts, windower.counts.gaps) == (0, 0)


def test_frames_without_a_sequence_are_numbered():
    windows = push_all(Windower(2, 1, N), (frame(i) for i in range(4)))
    assert sequences(windows) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_frame_that_is_not_finite_never_enters_a_window(bad: float):
    windower = Windower(2, 1, N)
    windows = push_all(windower, [frame(0, 0), frame(bad, 1), frame(2, 2)])
    assert [values(window) for window in windows] == [[0, 2]]
    assert windower.counts.skipped == {"non_finite": 1}


def test_streams_are_bounded():
    windower = Windower(1, 1, N, max_streams=3)
    windows = push_all(windower, (frame(0, 0, transmitter=f"{i}") for i in range(10)))
    assert len(windows) == 3
    assert windower.counts.skipped == {"too_many_streams": 7}


def test_the_capture_time_is_the_newest_frames():
    windower = Windower(2, 1, N)
    windows = push_all(windower, [frame(0, 0, capture_time_ns=7), frame(0, 1, capture_time_ns=9)])
    assert windows[0].capture_time_ns == 9


def test_ruview56_takes_the_start_of_frames_of_56_or_64_tones_alone():
    windower = Windower(3, 3, 56, accept=accepted_lengths(tone_table("ruview56")))
    frames = [Frame(i + n * np.arange(n, dtype=np.float32)) for i in range(6) for n in (56, 64, 128, 192)]
    windows = push_all(windower, frames)
    assert [window.frame_length for window in windows] == [56, 64, 56, 64]
    for k, window in enumerate(windows):
        n, first = window.frame_length, 3 * (k // 2)
        assert window.frames.tolist() == [(i + n * np.arange(56)).tolist() for i in range(first, first + 3)]
    assert windower.counts.skipped == {"length_128": 6, "length_192": 6}


def test_longer_frames_can_be_accepted_explicitly():
    windower = Windower(2, 1, 56, accept=(64, 128, 192))
    windows = push_all(windower, [Frame(np.zeros(n, np.float32)) for _ in range(3) for n in (56, 64, 128, 192)])
    assert [window.frame_length for window in windows] == [64, 128, 192] * 2
    assert windower.counts.skipped == {"length_56": 3}


def test_other_layouts_accept_their_own_length_only():
    assert accepted_lengths(tone_table("esp_lltf")) == (64,)


def test_counts_add_up():
    windower = Windower(2, 1, N)
    push_all(windower, [frame(i, i) for i in range(5)])
    windower.skip(Skipped("vitals", ""))
    assert (windower.counts.frames, windower.counts.windows) == (5, 4)
    assert windower.counts.skipped == {"vitals": 1}


def test_reset_forgets_frames_and_keeps_counts():
    windower = Windower(2, 1, N)
    push_all(windower, [frame(0, 0)])
    windower.reset()
    assert windower.push(frame(1, 1)) == []
    assert windower.counts.frames == 2


@pytest.mark.parametrize(
    "arguments",
    [{"window_frames": 0}, {"hop_frames": 0}, {"n_tones": 0}, {"max_gap": -1}, {"max_streams": 0}, {"accept": (2,)}],
)
def test_impossible_sizes_are_refused(arguments: dict):
    with pytest.raises(ParameterError, match=next(iter(arguments))):
        Windower(**{"window_frames": 2, "hop_frames": 1, "n_tones": N, **arguments})


def test_a_recording_of_two_nodes_and_three_lengths_gives_windows_of_one_node_and_length(shared: Path):
    path = shared / "real/ruview/pretrain-1775182186.csi.jsonl"
    windower = Windower(20, 20, 64)
    counts = {1: 0, 2: 0}
    for item in RuviewJsonLinesDecoder().read(path):
        if isinstance(item, Skipped):
            windower.skip(item)
            continue
        for window in windower.push(item):
            counts[window.node_id] += 1
            assert window.frames.shape == (20, 64)
            assert not window.frames[:, 27:38].any()
    assert counts == {1: 2133 // 20, 2: 1994 // 20}
    assert windower.counts.skipped == {
        "length_128": 1134,
        "length_192": 48,
        "vitals": 236,
        "feature": 236,
        "compressed": 2,
    }
