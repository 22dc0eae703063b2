"""Choosing tones on the simulator, where it is known which ones matter, and on the public recordings."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.demo import PLANTED_ROWS, recording_path
from tonescope_server.demo.recording import steady_windows
from tonescope_server.demo.simulator import NULL_ROWS, Scene, simulate
from tonescope_server.errors import EmptyRecordingError, ParameterError, RecordingError
from tonescope_server.reports.dataset import Dataset, Kind, read_dataset
from tonescope_server.reports.tones.choice import Left, Plan, choose, importance_of, rows_left_out
from tonescope_server.reports.tones.masking import Fill, Measure
from tonescope_server.reports.tones.ranking import Over, order_of, rank_tones
from tonescope_server.reports.tones.resampling import Sources

QUICK = Plan(random_sets=20, draws=200)


def scene(seed, labelled=True, seconds=4.0):
    """Windows of one simulated scene, with the number of people in each."""
    order = np.random.default_rng(seed).permutation(4)
    captures = simulate(Scene(tuple((seconds, int(people)) for people in order), seed=820_000 + seed))
    parts = [steady_windows([capture], 20, 10) for capture in captures]
    windows = np.concatenate([part[0] for part in parts]).transpose(0, 2, 1)
    people = np.concatenate([part[1] for part in parts])
    nodes = np.repeat([1, 2], [len(part[1]) for part in parts])
    return Dataset(f"scene {seed}", Kind.WINDOWS, (), windows, nodes, people if labelled else None)


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def choice(demo_model, scenes):
    return choose(demo_model, scenes, Plan(random_sets=100), normalise="manifest")


@pytest.fixture(scope="module")
def many(demo_model):
    """Importance in 80 scenes of 16 seconds: (scene, window, tone); the windows of the two nodes take turns."""
    stated = demo_model.model.manifest.normalisation
    mean, scale = np.float32(stated.mean), np.float32(stated.std) + np.float32(stated.eps)
    found = []
    for seed in range(80):
        order = np.random.default_rng(seed).permutation(4)
        captures = simulate(Scene(tuple((4.0, int(people)) for people in order), seed=830_000 + seed))
        frames = np.stack([(capture.amplitude - mean) / scale for capture in captures])
        starts = range(0, frames.shape[1] - 19, 10)
        windows = np.stack([frames[:, start : start + 20] for start in starts]).reshape(-1, 20, 64).swapaxes(1, 2)
        found.append(importance_of(demo_model, np.ascontiguousarray(windows), Plan()))
    return np.stack(found)


def covered(many, size, seed):
    """Rank groups of scenes; return how often 1.96 errors hold the mean of all, P of the top 16, and its truth."""
    live, truth = ~np.isin(np.arange(64), NULL_ROWS), many.mean(axis=(0, 1))
    n, rng = many.shape[1], np.random.default_rng(seed)
    top = np.isin(np.arange(64), order_of(truth[None], live)[:16])
    held, said, was = [], [], []
    for start in range(0, len(many) - size + 1, size):
        sources = Sources(np.arange(size).repeat(n), np.tile([1, 2], size * n // 2), (4,) * size)
        found = rank_tones(many[start : start + size].reshape(-1, 64), sources, live, (16,), rng, 300)
        error = found.standard_error if size < 3 else found.standard_error_recordings
        held.append((np.abs(found.mean - truth) < 1.96 * error)[live])
        said.append(found.in_top[16][live])
        was.append(top[live])
    return np.mean(held), np.concatenate(said), np.concatenate(was)


# 52 tones of 80, 16 and 8 groups: tones of a group go together, so that the share is known to about 0.04. Five
# recordings make an error of four degrees of freedom, whose normal interval holds 88 %.
@pytest.mark.parametrize(("size", "least"), [(1, 0.88), (5, 0.8), (10, 0.86)])
def test_on_the_simulator_errors_hold_what_other_scenes_say_and_probabilities_come_true(many, size, least):
    held, said, was = covered(many, size, seed=size)
    assert least < held < 0.995
    assert was[said > 0.95].mean() > 0.95
    assert was[said < 0.05].mean() < 0.02
    doubtful = (said >= 0.05) & (said <= 0.95)
    assert was[doubtful].mean() == pytest.approx(said[doubtful].mean(), abs=0.15)


@pytest.mark.parametrize("method", ["subcarrier_saliency", "input_x_gradient", "occlusion"])
def test_the_top_8_of_the_bundled_recording_are_planted_tones(demo_model, method):
    data = read_dataset(recording_path(), demo_model)
    found = choose(demo_model, [data], Plan(method=method, random_sets=1, draws=200, most_tried=8))
    assert set(found.masks[0].rows.tolist()) <= set(PLANTED_ROWS)
    assert (found.ranking.in_top[16][list(PLANTED_ROWS)] > 0.8).all()


def test_bands_find_the_planted_tones_neighbourhoods(demo_model):
    """A tone is in bands of three that reach two tones to either side: no chosen one is further from a planted one."""
    data = read_dataset(recording_path(), demo_model)
    plan = Plan(method="occlusion", parameters={"along": "band", "size": 3}, random_sets=1, draws=50, most_tried=8)
    found = choose(demo_model, [data], plan)
    near = {(row + step) % 64 for row in PLANTED_ROWS for step in range(-2, 3)}
    assert set(found.masks[0].rows.tolist()) <= near - set(NULL_ROWS)


def test_null_tones_are_never_chosen_whatever_k(demo_model, scenes):
    found = choose(demo_model, scenes[:2], Plan(ks=(52,), random_sets=2, draws=20, most_tried=8), "manifest")
    assert set(found.masks[0].rows.tolist()) == set(range(64)) - set(NULL_ROWS)
    assert found.left_out == dict.fromkeys(NULL_ROWS, Left.NULL)


def test_the_chosen_tones_keep_more_of_the_accuracy_than_random_ones_and_the_lowest_less(choice):
    curve = choice.curve
    assert (curve.measure, curve.fill) == (Measure.ACCURACY, Fill.BASELINE)
    assert curve.intact > 0.95
    at = {k: i for i, k in enumerate(curve.ks)}
    _, high = curve.random_band()
    for k in (12, 16, 24, 32):
        assert curve.chosen[at[k]] > high[at[k]], k
        assert curve.p_value[at[k]] < 0.05
    between = [at[k] for k in (8, 12, 16, 24, 32)]
    assert (curve.chosen[between] > curve.random[:, between].mean(axis=0) + 0.15).all()
    assert (curve.lowest[between] <= np.median(curve.random[:, between], axis=0)).all()
    assert curve.chosen[-1] == curve.lowest[-1] == curve.random[0, -1]


def test_the_top_of_one_half_of_the_scenes_is_the_top_of_the_other(demo_model, scenes, choice):
    assert choice.ranking.over is Over.RECORDINGS
    assert set(choice.masks[0].rows.tolist()) <= set(PLANTED_ROWS)
    by_kind = {each.over: each for each in choice.stability}
    assert set(by_kind) == {"halves", "time", "nodes", "recordings"}
    assert len(by_kind["recordings"].pairs) == 15
    for each in by_kind.values():
        assert each.jaccard(8)[0] > 0.6 > 4 * each.by_chance[8]


def test_without_labels_in_every_file_it_is_agreement(demo_model, scenes):
    found = choose(demo_model, [scenes[0], scene(9, labelled=False)], QUICK, "manifest")
    assert found.curve.measure is Measure.AGREEMENT
    assert found.curve.intact == 1.0


def test_the_same_seed_gives_the_same_answer_and_another_one_other_draws(demo_model, scenes):
    first, second, other = (
        choose(demo_model, scenes[:1], Plan(seed=seed, random_sets=5, draws=50), "manifest") for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.curve.random, second.curve.random)
    np.testing.assert_array_equal(first.ranking.standard_error, second.ranking.standard_error)
    assert (first.curve.random != other.curve.random).any()
    np.testing.assert_array_equal(first.ranking.order, other.ranking.order)


def test_a_row_that_never_varies_is_left_out_and_so_is_one_that_holds_no_channel(demo_model):
    raw = np.random.default_rng(0).random((3, 64, 20)).astype(np.float32)
    raw[:, 5] = 7.0
    assert rows_left_out(demo_model.model, raw) == {**dict.fromkeys(NULL_ROWS, Left.NULL), 5: Left.CONSTANT}


def test_a_k_beyond_the_tones_that_carry_signal_is_refused(demo_model, scenes):
    for k in (0, 53):
        with pytest.raises(ParameterError, match=rf"k: expected from 1 to 52, .* got {k}"):
            choose(demo_model, scenes[:1], Plan(ks=(8, k)), "manifest")


def test_too_few_windows_and_windows_that_never_vary_are_refused(demo_model, scenes):
    data = scenes[0]
    few = Dataset("few", Kind.WINDOWS, (), data.cells[:3], data.node_ids[:3])
    with pytest.raises(RecordingError, match=r"recording few: expected at least 4 windows, got 3"):
        choose(demo_model, [few], QUICK, "manifest")
    flat = Dataset("flat", Kind.WINDOWS, (), np.ones_like(data.cells[:9]), data.node_ids[:9])
    with pytest.raises(EmptyRecordingError, match=r"recording flat: expected tones that vary, got none"):
        choose(demo_model, [flat], QUICK, "none")


def test_of_a_long_recording_windows_are_taken_evenly(demo_model, scenes):
    found = choose(demo_model, scenes[:1], Plan(most_windows=10, most_tried=6, random_sets=2, draws=20), "manifest")
    assert (len(found.sources), found.curve.windows) == (10, 6)
    assert set(found.sources.nodes.tolist()) == {1, 2}


@pytest.mark.parametrize("cell_order", ["tone_frame", "frame_tone"])
def test_a_public_model_on_a_public_recording_chooses_live_tones_in_either_order(shared, cell_order, tmp_path):
    """Its published ranking puts null tones 30, 31 and 35 into the top 8."""
    from tonescope_server import Explainer

    folder = shared / "real" / "ruview"
    manifest = tmp_path / "model.toml"
    manifest.write_text(
        f'[input]\ncell_order = "{cell_order}"\n[tones]\nlayout = "ruview56"\n[window]\nhop = 5\n'
        '[normalisation]\nkind = "recording"\n'
    )
    explainer = Explainer.load(folder / "count_v1.safetensors", manifest=manifest)
    data = read_dataset(folder / "rec_1772470567081-20260302_165607.csi.jsonl", explainer)
    found = choose(explainer, [data], QUICK)
    assert len(found.sources) == 47
    assert not set(found.masks[2].rows.tolist()) & {0, *range(27, 38)}
    assert found.curve.measure is Measure.AGREEMENT
