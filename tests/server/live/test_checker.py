"""The checks of one stream: when they look, what they see, and what follows from what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.faults import FAULTS, clean_frames, clean_windows, declared_by, z_scores
from tonescope_server import Explainer
from tonescope_server.csi.frames import Frame
from tonescope_server.demo import store_path
from tonescope_server.live.checker import FIRST_FRAMES, FIRST_WINDOWS, FRAMES_APART, WINDOWS_APART, StreamChecker
from tonescope_server.live.messages import Options
from tonescope_server.live.protocol import negotiate


@pytest.fixture(scope="module")
def people():
    return Explainer.load(store_path() / "people_count" / "1")


@pytest.fixture(scope="module")
def declared(people):
    stated = people.model.manifest.normalisation
    return declared_by(np.array(stated.mean), np.array(stated.std))


@pytest.fixture
def checker(people):
    def make(method: str = "input_x_gradient", **asked):
        return StreamChecker(people.model, negotiate(Options(**asked), people.model, 64), method)

    return make


def send(checker, series, span=slice(None)):
    for i in range(len(series))[span]:
        time_ns = int(1e9 * series.time_s[i])
        checker.samples.note([Frame(series.amplitude[i], series.node_id, sequence=i, capture_time_ns=time_ns)])


def codes(found):
    return {each.code for each in found}


def test_looks_come_soon_and_then_ever_more_seldom(checker, declared):
    one = checker()
    values = clean_frames(0, declared).series[0].amplitude
    looks = []
    for i in range(22 * FIRST_FRAMES + 3 * FRAMES_APART):
        one.samples.note([Frame(values[i % len(values)], 1, sequence=i)])
        if one.due:
            one.begin()()
            looks.append(i + 1)
    apart = np.diff([0, *looks]).tolist()
    assert apart == [FIRST_FRAMES, 4 * FIRST_FRAMES, 16 * FIRST_FRAMES, FRAMES_APART, FRAMES_APART, FRAMES_APART]


def test_with_several_nodes_as_many_more_frames_are_waited_for(checker, declared):
    one = checker()
    series = clean_frames(0, declared).series
    for i in range(FIRST_FRAMES - 1):
        for each in series:
            one.samples.note([Frame(each.amplitude[i], each.node_id, sequence=i)])
    assert not one.due
    for each in series:
        one.samples.note([Frame(each.amplitude[-1], each.node_id, sequence=FIRST_FRAMES)])
    assert one.due
    one.begin()
    assert not one.due
    assert not one.has_news


def test_windows_have_looks_of_their_own(checker, declared):
    one = checker()
    cells = clean_windows(1, declared).windows
    looks = []
    for i in range(22 * FIRST_WINDOWS + 2 * WINDOWS_APART):
        one.samples.window(cells[i % len(cells)], 1)
        if one.due:
            assert one.begin()() == []
            looks.append(i + 1)
    apart = np.diff([0, *looks]).tolist()
    assert apart == [FIRST_WINDOWS, 4 * FIRST_WINDOWS, 16 * FIRST_WINDOWS, WINDOWS_APART, WINDOWS_APART]


def test_windows_sent_raw_to_be_normalised_here_are_judged_as_raw(checker, people, declared):
    z = clean_windows(2, declared).windows
    raw = z * (declared.std + declared.eps)[None, :, None] + declared.mean[None, :, None]
    for normalisation, cells, expected in [
        (None, z, set()),
        (None, raw, {"WRONG_NORMALISATION"}),
        ("manifest", raw, set()),
    ]:
        one = checker(normalisation=normalisation)
        for each in cells[:32]:
            one.samples.window(each.astype(np.float32), 1)
        assert codes(one.begin()()) == expected


def test_another_normalisation_than_the_manifests_leaves_its_statistics_aside(checker, declared):
    louder = [replace(s, amplitude=4 * s.amplitude) for s in clean_frames(3, declared).series]
    for normalisation, expected in [(None, {"WRONG_NORMALISATION"}), ("running", set())]:
        one = checker(normalisation=normalisation)
        send(one, louder[0])
        assert codes(one.begin()()) == expected


def test_numbers_that_are_none_are_left_out(checker, declared):
    one = checker()
    series = clean_frames(4, declared).series[0]
    send(one, series)
    one.samples.note([Frame(np.full(64, np.nan, np.float32), 1, sequence=9000)])
    cells = clean_windows(4, declared).windows
    for each in (*cells[:20], np.full_like(cells[0], np.inf)):
        one.samples.window(each, 2)
    assert one.begin()() == []


def answer(one, people, cells, node=1):
    result = people.explain(np.ascontiguousarray(cells))
    for row in range(len(cells)):
        one.samples.answer(result, row, node)


def test_a_layout_that_is_wrong_is_told_once_and_not_as_attribution_too(checker, people, declared):
    """Scrambled windows put attribution on null tones: that follows from the layout, and is told with it elsewhere."""
    scrambled = FAULTS["FRAME_MAJOR"](5, declared).windows
    one = checker()
    for each in scrambled[:32]:
        one.samples.window(each, 1)
    result = people.explain(np.ascontiguousarray(scrambled[:64]))
    # The demo's model has learnt nothing of null rows; one that has puts attribution there.
    on_nulls = replace(result, cells=np.ones_like(result.cells), tones=np.ones_like(result.tones))
    alone = checker()
    for row in range(64):
        one.samples.answer(on_nulls, row, 1)
        alone.samples.answer(on_nulls, row, 1)
    assert codes(one.begin()()) == {"FRAME_MAJOR"}
    assert codes(alone.begin()()) == {"NULL_TONE_SHARE"}


def test_of_a_method_that_tells_no_tones_apart_null_tones_say_nothing(people):
    result = people.explain(np.zeros((64, *people.model.input.shape[1:]), np.float32))
    on_nulls = replace(result, cells=np.ones_like(result.cells), tones=np.ones_like(result.tones))
    agreement = negotiate(Options(), people.model, 64)
    for resolves, expected in ((True, {"NULL_TONE_SHARE"}), (False, set())):
        one = StreamChecker(people.model, agreement, "grad_cam", resolves_tones=resolves)
        for row in range(64):
            one.samples.answer(on_nulls, row, 1)
        assert codes(one.begin()()) & {"NULL_TONE_SHARE"} == expected


def test_levels_after_a_step_of_gain_are_not_told_as_drift(checker, declared):
    series = clean_frames(7, declared).series[0]
    gain = np.where(np.arange(len(series)) < 100, 1.0, 1.7)[:, None].astype(np.float32)
    louder = replace(series, amplitude=series.amplitude * gain)
    one = checker()
    send(one, louder, slice(0, 150))
    assert codes(one.begin()()) == {"GAIN_STEPS"}
    for span in (slice(150, 280), slice(280, 400)):
        send(one, louder, span)
        assert one.begin()() == []


def test_what_happens_between_two_looks_at_the_latest_frames_is_found(checker, declared):
    """The latest frames are in order, whatever was before them."""
    series = clean_frames(10, declared).series[0]
    t = np.arange(len(series))
    stepping = np.where((t > 60) & (t < 240) & (t // 30 % 2 == 0), 1.6, 1)[:, None].astype(np.float32)
    for amplitude, expected in [
        (series.amplitude * stepping, {"GAIN_STEPS"}),
        (series.amplitude[np.where((t > 60) & (t < 240), t - t % 2, t)], {"DUPLICATE_FRAMES"}),
        (series.amplitude[np.where((t > 60) & (t < 240), 60, t)], {"FROZEN_SENDER"}),
    ]:
        one = checker()
        send(one, replace(series, amplitude=amplitude))
        assert codes(one.begin()()) == expected
        send(one, replace(series, amplitude=series.amplitude * np.float32(1.001)))
        assert one.begin()() == []


def test_frames_of_two_fields_in_turn_are_not_told_as_steps_of_gain(checker, declared):
    series = FAULTS["MIXED_TRAINING_FIELDS"](11, declared).series[0]
    is_ht = series.amplitude[:, 27] > 0
    ones, others = np.flatnonzero(is_ht)[:60], np.flatnonzero(~is_ht)[:60]
    order = np.concatenate([each for k in range(3) for each in (ones[20 * k :][:20], others[20 * k :][:20])])
    one = checker()
    send(one, replace(series, amplitude=series.amplitude[order], time_s=series.time_s[: len(order)]))
    assert codes(one.begin()()) == {"MIXED_TRAINING_FIELDS"}


def test_levels_that_went_off_since_the_stream_began_are_told_as_a_drift_of_gain(checker, declared):
    series = clean_frames(12, declared).series[0]
    drifting = series.amplitude * (10 ** (np.linspace(0, 4, len(series)) / 20))[:, None]
    one = checker()
    seen = set()
    for span in (slice(0, 64), slice(64, 240), slice(240, 400)):
        send(one, replace(series, amplitude=drifting.astype(np.float32)), span)
        seen |= codes(one.begin()())
    assert "GAIN_DRIFT" in seen
    assert "WRONG_NORMALISATION" not in seen


def test_drift_is_told_when_it_is_seen_twice(checker, declared):
    series = clean_frames(8, declared).series[0]
    ripple = (1 + 0.2 * np.sin(np.arange(64) / 5)).astype(np.float32)
    one = checker()
    for span, expected in [
        (slice(0, 150), set()),
        (slice(150, 300), {"INPUT_DRIFT"}),
        (slice(300, 400), {"INPUT_DRIFT"}),
    ]:
        send(one, replace(series, amplitude=series.amplitude * ripple), span)
        assert codes(one.begin()()) == expected


def test_attribution_that_moves_within_a_stream_is_told(checker, people, declared):
    """Against the first windows' own profile: it moves from the planted tones to all the others."""
    cells = clean_windows(9, declared).windows
    one = checker()
    answer(one, people, cells[:64])
    assert one.begin()() == []
    result = people.explain(np.ascontiguousarray(cells[:64]))
    elsewhere = (np.abs(result.tones).mean(axis=0) < 0.1) & ~declared.cells.table.null_mask
    moved = replace(result, tones=np.tile(elsewhere.astype(np.float32), (64, 1)), cells=None)
    found = []
    for _ in range(2):
        for row in list(range(64)) * 8:
            one.samples.answer(moved, row, 1)
        found = one.begin()()
    assert "ATTRIBUTION_DRIFT" in codes(found)


def test_a_class_never_trained_is_told_whatever_the_data(checker, people, declared):
    outputs = people.model.manifest.outputs
    never = outputs[0].model_copy(update={"trained_classes": (3,)})
    manifest = people.model.manifest.model_copy(update={"outputs": (never, *outputs[1:])})
    model = replace(people.model, manifest=manifest)
    one = StreamChecker(model, negotiate(Options(), model, 64), "input_x_gradient")
    answer(one, people, z_scores(np.zeros((1, 20, 64)), declared).transpose(0, 2, 1))
    assert codes(one.begin()()) == {"CLASS_NEVER_TRAINED"}
