"""Frames that should not be there: those of another training field, those of a node that sends none, too many or few.

Here too: rows that are copies of one another. Frames that are copies are in ``copies``; what a row is, in ``layout``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Declared, Float64Array, Series
from tonescope_server.csi.tones import ToneTable, certain_nulls, layouts_of_length, tone_table
from tonescope_server.types import BoolArray

MIXED_TRAINING_FIELDS = "MIXED_TRAINING_FIELDS"
DUPLICATE_ROWS = "DUPLICATE_ROWS"
MISSING_NODE = "MISSING_NODE"
RATE_MISMATCH = "RATE_MISMATCH"

FEWEST_FRAMES = 16
FEWEST_OF_A_KIND = 0.02  # of the frames: a kind of frame, not a chance zero
SILENT_INTERVALS = 20
SILENT_S = 1.0


def check_fields(series: Series, table: ToneTable) -> tuple[list[Finding], Series]:
    """Tell frames of another training field in between, by the rows that are null in one field alone.

    There must be hardly a frame of neither kind. Live rows that are zero by chance, where the channel is weak, are so
    one by one: for each frame that has none but zeros in such rows there are others that have some.

    Returns:
        What was found, and the series with the frames of the declared field only.
    """
    if len(series) < FEWEST_FRAMES or series.amplitude.shape[1] != len(table) or not table.knows_nulls:
        return [], series
    zero = series.amplitude == 0
    for name, other in _alternatives(table.id, len(table)):
        ours, theirs = _kinds(zero, table, other)
        shares = ours.mean(), theirs.mean()
        if min(shares) >= FEWEST_OF_A_KIND and sum(shares) >= 1 - FEWEST_OF_A_KIND:
            return [_mixed(series, table, name, ours, theirs)], series.only(ours)
    return [], series


def _kinds(zero: BoolArray, table: ToneTable, other: ToneTable) -> tuple[BoolArray, BoolArray]:
    """Mark the frames of the declared field, and those of the other, by their zeros."""
    their_nulls = certain_nulls(other)[: len(table)]
    only_ours = certain_nulls(table) & ~other.null_mask[: len(table)]
    only_theirs = their_nulls & ~table.null_mask
    none = np.zeros(len(zero), dtype=np.bool_)
    if not (only_ours.any() or only_theirs.any()):
        return none, none
    ours = zero[:, only_ours].all(axis=1) & _carries(zero, only_theirs)
    if ours.all():
        return ours, none
    return ours, zero[:, their_nulls].all(axis=1) & _carries(zero, only_ours)


def _carries(zero: BoolArray, rows: BoolArray) -> BoolArray:
    """Mark the frames in which half of the rows, at least, are not zero."""
    carries: BoolArray = 2 * zero[:, rows].sum(axis=1) <= rows.sum()
    return carries


@lru_cache(maxsize=32)
def _alternatives(layout: str, n: int) -> list[tuple[str, ToneTable]]:
    """List the layouts that frames of this length may be in turn, by name: of equal length, or longer and cut off."""
    found = [(other.id, other) for other in layouts_of_length(n) if other.id != layout]
    if layout == "ruview56":
        found.append(("esp_ht20", tone_table("esp_ht20")))
    return found


def _mixed(series: Series, table: ToneTable, other: str, ours: BoolArray, theirs: BoolArray) -> Finding:
    live = ~table.null_mask
    levels = [float(np.median(series.amplitude[kind][:, live])) for kind in (ours, theirs)]
    ratio = levels[1] / levels[0] if levels[0] else float("nan")
    message = (
        f'{theirs.mean():.0%} of the frames are zero where "{other}" is, the others where "{table.id}" is, at '
        f"{ratio:.2g} x the amplitude: two training fields are mixed in one row order"
    )
    figures = {"share_of_other_field": float(theirs.mean()), "amplitude_ratio": ratio}
    remedy = f'send the frames of one training field only: those of "{table.id}", as the manifest declares'
    return Finding(MIXED_TRAINING_FIELDS, Severity.FAULT, message, remedy, figures, series.node_id)


def check_rows(series: Series, null: BoolArray) -> list[Finding]:
    """Tell rows that are copies of one another.

    Args:
        series: of named rows.
        null: which tones of the table are null.
    """
    if len(series) < FEWEST_FRAMES:
        return []
    live = np.flatnonzero(~null[series.rows] & (series.amplitude.max(axis=0) != series.amplitude.min(axis=0)))
    amplitude = series.amplitude[:, live]
    # Equal rows have equal sums; comparing whole rows costs ten times as much.
    if len(np.unique(amplitude.sum(axis=0, dtype=np.float64))) == len(live):
        return []
    columns = np.ascontiguousarray(amplitude.T)
    _, first, inverse = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    copies = [(int(series.rows[live[first[k]]]), int(series.rows[live[i]])) for i, k in enumerate(inverse.ravel())]
    copies = [(source, copy) for source, copy in copies if source != copy]
    if not copies:
        return []
    listed = ", ".join(f"{copy} (of {source})" for source, copy in copies[:4])
    message = f"{len(copies)} rows are copies of others in every frame: {listed}"
    remedy = "look at what fills the rows: no two tones are ever equal throughout"
    figures = {"duplicate_rows": float(len(copies))}
    return [Finding(DUPLICATE_ROWS, Severity.FAULT, message, remedy, figures, series.node_id)]


def check_nodes(all_series: Sequence[Series], declared: Declared) -> list[Finding]:
    """Tell nodes that ought to send and do not, and nodes that fell silent before the others.

    Frames whose time is not known, or is by a clock of the node's own, say nothing of silence.
    """
    seen = {series.node_id for series in all_series}
    found = [
        Finding(
            MISSING_NODE,
            Severity.FAULT,
            f"node {node} sends nothing; the nodes seen are {', '.join(map(str, sorted(seen)))}",
            "see to the node, or take it out of sampling.nodes",
            {"frames": 0.0},
            node,
        )
        for node in declared.nodes
        if node not in seen
    ]
    return found + _silent(all_series)


def _silent(all_series: Sequence[Series]) -> list[Finding]:
    last: dict[int, float] = {}
    interval: dict[int, float] = {}
    for series in all_series:
        if series.time_s is None or not series.one_clock or len(series) < FEWEST_FRAMES:
            continue
        node = series.node_id
        last[node] = max(last.get(node, -np.inf), float(np.nanmax(series.time_s)))
        interval[node] = min(interval.get(node, np.inf), float(np.nanmedian(np.diff(series.time_s))))
    if not last:
        return []
    end = max(last.values())
    return [
        Finding(
            MISSING_NODE,
            Severity.FAULT,
            f"node {node} fell silent {end - time:.1f} s before the end, after a frame every {interval[node]:.3g} s",
            "see to the node: nothing is said of its side of the room meanwhile",
            {"silent_s": end - time},
            node,
        )
        for node, time in last.items()
        if end - time > max(SILENT_S, SILENT_INTERVALS * interval[node])
    ]


def check_rate(series: Series, declared: Declared, once: Series | None = None) -> list[Finding]:
    """Compare the rate of frames with the manifest's.

    The rate is the mean one, pauses left out: frames that are lost on the way leave most intervals as they were.

    Args:
        series: frames as they came.
        declared: nothing is said without its rate.
        once: the series without copies. They may have been sent between the others or in their place: the rate is
            wrong where it is either way.
    """
    if series.time_s is None or not declared.rate_hz:
        return []
    measured = [_rate(each.time_s) for each in (series, once) if each is not None and each.time_s is not None]
    known = [rate for rate in measured if rate is not None]
    if not known or any(abs(rate_hz / declared.rate_hz - 1) <= declared.tolerance for rate_hz, _ in known):
        return []
    rate_hz, usual_hz = known[-1]
    figures = {"rate_hz": rate_hz, "declared_rate_hz": declared.rate_hz}
    message = (
        f"frames come at {rate_hz:.3g} Hz; the model was trained at {declared.rate_hz:.3g} Hz "
        f"(± {declared.tolerance:.0%})"
    )
    remedy = f"send at {declared.rate_hz:.3g} Hz, or resample: a window covers another span of time than in training"
    if rate_hz < declared.rate_hz and abs(usual_hz / declared.rate_hz - 1) <= declared.tolerance:
        figures["lost_share"] = 1 - rate_hz / declared.rate_hz
        message += f": {figures['lost_share']:.0%} of them are lost on the way"
        remedy = "see where frames are lost: a window covers another span of time than in training"
    return [Finding(RATE_MISMATCH, Severity.WARNING, message, remedy, figures, series.node_id)]


def _rate(time_s: Float64Array) -> tuple[float, float] | None:
    """Return the mean rate, pauses left out, and that of the median interval, in Hz; None for too few frames."""
    steps = np.diff(time_s[np.isfinite(time_s)])
    if len(steps) < FEWEST_FRAMES - 1:
        return None
    middle = float(np.median(steps))
    steps = steps[steps <= max(SILENT_S, SILENT_INTERVALS * middle)]
    mean = float(steps.mean()) if len(steps) >= FEWEST_FRAMES - 1 else 0.0
    return (1 / mean, 1 / middle if middle > 0 else np.inf) if mean > 0 else None
