"""Streams of the simulator with one fault injected on purpose: what the checks of data are held against.

``FAULTS`` has each fault in one form, by its code; ``VARIANTS`` has further forms of them, and other faults.
"""

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


def another_layout(seed, declared):
    """Rows run from the lowest subcarrier to the highest, where they are declared as the chip stores them."""
    return _each(clean_frames(seed, declared), lambda s: replace(s, amplitude=np.fft.fftshift(s.amplitude, axes=1)))


def lltf_among_ht(seed, declared):
    """The other way round than ``mixed_fields``: HT-LTF is declared, and every now and then the frame is an LLTF."""
    rng = np.random.default_rng(seed)
    table = tone_table("esp_ht20")
    edge = np.flatnonzero(certain_nulls(TABLE) & ~table.null_mask)

    def change(series):
        chosen = rng.random(len(series)) < rng.uniform(0.1, 0.5)
        amplitude = 3.5 * series.amplitude
        amplitude[:, edge] = rng.uniform(50, 90, len(edge)) + rng.normal(0, 1, (len(series), len(edge)))
        amplitude[chosen] /= 3.5
        amplitude[np.ix_(chosen, edge)] = 0
        return replace(series, amplitude=amplitude.astype(np.float32))

    cells = cell_map((N_TONES, FRAMES), table, "tone_frame", FRAMES)
    return _each(clean_frames(seed, replace(declared, cells=cells, mean=None, std=None)), change)


def frozen(seed, declared):
    """One node goes on sending the frame that it sent half-way, or both always one frame."""
    stream = clean_frames(seed, declared)

    def change(series):
        since = 0 if seed % 2 else len(series) // 2
        return replace(series, amplitude=series.amplitude[np.minimum(np.arange(len(series)), since)])

    return _each(stream, change) if seed % 2 else replace(stream, series=[stream.series[0], change(stream.series[1])])


def frozen_windows(seed, declared):
    """Windows of a sender that froze."""
    windows = clean_windows(seed, declared).windows
    return Stream(declared, [], np.repeat(windows[:1, :, :1], len(windows), axis=0).repeat(FRAMES, axis=2))


def silent(seed, declared):
    """Frames come in time, and are zero, from half-way on or from the start."""

    def change(series):
        there = np.arange(len(series)) < (0 if seed % 2 else len(series) // 2)
        return replace(series, amplitude=np.where(there[:, None], series.amplitude, 0).astype(np.float32))

    return _each(clean_frames(seed, declared), change)


def looped(seed, declared):
    """A buffer of five to sixty frames is sent over and over."""
    period = int(np.random.default_rng(seed).integers(5, 61))
    return _each(clean_frames(seed, declared), lambda s: replace(s, amplitude=s.amplitude[np.arange(len(s)) % period]))


def copies_in_place(seed, declared):
    """One frame in two is sent as the one before it was: at the right rate, with nothing new."""
    rng = np.random.default_rng(seed)

    def change(series):
        kept = np.maximum.accumulate(np.where(rng.random(len(series)) < 0.5, 0, np.arange(len(series))))
        return replace(series, amplitude=series.amplitude[kept])

    return _each(clean_frames(seed, declared), change)


def normalised_by_window(seed, declared):
    """Each window is a z-score by its own mean and deviation, tone by tone; or all tones by one."""
    axes = (1,) if seed % 2 else (1, 2)
    windows = raw_windows(seed)
    z = (windows - windows.mean(axis=axes, keepdims=True)) / (windows.std(axis=axes, keepdims=True) + 1e-6)
    return Stream(declared, [], z.transpose(0, 2, 1).astype(np.float32))


def normalised_as_one(seed, declared):
    """All tones have one mean and one deviation: those of all cells."""
    windows = raw_windows(seed)
    return Stream(declared, [], ((windows - windows.mean()) / windows.std()).transpose(0, 2, 1).astype(np.float32))


def half_normalised(seed, declared):
    """The mean is subtracted and nothing divided, or the reverse."""
    windows = raw_windows(seed)
    half = windows / (declared.std + declared.eps) if seed % 4 == 3 else windows - declared.mean
    return Stream(declared, [], half.transpose(0, 2, 1).astype(np.float32))


def brought_to_a_range(seed, declared):
    """Amplitudes are divided by the largest of all."""
    windows = raw_windows(seed)
    return Stream(declared, [], (windows / windows.max()).transpose(0, 2, 1).astype(np.float32))


def gain_drift(seed, declared):
    """The receiver's gain drifts by 4 dB."""

    def change(series):
        gain_db = np.linspace(0, 4, len(series)) * (1 if seed % 2 else -1)
        return replace(series, amplitude=(series.amplitude * 10 ** (gain_db[:, None] / 20)).astype(np.float32))

    return _each(clean_frames(seed, declared), change)


def whole_header(seed, declared):
    """All twenty bytes of the packet's header are read as ten more tones."""

    def change(series):
        n = len(series)
        one = np.ones(n)
        parts = [
            (1 * one, 0 * one),
            (17 * one, -59 * one),
            (series.node_id * one, 1 * one),
            (64 * one, 0 * one),
            (-123 * one, 9 * one),
            (0 * one, 0 * one),
            (np.arange(n) % 256 - 128, np.arange(n) // 256),
            (0 * one, 0 * one),
            (np.random.default_rng(seed).integers(-52, -45, n), -95 * one),
            (0 * one, 16 * one),
        ]
        header = np.stack([np.hypot(*pair) for pair in parts], axis=1).astype(np.float32)
        tones = np.concatenate([header, series.amplitude], axis=1)
        tones = tones[:, :N_TONES] if seed % 2 else tones
        return replace(series, amplitude=tones, rows=np.arange(tones.shape[1]))

    return _each(clean_frames(seed, declared), change)


def frames_lost(seed, declared):
    """Four frames in ten are lost on the way."""
    rng = np.random.default_rng(seed)
    return _each(clean_frames(seed, declared), lambda s: s.only(rng.random(len(s)) > 0.4))


def dead_row(seed, declared):
    """A tone of the channel never changes: it is zero, or stands at one value."""
    rng = np.random.default_rng(seed)
    row = int(rng.choice(np.flatnonzero(~TABLE.null_mask)))

    def change(series):
        amplitude = series.amplitude.copy()
        amplitude[:, row] = rng.choice([0.0, 5.0, 40.0])
        return replace(series, amplitude=amplitude)

    return _each(clean_frames(seed, declared), change)


def rolled_then_normalised(seed, declared):
    """Every row holds the tone before it, and is given the statistics of its own."""
    rows = z_scores(np.roll(raw_windows(seed), 1, axis=2), declared)
    return Stream(declared, [], np.ascontiguousarray(rows.transpose(0, 2, 1)))


def frame_major_then_normalised(seed, declared):
    """The flat buffer runs frame by frame, and its declared rows are given the statistics of tones."""
    rows = raw_windows(seed).reshape(-1, N_TONES, FRAMES).transpose(0, 2, 1)
    return Stream(declared, [], np.ascontiguousarray(z_scores(rows, declared).transpose(0, 2, 1)))


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
VARIANTS = {
    "LAYOUT_MISMATCH": {"another layout": another_layout},
    "MIXED_TRAINING_FIELDS": {"LLTF among HT": lltf_among_ht},
    "FROZEN_SENDER": {"frozen": frozen, "frozen windows": frozen_windows},
    "NO_SIGNAL": {"silence": silent},
    "DUPLICATE_FRAMES": {"loop": looped, "copies in place": copies_in_place},
    "WRONG_NORMALISATION": {
        "by the window": normalised_by_window,
        "one mean for all": normalised_as_one,
        "half done": half_normalised,
        "brought to a range": brought_to_a_range,
    },
    "GAIN_DRIFT": {"slow drift": gain_drift},
    "HEADER_AS_TONES": {"whole header": whole_header},
    "RATE_MISMATCH": {"frames lost": frames_lost},
    "CONSTANT_ROWS": {"dead row": dead_row},
    "TONES_ROLLED": {"rolled, normalised": rolled_then_normalised},
    "FRAME_MAJOR": {"frame-major, normalised": frame_major_then_normalised},
}
