"""Gain: the receiver's automatic gain changes every tone of a frame at once, which looks like motion.

A person or a door moves the tones of a fading channel by different amounts. A gain step moves all of them by one
factor, from one frame to the next, and stays; a gain that drifts, as a receiver warms up, moves all of them by one
factor over many frames. Of 200 clean streams of 20 s on the project's simulator, whose gain drifts by 0.1 dB, the
level of an eighth differed from that of another by 0.98 dB at most.

Who walks through the line of sight also weakens all tones, and the level comes back: that is what is measured, and no
fault. So a drift must last until the end, and be gradual. A level that changes within a moment and stays (a door that
is shut, someone who sits down in the way) is not told either: from the level alone it cannot be known from a gain that
takes a few frames to change, and "fix the gain" would be wrong of a door. Where it takes the tones away from what the
model was trained on, the check of normalisation tells so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Float64Array, Series
from tonescope_server.types import BoolArray, IntArray

GAIN_STEPS = "GAIN_STEPS"
GAIN_DRIFT = "GAIN_DRIFT"

SPAN = 5  # frames on either side of a step
SMALLEST_STEP_DB = 1.0  # the ESP32's gain moves in steps of about that
SMALLEST_RATIO = 8.0  # of a step to the spread of one frame's level
MOST_UNEVEN = 0.5  # of a step: how far half of the tones may be from following it
DB = 20.0

BLOCKS = 8  # that a stream is cut into, to see how its level drifts
FEWEST_IN_BLOCK = 8  # frames
QUARTER = BLOCKS // 4
SMALLEST_DRIFT_DB = 1.5  # from the first quarter to the last
LEAST_TREND = 0.8  # rank correlation of the blocks' levels with their order
MOST_AT_ONCE = 0.8  # of a drift: how much of it may lie within a quarter of the stream

REMEDY = "fix the gain, or take it out of the amplitudes (agc and fft gain, where the radio gives them)"


def check_gain(series: Series, null: BoolArray) -> tuple[list[Finding], Series]:
    """Tell steps of gain, and a gain that drifts.

    Args:
        series: of named rows, raw amplitudes.
        null: which tones of the table are null.

    Returns:
        What was found, and the series with every frame at one level, where there were steps or drift.
    """
    amplitude = series.amplitude
    live = ~null[series.rows] & (amplitude.max(axis=0) != amplitude.min(axis=0))
    if len(series) < 4 * SPAN or live.sum() < 4 or (amplitude < 0).any():
        return [], series
    level_db = DB * np.log10(np.maximum(amplitude[:, live].astype(np.float64), 1e-3))
    common = np.median(level_db, axis=1)
    steps = _steps(level_db, common, series)
    finding = _told(steps, common, series) if steps.size else _drift(level_db, common, series)
    if finding is None:
        return [], series
    # Once the gain changes, no frame's own level can be trusted: each is brought to the level that held most often.
    factor = 10.0 ** ((np.median(common) - common) / DB)
    return [finding], replace(series, amplitude=(amplitude * factor[:, None]).astype(np.float32))


def _told(steps: IntArray, common: Float64Array, series: Series) -> Finding:
    sizes = np.array([_median_after(common, t, series) - _median_before(common, t, series) for t in steps])
    message = (
        f"the level of all tones jumps {len(steps)} times at once, by {np.abs(sizes).min():.1f} to "
        f"{np.abs(sizes).max():.1f} dB: steps of the receiver's gain, which look like motion"
    )
    figures = {"steps": float(len(steps)), "largest_step_db": float(np.abs(sizes).max())}
    return Finding(GAIN_STEPS, Severity.WARNING, message, REMEDY, figures, series.node_id)


def _drift(level_db: Float64Array, common: Float64Array, series: Series) -> Finding | None:
    """Tell a level that changes from the first quarter of the series to the last, little by little, on all tones.

    Shapes:
        level_db: ``[n_frames, n_live]``.
        common: ``[n_frames]``: its median over tones.
    """
    length = len(common) // BLOCKS
    if length < FEWEST_IN_BLOCK:
        return None
    # By medians, so that a moment's dip moves no block.
    blocks = np.median(common[: length * BLOCKS].reshape(BLOCKS, length), axis=1)
    lasting_db = float(blocks[-QUARTER:].mean() - blocks[:QUARTER].mean())
    if abs(lasting_db) < SMALLEST_DRIFT_DB or not _is_gradual(blocks, lasting_db):
        return None
    drift_db = float(blocks[-1] - blocks[0])  # most of it, against which what tones do each for themselves is least
    each = np.median(level_db[(BLOCKS - 1) * length : BLOCKS * length], axis=0) - np.median(level_db[:length], axis=0)
    if float(np.median(np.abs(each - drift_db))) > MOST_UNEVEN * abs(drift_db) / 2:
        return None
    message = (
        f"the level of all tones drifts by {drift_db:+.1f} dB from the first eighth to the last, and by no step: the "
        "receiver's gain, or whatever weakens the whole channel"
    )
    return Finding(GAIN_DRIFT, Severity.WARNING, message, REMEDY, {"drift_db": abs(drift_db)}, series.node_id)


def _is_gradual(blocks: Float64Array, drift_db: float) -> bool:
    """Say whether the levels of successive blocks go one way, and not all of the way at once."""
    if float(np.abs(blocks[QUARTER:] - blocks[:-QUARTER]).max()) > MOST_AT_ONCE * abs(drift_db):
        return False
    # Ranks about 0, those of equals alike.
    ranks = np.sign(blocks[:, None] - blocks).sum(axis=1)
    order = np.arange(BLOCKS) - (BLOCKS - 1) / 2
    trend = float(ranks @ order / np.sqrt((ranks @ ranks) * (order @ order)))
    return (trend if drift_db > 0 else -trend) >= LEAST_TREND


def _steps(level_db: Float64Array, common: Float64Array, series: Series) -> IntArray:
    """Return the frames at which every tone's level steps, ascending.

    Shapes:
        level_db: ``[n_frames, n_live]``.
        common: ``[n_frames]``: its median over tones.
    """
    change = np.diff(common, prepend=common[:1])
    change[~series.follows] = 0.0
    noise = 1.4826 * float(np.median(np.abs(change[series.follows]))) if series.follows.any() else 0.0
    bound = max(SMALLEST_STEP_DB, SMALLEST_RATIO * noise)
    # A step is a large change from one frame to the next that the medians on both sides confirm.
    candidates = np.flatnonzero(np.abs(change) > 0.7 * bound)
    found = [t for t in candidates if _is_step(level_db, common, int(t), bound, series)]
    return np.array(found, dtype=np.int64)


def _is_step(level_db: Float64Array, common: Float64Array, t: int, bound: float, series: Series) -> bool:
    before, after = _span_before(t, series), _span_after(t, series)
    if before.stop - before.start < SPAN or after.stop - after.start < SPAN:
        return False
    step = float(np.median(common[after]) - np.median(common[before]))
    if abs(step) < bound or abs(common[t] - common[t - 1]) < 0.7 * abs(step):
        return False
    each = np.median(level_db[after], axis=0) - np.median(level_db[before], axis=0)
    return float(np.median(np.abs(each - step))) < MOST_UNEVEN * abs(step) / 2


def _span_before(t: int, series: Series) -> slice:
    start = t
    while start > max(0, t - SPAN) and (start == t or series.follows[start]):
        start -= 1
    return slice(start, t)


def _span_after(t: int, series: Series) -> slice:
    stop = t + 1
    while stop < min(len(series), t + SPAN) and series.follows[stop]:
        stop += 1
    return slice(t, stop)


def _median_before(common: Float64Array, t: int, series: Series) -> float:
    return float(np.median(common[_span_before(t, series)]))


def _median_after(common: Float64Array, t: int, series: Series) -> float:
    return float(np.median(common[_span_after(t, series)]))
