"""What cells ought to look like once normalised, and what they look like.

Statistics that do not fit are a fault of the manifest or of the sender. A room that merely differs from those of the
training is drift, and belongs to ``drift``. What is asked of windows, the sharpest question first:

- *Has every window a mean of exactly zero?* By statistics of the training no window has, but by its own.
- *Where do null rows stand?* At zero, or where the manifest's statistics put them: one mean for all tones moves them.
- *Of which values are the squares whole numbers?* Receivers give whole I and Q, so the squared amplitude is one. It is
  once the normalisation is undone, and only if what is undone is what was done: of values that are none, a square
  comes within ``NEAR`` of a whole number once in 25.
- *Does the spread of the tones follow the training's?* It does where the mean was subtracted and nothing divided.
- *Are mean and spread of the median tone within bounds?* Wide ones: see below.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.layout import Reading
from tonescope_server.checks.series import Declared, Float64Array, Series
from tonescope_server.types import BoolArray, FloatArray, IntArray

WRONG_NORMALISATION = "WRONG_NORMALISATION"

FEWEST_FRAMES = 16
# Bounds for the median tone. A stream that shows a part of what was trained (an empty room, say) is narrower than
# the training data and off its mean, by about its spread; wrong statistics are off by tens.
LARGEST_MEAN = 4.0
STD_RANGE = (0.05, 8.0)

FEWEST_WINDOWS = 4
FEWEST_IN_WINDOW = 4  # frames
EXACT = 1e-3  # deviations: what float32 and the eps in the denominator leave of a mean of 0
NEARLY_ALL = 0.95
HARDLY = 1e-3
NEAR = 0.02  # of a whole number
FEWEST_VALUES = 200
FEWEST_TONES = 8
LEAST_SPREAD = 0.1  # variance of the logarithms of the tones' deviations: less says nothing

RIGHT = "right"
RAW = "normalise the windows by the manifest's statistics (--normalise manifest), or send frames"
ONCE = "normalise the windows once, by the statistics that the model was trained with"


def check_windows(series: Series, declared: Declared) -> list[Finding]:
    """Check windows that are said to be normalised already.

    Args:
        series: of named rows, the cells as they came.
        declared: says whether the model takes z-scores or raw amplitudes.
    """
    live = _live(series, declared)
    if len(series) < FEWEST_FRAMES or not live.any():
        return []
    values = series.amplitude[:, live]
    if not declared.takes_z_scores:
        if (values >= 0).all():
            return []
        message = f"{(values < 0).mean():.0%} of the values are negative: no amplitudes, but the model takes raw ones"
        return [_finding(message, "send raw amplitudes, or state normalisation.kind in the manifest", series, {})]
    if other := _by_themselves(series, live) or _moved_nulls(series, declared):
        return other
    done = _what_was_done(values, series.rows[live], declared)
    if done in (RIGHT, ""):
        mean, std = _middle(values)
        if not done and (values >= 0).all():
            return [_not_negative(mean, std, series)]
        return _off(mean, std, series, ONCE)
    return [_finding(done, ONCE, series, {"median_std": float(np.median(values.std(axis=0)))})]


def _not_negative(mean: float, std: float, series: Series) -> Finding:
    what = "raw amplitudes" if mean > 1 else "amplitudes that were brought to a range"
    message = f"no value is negative and the median tone's mean is {mean:.3g}: {what}, but z-scores wanted"
    return _finding(message, RAW, series, {"mean": mean, "std": std})


def check_each_window(cells: FloatArray, declared: Declared) -> tuple[list[Finding], FloatArray]:
    """Tell windows that were normalised each by one mean and one deviation of its own, for all tones.

    Shapes:
        cells: ``[n_windows, *shape]``.

    Returns:
        What was found; and the windows, with what was zero in them zero again.
    """
    if not declared.takes_z_scores or len(cells) < FEWEST_WINDOWS:
        return [], cells
    flat = cells.reshape(len(cells), -1)
    if not (_is_exact(flat.mean(axis=1), 0) and _is_exact(flat.std(axis=1), 1)):
        return [], cells
    message = "every window has mean 0 and deviation 1 over all of its cells: it was normalised by itself, not by tone"
    finding = Finding(WRONG_NORMALISATION, Severity.FAULT, message, ONCE)
    return [finding], (flat - flat.min(axis=1, keepdims=True)).reshape(cells.shape)


def put_right(flat: FloatArray, reading: Reading, declared: Declared) -> Series:
    """Lay windows end to end that are to be read otherwise than declared, normalised by the tones they turn out to be.

    Tones may have been mistaken before they were normalised or after. Before, they were given the statistics of the
    rows that they were taken for; these are then taken back.

    Args:
        flat: the cells, ``[n_windows, n_cells]``, z-scores.
        reading: what fits.
        declared: what does not.
    """
    series = reading.series(flat)
    null = declared.cells.table.null_mask[series.rows]
    rows = declared.cells.tone_of_cell
    if declared.normalisation == "manifest" and declared.mean is not None and declared.std is not None:
        raw = (flat * (declared.std[rows] + declared.eps) + declared.mean[rows]).astype(np.float32)
        at_nulls = np.abs(raw[:, reading.null_cells])
        if at_nulls.size and at_nulls.max() < HARDLY * np.median(np.abs(raw[:, ~reading.null_cells])):
            series = reading.series(raw)
            z = (series.amplitude - declared.mean[series.rows]) / (declared.std[series.rows] + declared.eps)
            return replace(series, amplitude=np.where(null, 0, z).astype(np.float32))
    return replace(series, amplitude=np.where(null, 0, series.amplitude))


def _by_themselves(series: Series, live: BoolArray) -> list[Finding]:
    """Tell windows that were normalised each by its own mean."""
    starts = np.flatnonzero(~series.follows)
    length = len(series) // max(len(starts), 1)
    if len(starts) < FEWEST_WINDOWS or length < FEWEST_IN_WINDOW or len(series) % length:
        return []
    if not np.array_equal(starts, length * np.arange(len(starts))):
        return []
    windows = series.amplitude[:, live].reshape(len(starts), length, -1)
    if not _is_exact(windows.mean(axis=1), 0) or not windows.any():
        return []
    message = (
        f"{'every tone' if live.sum() > 1 else 'the tone'} has a mean of exactly 0 in every window: windows were "
        "normalised each by its own mean, which takes out what differs between them"
    )
    return [_finding(message, ONCE, series, {"windows": float(len(starts))})]


def _is_exact(values: FloatArray, expected: float) -> bool:
    return bool((np.abs(values - expected) < EXACT).mean() >= NEARLY_ALL)


def _moved_nulls(series: Series, declared: Declared) -> list[Finding]:
    """Tell null rows that stand elsewhere than the statistics put them."""
    null = declared.cells.table.null_mask[series.rows]
    still = null & (series.amplitude.max(axis=0) == series.amplitude.min(axis=0))
    if not still.any():
        return []
    at, expected = series.amplitude[0, still].astype(np.float64), np.zeros(int(still.sum()))
    if declared.normalisation == "manifest" and declared.mean is not None and declared.std is not None:
        rows = series.rows[still]
        expected = -declared.mean[rows] / (declared.std[rows] + declared.eps)
    moved = np.abs(at - expected) > HARDLY * np.maximum(1, np.abs(expected))
    if not moved.any():
        return []
    where, wanted = float(np.median(at[moved])), float(np.median(expected[moved]))
    message = (
        f"{int(moved.sum())} null rows stand at {where:.3g} and not at {wanted:.3g}: normalised by one mean for all "
        "tones, or by other statistics than the manifest's"
    )
    return [_finding(message, ONCE, series, {"null_rows_at": where, "null_rows_expected": wanted})]


def _what_was_done(values: FloatArray, rows: IntArray, declared: Declared) -> str:
    """Say what was done to amplitudes, as far as it can be told by undoing it: ``RIGHT``, what is wrong, or ""."""
    if declared.normalisation != "manifest" or declared.mean is None or declared.std is None:
        return ""
    mean, std = declared.mean[rows], declared.std[rows] + declared.eps
    each = values.astype(np.float64)
    if _are_of_whole_parts(each * std + mean):
        return RIGHT
    both_signs = bool((values < 0).any())
    if both_signs and (_are_of_whole_parts(each + mean) or _spread_is_the_trainings(each, std)):
        return "the mean of the training was subtracted, and the values were not divided by its deviation"
    if _are_of_whole_parts(each * std):
        return "the values were divided by the deviation of the training, and its mean was not subtracted"
    return ""


def _are_of_whole_parts(amplitude: Float64Array) -> bool:
    """Say whether values are moduli of complex numbers whose parts are whole: whether their squares are whole."""
    squares = np.square(amplitude[amplitude > 1])
    if squares.size < FEWEST_VALUES or 2 * squares.size < amplitude.size:
        return False
    return bool((np.abs(squares - np.rint(squares)) < NEAR).mean() >= NEARLY_ALL)


def _spread_is_the_trainings(values: Float64Array, std: Float64Array) -> bool:
    """Say whether the tones' deviations are spread as the training's are, and would hardly be once divided by them."""
    spread = np.log(values.std(axis=0))
    if len(spread) < FEWEST_TONES or np.log(std).var() < LEAST_SPREAD:
        return False
    return float((spread - np.log(std)).var()) < float(spread.var()) / 4


def check_frames(series: Series, declared: Declared) -> list[Finding]:
    """Check raw frames against the manifest's statistics.

    Args:
        series: of named rows, raw amplitudes.
        declared: its mean and std are tried.
    """
    live = _live(series, declared)
    if declared.mean is None or declared.std is None or len(series) < FEWEST_FRAMES or not live.any():
        return []
    rows = series.rows[live]
    z = (series.amplitude[:, live] - declared.mean[rows]) / (declared.std[rows] + declared.eps)
    mean, std = _middle(z)
    if _is_fine(mean, std):
        return []
    ratio = float(np.median(np.median(series.amplitude[:, live], axis=0) / np.maximum(declared.mean[rows], 1e-9)))
    remedy = (
        f"the amplitudes are {ratio:.3g} x those of the training: measure mean and std on this receiver, take the gain "
        'out, or use normalisation.kind = "recording" or "running"'
    )
    return _off(mean, std, series, remedy)


def _live(series: Series, declared: Declared) -> BoolArray:
    varies = series.amplitude.max(axis=0) != series.amplitude.min(axis=0)
    live: BoolArray = varies & ~declared.cells.table.null_mask[series.rows]
    return live


def _middle(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> tuple[float, float]:
    """Return the median tone's |mean|, with the sign most have, and the median tone's standard deviation."""
    means = values.mean(axis=0)
    sign = 1.0 if np.median(means) >= 0 else -1.0
    return sign * float(np.median(np.abs(means))), float(np.median(values.std(axis=0)))


def _is_fine(mean: float, std: float) -> bool:
    return abs(mean) <= LARGEST_MEAN and STD_RANGE[0] <= std <= STD_RANGE[1]


def _off(mean: float, std: float, series: Series, remedy: str) -> list[Finding]:
    if _is_fine(mean, std):
        return []
    message = (
        f"the median tone has mean {mean:.3g} and standard deviation {std:.3g} once normalised; z-scores have about "
        "0 and 1"
    )
    return [_finding(message, remedy, series, {"mean": mean, "std": std})]


def _finding(message: str, remedy: str, series: Series, figures: dict[str, float]) -> Finding:
    return Finding(WRONG_NORMALISATION, Severity.FAULT, message, remedy, figures, series.node_id)
