from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.normalisation import statistics, tonescope_normalisers
from tonescope_server.errors import ParameterError, ShapeError

BY_NAME = {normaliser.name: normaliser for normaliser in tonescope_normalisers()}


def recording(n: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    frames = rng.uniform(5, 20, size=8) + rng.normal(size=(n, 8))
    frames[:, 2] = 0.0  # a null tone
    return frames.astype(np.float32)


def z(frames: np.ndarray, of: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    return (frames - of.mean(axis=0, dtype=np.float64)) / (of.astype(np.float64).std(axis=0) + eps)


def test_the_four_normalisers_are_offered():
    assert set(BY_NAME) == {"none", "manifest", "recording", "running"}


def test_none_feeds_the_amplitudes_unchanged():
    frames = recording()
    assert np.array_equal(BY_NAME["none"].for_stream(mean=[1.0], std=[2.0]).apply(frames), frames)


def test_manifest_uses_the_training_statistics_alone():
    normaliser = BY_NAME["manifest"].for_stream(mean=np.arange(8.0), std=np.full(8, 2.0), eps=0.5)
    normaliser.observe(recording(seed=5))
    frames = recording(20)
    np.testing.assert_allclose(normaliser.apply(frames), (frames - np.arange(8)) / 2.5, rtol=1e-6)


def test_manifest_takes_one_number_for_every_tone():
    applied = BY_NAME["manifest"].for_stream(mean=3.0, std=2.0, eps=0.0).apply(np.full((2, 8), 7, np.float32))
    assert applied.tolist() == [[2.0] * 8] * 2


@pytest.mark.parametrize(("mean", "std"), [(None, [1.0]), ([1.0], None), (None, None)])
def test_manifest_without_statistics_is_refused(mean, std):
    with pytest.raises(ParameterError, match="expected mean and std in the manifest, got none"):
        BY_NAME["manifest"].for_stream(mean=mean, std=std)


@pytest.mark.parametrize(
    ("mean", "std"),
    [([1.0, 2.0], [1.0]), ([np.nan], [1.0]), ([0.0], [-1.0]), ([[0.0]], [[1.0]])],
)
def test_manifest_without_usable_statistics_is_refused(mean, std):
    with pytest.raises(ParameterError, match="'manifest'"):
        BY_NAME["manifest"].for_stream(mean=mean, std=std)


def test_manifest_statistics_of_another_length_are_refused():
    normaliser = BY_NAME["manifest"].for_stream(mean=np.zeros(56), std=np.ones(56))
    with pytest.raises(ShapeError, match=r"expected 56 tones.*got 8"):
        normaliser.apply(recording(3))


@pytest.mark.parametrize("name", ["manifest", "recording", "running"])
@pytest.mark.parametrize("eps", [-1.0, float("nan")])
def test_an_impossible_eps_is_refused(name: str, eps: float):
    with pytest.raises(ParameterError, match="eps"):
        BY_NAME[name].for_stream(mean=[0.0], std=[1.0], eps=eps)


@pytest.mark.parametrize("portion", [1, 7, 200])
def test_recording_uses_the_whole_recording_however_it_was_observed(portion: int):
    frames = recording()
    normaliser = BY_NAME["recording"].for_stream()
    for start in range(0, len(frames), portion):
        normaliser.observe(frames[start] if portion == 1 else frames[start : start + portion])
    # float64 statistics, float32 result: one rounding of values around 3
    np.testing.assert_allclose(normaliser.apply(frames[:20]), z(frames[:20], frames), atol=1e-6)


def test_recording_statistics_are_fixed_by_their_first_use():
    normaliser = BY_NAME["recording"].for_stream()
    frames = recording()
    normaliser.observe(frames)
    before = normaliser.apply(frames[:5])
    normaliser.observe(100 * frames)
    assert np.array_equal(normaliser.apply(frames[:5]), before)


def test_running_statistics_follow_the_stream():
    frames = recording()
    normaliser = BY_NAME["running"].for_stream()
    for end in (20, 50, 200):
        fresh = BY_NAME["running"].for_stream()
        fresh.observe(frames[:end])
        expected = z(frames[end - 20 : end], frames[:end])
        np.testing.assert_allclose(fresh.apply(frames[end - 20 : end]), expected, atol=1e-6)
    normaliser.observe(frames[:20])
    early = normaliser.apply(frames[:20])
    normaliser.observe(frames[20:])
    assert not np.allclose(early, normaliser.apply(frames[:20]), atol=1e-3)


@pytest.mark.parametrize("name", ["recording", "running"])
def test_nodes_have_statistics_of_their_own(name: str):
    normaliser = BY_NAME[name].for_stream()
    one, two = recording(seed=1), 50 + 3 * recording(seed=2)
    normaliser.observe(one, key=(1, ""))
    normaliser.observe(two, key=(2, ""))
    np.testing.assert_allclose(normaliser.apply(one[:20], key=(1, "")), z(one[:20], one), atol=1e-5)
    np.testing.assert_allclose(normaliser.apply(two[:20], key=(2, "")), z(two[:20], two), atol=1e-5)


@pytest.mark.parametrize("name", ["recording", "running"])
def test_a_window_that_nothing_was_observed_before_is_scored_by_itself(name: str):
    frames = recording(20)
    np.testing.assert_allclose(BY_NAME[name].for_stream().apply(frames), z(frames, frames), atol=1e-6)


@pytest.mark.parametrize("name", ["recording", "running"])
def test_null_tones_stay_exactly_zero(name: str):
    frames = recording()
    normaliser = BY_NAME[name].for_stream()
    normaliser.observe(frames)
    assert not normaliser.apply(frames)[:, 2].any()


def test_frames_of_another_length_are_refused_under_the_same_key():
    normaliser = BY_NAME["running"].for_stream()
    normaliser.observe(np.zeros(8, np.float32))
    with pytest.raises(ShapeError, match="expected 8 tones, got 9"):
        normaliser.observe(np.zeros(9, np.float32))


def test_results_are_float32():
    for name in BY_NAME:
        assert BY_NAME[name].for_stream(mean=[0.0], std=[1.0]).apply(np.ones((2, 8))).dtype == np.float32


def test_statistics_are_of_the_population_in_float64():
    frames = np.float32(1e4) + recording()
    mean, std = statistics(frames)
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(std, np.sqrt(((frames.astype(np.float64) - mean) ** 2).mean(axis=0)), rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 8), (8,), (1, 2, 8)])
def test_statistics_of_no_frames_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ShapeError, match="statistics"):
        statistics(np.zeros(shape))
