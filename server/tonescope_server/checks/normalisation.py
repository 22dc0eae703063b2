"""What cells ought to look like once normalised, and what they look like.

Statistics that do not fit are a fault of the manifest or of the sender. A room that merely differs from those of the
training is drift, and belongs to ``drift``.
"""

from __future__ import annotations

import numpy as np

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Declared, Series
from tonescope_server.types import BoolArray

WRONG_NORMALISATION = "WRONG_NORMALISATION"

FEWEST_FRAMES = 16
# Bounds for the median tone. A stream that shows a part of what was trained (an empty room, say) is narrower than
# the training data and off its mean, by about its spread; wrong statistics are off by tens.
LARGEST_MEAN = 4.0
STD_RANGE = (0.05, 8.0)


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
    mean, std = _middle(values)
    if (values >= 0).all() and mean > 1:
        message = f"no value is negative and the median tone's mean is {mean:.3g}: raw amplitudes, but z-scores wanted"
        remedy = "normalise the windows by the manifest's statistics (--normalise manifest), or send frames"
        return [_finding(message, remedy, series, {"mean": mean, "std": std})]
    return _off(mean, std, series, "normalise the windows once, by the statistics that the model was trained with")


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
