"""Gain steps: the receiver's automatic gain changes every tone of a frame at once, which looks like motion.

A person or a door moves the tones of a fading channel by different amounts; a gain step moves all of them by one
factor, from one frame to the next, and stays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Float64Array, Series
from tonescope_server.types import BoolArray, IntArray

GAIN_STEPS = "GAIN_STEPS"

SPAN = 5  # frames on either side of a step
SMALLEST_STEP_DB = 1.0  # the ESP32's gain moves in steps of about that
SMALLEST_RATIO = 8.0  # of a step to the spread of one frame's level
MOST_UNEVEN = 0.5  # of a step: how far half of the tones may be from following it
DB = 20.0


def check_gain(series: Series, null: BoolArray) -> tuple[list[Finding], Series]:
    """Tell steps of gain.

    Args:
        series: of named rows, raw amplitudes.
        null: which tones of the table are null.

    Returns:
        What was found, and the series with every frame at one level, where there were steps.
    """
    amplitude = series.amplitude
    live = ~null[series.rows] & (amplitude.max(axis=0) != amplitude.min(axis=0))
    if len(series) < 4 * SPAN or live.sum() < 4 or (amplitude < 0).any():
        return [], series
    level_db = DB * np.log10(np.maximum(amplitude[:, live].astype(np.float64), 1e-3))
    steps = _steps(level_db, series)
    if not steps.size:
        return [], series
    common = np.median(level_db, axis=1)
    sizes = np.array([_median_after(common, t, series) - _median_before(common, t, series) for t in steps])
    message = (
        f"the level of all tones jumps {len(steps)} times at once, by {np.abs(sizes).min():.1f} to "
        f"{np.abs(sizes).max():.1f} dB: steps of the receiver's gain, which look like motion"
    )
    remedy = "fix the gain, or take it out of the amplitudes (agc and fft gain, where the radio gives them)"
    figures = {"steps": float(len(steps)), "largest_step_db": float(np.abs(sizes).max())}
    finding = Finding(GAIN_STEPS, Severity.WARNING, message, remedy, figures, series.node_id)
    # Once there are steps, no frame's own level can be trusted: each is brought to the level that held most often.
    factor = 10.0 ** ((np.median(common) - common) / DB)
    return [finding], replace(series, amplitude=(amplitude * factor[:, None]).astype(np.float32))


def _steps(level_db: Float64Array, series: Series) -> IntArray:
    """Return the frames at which every tone's level steps, ascending.

    Shapes:
        level_db: ``[n_frames, n_live]``.
    """
    common = np.median(level_db, axis=1)
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
