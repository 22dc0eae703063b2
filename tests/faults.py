"""Streams of the simulator with one fault injected on purpose: what the checks of data are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from tonescope_server.checks import Declared, Series
from tonescope_server.checks.data import check_recording, check_windows
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import certain_nulls, tone_table
from tonescope_server.demo.simulator import N_TONES, Capture, Scene, simulate

FRAMES, HOP, RATE_HZ = 20, 10, 20.0
TABLE = tone_table("esp_lltf")
HEADER_ROWS = 6


@lru_cache(maxsize=128)
def captures_of(seed: int) -> tuple[Capture, ...]:
    """Simulate twenty seconds with two counts of people, which the seed decides."""
    counts = np.random.default_rng(seed).integers(0, 4, 2)
    return simulate(Scene(schedule=((10.0, int(counts[0])), (10.0, int(counts[1]))), seed=30_000 + seed))


def declared_by(mean: np.ndarray, std: np.ndarray) -> Declared:
    """Declare what the demo's model does, with these training statistics."""
    cells = cell_map((N_TONES, FRAMES), TABLE, "tone_frame", FRAMES)
    return Declared(cells, "manifest", mean, std, 1e-6, RATE_HZ, 0.25, (1, 2))


@dataclass
class Stream:
    """A stream as it arrives: the frames of every node, or windows that are said to be normalised."""

    declared: Declared
    series: list[Series]
    windows: np.ndarray | None = None

    def findings(self):
        """Run every check of data."""
        if self.windows is not None:
            return check_windows(self.windows, self.declared)
        return check_recording(self.series, self.declared)


def clean_frames(seed: int, declared: Declared) -> Stream:
    """Make a stream of frames without a fault."""
    made = []
    for capture in captures_of(seed):
        amplitude = capture.amplitude
        follows = np.arange(len(amplitude)) > 0
        rows = np.arange(N_TONES)
        made.append(Series(amplitude, rows, follows, (capture.node_id, "", 0, amplitude.shape[1]), capture.time_s))
    return Stream(declared, made)


def clean_windows(seed: int, declared: Declared) -> Stream:
    """Make windows without a fault: z-scores by the training statistics, tones first."""
    return Stream(declared, [], z_scores(raw_windows(seed), declared).transpose(0, 2, 1))


def raw_windows(seed: int) -> np.ndarray:
    """Cut every node's frames into windows: amplitudes (n, FRAMES, N_TONES)."""
    cut = []
    for capture in captures_of(seed):
        starts = range(0, len(capture.amplitude) - FRAMES + 1, HOP)
        cut += [capture.amplitude[start : start + FRAMES] for start in starts]
    return np.stack(cut)


def z_scores(windows: np.ndarray, declared: Declared) -> np.ndarray:
    return ((windows - declared.mean) / (declared.std + declared.eps)).astype(np.float32)


def _each(stream: Stream, change: Callable[[Series], Series]) -> Stream:
    return replace(stream, series=[change(series) for series in stream.series])


def transposed(seed, declared):
    """Windows come as (frames, tones) where the model takes (tones, frames)."""
    windows = clean_windows(seed, declared).windows
    return Stream(declared, [], np.ascontiguousarray(windows.transpose(0, 2, 1)))


def frame_major(seed, declared):
    """The flat buffer runs frame by frame and is labelled (tones, frames)."""
    windows = transposed(seed, declared).windows
    return Stream(declared, [], windows.reshape(len(windows), N_TONES, FRAMES))


def rolled(seed, declared):
    """Every row holds the tone before it."""
    return _each(clean_frames(seed, declared), lambda s: replace(s, amplitude=np.roll(s.amplitude, 1, axis=1)))


def header_as_tones(seed, declared):
    """Twelve bytes of the packet's header are read as six more tones."""
    rng = np.random.default_rng(seed)

    def change(series):
        n = len(series)
        fixed = np.tile(np.hypot([133.0, 0, 47, 0], [9.0, 0, 91, 0]).astype(np.float32), (n, 1))
        sequence = np.hypot(np.arange(n) % 256, np.arange(n) // 256)[:, None]
        header = np.concatenate([fixed[:, :2], sequence, fixed[:, 1:2], fixed[:, 2:]], axis=1)
        tones = np.concatenate([header.astype(np.float32), series.amplitude], axis=1)
        # One recorder passes on all seventy rows, another the first sixty-four of them.
        return replace(series, amplitude=tones[:, :N_TONES] if cut else tones, rows=np.arange(N_TONES + 6 * (not cut)))

    cut = bool(rng.integers(2))
    return _each(clean_frames(seed, declared), change)


def mixed_fields(seed, declared):
    """Every now and then the frame is an HT-LTF: four more tones, and 3.5 times the amplitude."""
    rng = np.random.default_rng(seed)
    other = tone_table("esp_ht20")

    def change(series):
        amplitude = series.amplitude.copy()
        chosen = rng.random(len(series)) < rng.uniform(0.1, 0.5)
        edge = np.flatnonzero(certain_nulls(TABLE) & ~other.null_mask)
        amplitude[np.ix_(chosen, edge)] = rng.uniform(15, 25, (chosen.sum(), len(edge)))
        amplitude[chosen] *= 3.5
        return replace(series, amplitude=amplitude)

    return _each(clean_frames(seed, declared), change)


def wrong_normalisation(seed, declared):
    """Windows come raw, or normalised twice; or the statistics are those of another receiver."""
    way = seed % 3
    if way == 0:
        return Stream(declared, [], raw_windows(seed).transpose(0, 2, 1))
    if way == 1:
        twice = z_scores(z_scores(raw_windows(seed), declared), declared)
        return Stream(declared, [], twice.transpose(0, 2, 1))
    return clean_frames(seed, replace(declared, mean=0.4 * declared.mean, std=0.4 * declared.std))


def gain_steps(seed, declared):
    """The receiver's gain jumps by 2 to 6 dB, to and fro."""
    rng = np.random.default_rng(seed)

    def change(series):
        gain_db = np.zeros(len(series))
        size = rng.uniform(2, 6)
        for number, t in enumerate(sorted(rng.choice(np.arange(20, len(series) - 20, 15), 4, replace=False))):
            gain_db[t:] += size if number % 2 == 0 else -size
        return replace(series, amplitude=(series.amplitude * 10 ** (gain_db[:, None] / 20)).astype(np.float32))

    return _each(clean_frames(seed, declared), change)


def duplicated_frames(seed, declared):
    """One frame in ten is sent twice, under a number of its own."""
    rng = np.random.default_rng(seed)

    def change(series):
        counts = np.where(rng.random(len(series)) < 0.1, 2, 1)
        amplitude = np.repeat(series.amplitude, counts, axis=0)
        time_s = np.repeat(series.time_s, counts)
        return replace(series, amplitude=amplitude, time_s=time_s, follows=np.arange(len(amplitude)) > 0)

    return _each(clean_frames(seed, declared), change)


def missing_node(seed, declared):
    """One of two nodes sends nothing, or stops half-way."""
    stream = clean_frames(seed, declared)
    gone = stream.series[seed % 2]
    rest = [s for s in stream.series if s is not gone]
    if seed % 4 < 2:
        return replace(stream, series=rest)
    return replace(stream, series=[*rest, gone.only(np.arange(len(gone)) < len(gone) // 2)])


FAULTS = {
    "TRANSPOSED": transposed,
    "FRAME_MAJOR": frame_major,
    "TONES_ROLLED": rolled,
    "HEADER_AS_TONES": header_as_tones,
    "MIXED_TRAINING_FIELDS": mixed_fields,
    "WRONG_NORMALISATION": wrong_normalisation,
    "GAIN_STEPS": gain_steps,
    "DUPLICATE_FRAMES": duplicated_frames,
    "MISSING_NODE": missing_node,
}
CLEAN = {"clean frames": clean_frames, "clean windows": clean_windows}
