"""Facts of every frame: what they tell, wherever in a stream it happens, and in how much memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from tests.faults import clean_frames
from tonescope_server.checks import Declared
from tonescope_server.checks.gain import SPAN
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.frames import Frame
from tonescope_server.csi.tones import tone_table
from tonescope_server.live.facts import CARRIED, FEWEST_FACTS, MOST_FACTS, FrameFacts
from tonescope_server.live.samples import FRAMES, MOST_SHAPES, Samples

BLOCK = 128


@pytest.fixture(scope="module")
def declared():
    return Declared(cell_map((64, 20), tone_table("esp_lltf"), "tone_frame", 20), rate_hz=20.0, tolerance=0.25)


@pytest.fixture(scope="module")
def amplitude(declared):
    return clean_frames(3, declared).series[0].amplitude


def frames_of(amplitude, time_s=None, node=1):
    times = np.arange(len(amplitude)) / 20 if time_s is None else time_s
    return [Frame(values, node, sequence=i, capture_time_ns=int(1e9 * times[i])) for i, values in enumerate(amplitude)]


def told(frames, declared, block=BLOCK):
    facts = FrameFacts(1)
    for start in range(0, len(frames), block):
        facts.take(frames[start : start + block])
    return facts.since().findings(declared)


def codes(findings):
    return [finding.code for finding in findings]


@pytest.mark.parametrize("complex_values", [False, True])
def test_a_sound_stream_is_told_nothing(amplitude, declared, complex_values):
    values = amplitude * np.exp(1j * np.arange(64)).astype(np.complex64) if complex_values else amplitude
    assert told(frames_of(values), declared) == []


@pytest.mark.parametrize("at", [5, 60, *range(BLOCK - 2 * SPAN, BLOCK + 2 * SPAN), 391])
def test_a_step_of_gain_is_found_wherever_it_is_and_once(amplitude, declared, at):
    stepped = amplitude * np.where(np.arange(len(amplitude)) < at, 1, 1.6)[:, None]
    (finding,) = told(frames_of(stepped.astype(np.float32)), declared)
    assert finding.code == "GAIN_STEPS"
    assert finding.figures["steps"] == 1
    assert finding.figures["largest_step_db"] == pytest.approx(4.1, abs=0.3)


def test_enough_frames_are_carried_for_a_step_between_two_blocks():
    assert CARRIED == 2 * SPAN - 1


def test_a_drift_is_left_to_the_looks_at_tones(amplitude, declared):
    """One loud frame has its block looked at; that the block drifts too is no step."""
    drifting = amplitude * (10 ** (np.linspace(0, 8, len(amplitude)) / 20))[:, None]
    drifting[70] *= 2
    assert told(frames_of(drifting.astype(np.float32)), declared) == []


def test_someone_who_changes_the_power_of_some_tones_makes_no_step(amplitude, declared):
    moved = amplitude.copy()
    moved[200:, 5:20] *= 3
    assert told(frames_of(moved), declared) == []


def test_copies_a_loop_and_a_frozen_sender_are_found_between_looks(amplitude, declared):
    order = np.arange(400)
    for kept, code in [
        (np.where((order > 150) & (order < 250), order - order % 2, order), "DUPLICATE_FRAMES"),
        (np.where((order > 150) & (order < 250), 150 + order % 12, order), "DUPLICATE_FRAMES"),
        (np.where((order > 150) & (order < 200), 150, order), "FROZEN_SENDER"),
    ]:
        assert codes(told(frames_of(amplitude[kept]), declared)) == [code]


def test_the_rate_is_that_of_all_frames(amplitude, declared):
    arrived = np.random.default_rng(1).random(400) > 0.4
    found = told(frames_of(amplitude[arrived], np.arange(400)[arrived] / 20), declared)
    assert codes(found) == ["RATE_MISMATCH"]


def test_frames_whose_time_is_not_known_have_no_rate(amplitude, declared):
    unknown = [replace(frame, capture_time_ns=None) for frame in frames_of(amplitude)]
    assert told(unknown, declared) == []


def test_numbers_that_are_none_are_left_out(amplitude, declared):
    broken = amplitude.copy()
    broken[50:60] = np.nan
    assert told(frames_of(broken), declared) == []


def test_what_a_look_has_seen_is_not_seen_again(amplitude, declared):
    facts = FrameFacts(1)
    facts.take(frames_of(amplitude[np.zeros(100, dtype=int)]))
    assert codes(facts.since().findings(declared)) == ["FROZEN_SENDER"]
    assert facts.since() is None
    facts.take(frames_of(amplitude[: FEWEST_FACTS - 1]))
    assert facts.since().findings(declared) == []
    # So few are kept for the next look.
    facts.take(frames_of(amplitude[FEWEST_FACTS - 1 :]))
    assert facts.since().moved_db == pytest.approx(0, abs=1)


def test_how_far_the_level_moved_is_known_from_the_beginning_on(amplitude, declared):
    facts = FrameFacts(1)
    moved = []
    for gain in (1.0, 1.2, 1.5):
        facts.take(frames_of((gain * amplitude[:100]).astype(np.float32)))
        moved.append(facts.since().moved_db)
    assert moved == pytest.approx([0, 1.58, 3.52], abs=0.05)


def test_memory_is_bounded_however_long_no_look_is_taken(amplitude):
    rng = np.random.default_rng(0)
    tracemalloc.start()
    facts = FrameFacts(1)
    for _ in range(200):
        # Levels that jump all the time: every block is one to be kept.
        level = rng.choice([1.0, 2.0], size=(BLOCK, 1)).repeat(64, axis=1)
        facts.take(frames_of((level * amplitude[:BLOCK]).astype(np.float32)))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(facts.since()) == MOST_FACTS
    assert used < 1_000_000


def test_every_frame_of_a_stream_leaves_its_facts_and_each_shape_its_own():
    samples = Samples(1280)
    rng = np.random.default_rng(2)
    made = [Frame(rng.normal(size=64 + i % (MOST_SHAPES + 1)).astype(np.float32), 1) for i in range(10 * FRAMES)]
    for start in range(0, len(made), 7):
        samples.note(made[start : start + 7])
    seen = samples.seen()
    assert [len(each) for each in seen] == [10 * FRAMES // (MOST_SHAPES + 1)] * MOST_SHAPES
    assert samples.frames() == made[-FRAMES:]
    assert samples.seen() == []
