"""The order of cells by what neighbours have in common: named where it is seen, never the wrong one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tonescope_server.checks.continuity import FEWEST_ROWS, FEWEST_WINDOWS, continuity
from tonescope_server.csi.cells import FRAME_TONE, TONE_FRAME

FRAMES = 20
SEEDS = range(20)
LAYOUTS = {"smooth over tones": True, "tones in any order": False}


def windows(seed, n_tones, smooth, motion):
    """Amplitudes of six paths, some of which move, in noise: (n, FRAMES, n_tones)."""
    rng = np.random.default_rng([seed, n_tones])
    t, k = np.arange(400)[:, None] / 100, np.arange(n_tones) * 312.5e3
    channel = np.ones((len(t), n_tones), complex)
    for path in range(6):
        phase = rng.uniform(0, 2 * np.pi) + (
            motion * 8 * np.sin(2 * np.pi * rng.uniform(0.3, 2) * t) if path < 3 else 0
        )
        channel += rng.rayleigh(0.4) * np.exp(1j * (phase - 2 * np.pi * k * rng.uniform(20e-9, 200e-9)))
    noise = rng.normal(0, 0.03, (2, *channel.shape))
    amplitude = np.abs(channel + noise[0] + 1j * noise[1])
    amplitude = amplitude if smooth else amplitude[:, rng.permutation(n_tones)]
    return np.stack([amplitude[i : i + FRAMES] for i in range(0, len(t) - FRAMES + 1, FRAMES)])


def flat(frames, order):
    return (frames.transpose(0, 2, 1) if order == TONE_FRAME else frames).reshape(len(frames), -1).astype(np.float32)


def z_scored(frames):
    return (frames - frames.mean(axis=(0, 1))) / frames.std(axis=(0, 1))


@pytest.mark.parametrize("prepare", [lambda frames: frames, z_scored], ids=["amplitudes", "z-scores"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", [TONE_FRAME, FRAME_TONE])
def test_of_a_room_in_motion_the_order_is_named_and_never_the_wrong_one(order, layout, prepare):
    told = Counter(
        continuity(flat(prepare(windows(seed, n, LAYOUTS[layout], 1.0)), order), n, FRAMES).order
        for seed in SEEDS
        for n in (30, 56, 114)
    )
    assert set(told) <= {order, None}, told
    assert told[order] >= 0.9 * sum(told.values()), told


@pytest.mark.parametrize("order", [TONE_FRAME, FRAME_TONE])
def test_of_z_scores_of_a_room_at_rest_nothing_is_told(order):
    told = Counter(continuity(flat(z_scored(windows(seed, 56, True, 0.0)), order), 56, FRAMES).order for seed in SEEDS)
    assert told == {None: len(SEEDS)}


def test_noise_says_nothing():
    rng = np.random.default_rng(0)
    found = [continuity(rng.random((40, 56 * FRAMES), np.float32), 56, FRAMES) for _ in SEEDS]
    assert {each.order for each in found} == {None}
    assert all(abs(each.leap - 1) < 0.1 for each in found)


def test_too_little_is_not_measured():
    cells = np.zeros((FEWEST_WINDOWS, 20 * 20), np.float32)
    assert continuity(cells[1:], 16, 25) is None
    assert continuity(cells, 20, 20) is None  # a square has its breaks at the same places in either order
    assert continuity(cells[:, : 20 * (FEWEST_ROWS - 1)], 20, FEWEST_ROWS - 1) is None
    assert continuity(cells, 16, 25).order is None  # nothing at all
