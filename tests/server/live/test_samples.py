"""The samples of a stream: the latest, in order, and never more than so many."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tonescope_server.csi.frames import Frame
from tonescope_server.live import samples
from tonescope_server.live.samples import ANSWERS, EVERY, FRAMES, MOST_KEYS, WINDOWS, Samples


def frame(i: int, node: int = 1, tones: int = 56, transmitter: str = "") -> Frame:
    return Frame(np.full(tones, i, np.float32), node, transmitter, sequence=i)


def test_the_latest_frames_of_each_node_and_transmitter_are_kept_in_order() -> None:
    kept = Samples(224)
    for i in range(3 * FRAMES):
        kept.note([frame(i, node=i % 2), frame(i, node=0, transmitter="b")])
    by_key: dict[tuple[int, str], list[int | None]] = {}
    for each in kept.frames():
        by_key.setdefault((each.node_id, each.transmitter), []).append(each.sequence)
    assert by_key[0, "b"] == list(range(2 * FRAMES, 3 * FRAMES))
    assert by_key[1, ""] == list(range(FRAMES + 1, 3 * FRAMES, 2))
    assert kept.streams == 3
    assert kept.frames_since == 6 * FRAMES


def test_of_windows_the_first_are_kept_and_then_one_in_so_many() -> None:
    kept = Samples(4)
    for i in range(WINDOWS + 10 * EVERY):
        kept.window(np.full((2, 2), i), 7)
    (values,) = kept.windows().values()
    numbers = [int(each[0, 0]) for each in values]
    assert len(numbers) == WINDOWS
    assert numbers[-10:] == list(range(WINDOWS, WINDOWS + 10 * EVERY, EVERY))


def test_windows_of_another_size_are_not_kept_and_transposed_ones_are() -> None:
    kept = Samples(8)
    kept.window(np.zeros((3, 3)), 1)
    assert kept.windows() == {}
    kept.window(np.zeros((2, 4)), 1)
    assert [each.shape for each in kept.windows()[1]] == [(2, 4)]


def test_answers_are_kept_with_their_cells_and_classes(explainer) -> None:
    x = np.random.default_rng(0).normal(size=(ANSWERS, 56, 4)).astype(np.float32)
    result = explainer.explain(x)
    kept = Samples(224)
    for row in range(ANSWERS):
        kept.answer(result, row, node=3)
    taken = kept.answers()[3]
    assert np.array_equal(taken.tones, result.tones)
    assert np.array_equal(taken.cells, result.cells)
    assert np.array_equal(taken.classes, result.prediction.class_index)
    assert not np.shares_memory(taken.tones, result.tones)


def test_a_method_without_cells_gives_none(explainer) -> None:
    result = explainer.explain(np.ones((2, 56, 4), np.float32), method="subcarrier_saliency")
    kept = Samples(224)
    kept.answer(result, 0, 1)
    kept.answer(result, 1, 1)
    assert (kept.answers()[1].cells is None) == (result.cells is None)


@pytest.mark.parametrize("invents", ["nodes", "transmitters", "lengths"])
def test_whatever_a_sender_invents_memory_stays_bounded(invents) -> None:
    kept = Samples(224)
    tracemalloc.start()
    for i in range(50_000):
        node, tones = (i if invents == "nodes" else 1), (64 + i % 5000 if invents == "lengths" else 64)
        values = np.zeros(min(tones, samples.LARGEST_FRAME + 1), np.float32)
        kept.note([Frame(values, node, f"{i}" if invents == "transmitters" else "", sequence=i)])
        kept.window(np.zeros((56, 4), np.float32), node)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    frame_bytes = 4 * samples.LARGEST_FRAME + 1000 if invents == "lengths" else 2000
    assert used < MOST_KEYS * (FRAMES * frame_bytes + WINDOWS * 2000)
