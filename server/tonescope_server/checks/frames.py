"""Frames that should not be there, or should not be alike: mixed training fields, duplicates, rows that are copies.

Here too: nodes that send nothing and rates that are off. What a row is belongs to ``layout``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Declared, Series
from tonescope_server.csi.tones import ToneTable, certain_nulls, layouts_of_length, tone_table
from tonescope_server.types import BoolArray

MIXED_TRAINING_FIELDS = "MIXED_TRAINING_FIELDS"
DUPLICATE_FRAMES = "DUPLICATE_FRAMES"
DUPLICATE_ROWS = "DUPLICATE_ROWS"
MISSING_NODE = "MISSING_NODE"
RATE_MISMATCH = "RATE_MISMATCH"

FEWEST_FRAMES = 16
FEWEST_OF_A_KIND = 0.02  # of the frames: a kind of frame, not a chance zero
DUPLICATE_SHARE = 0.005
DUPLICATE_REACH = 3  # frames: senders repeat at once, if at all
SILENT_INTERVALS = 20
SILENT_S = 1.0


def check_fields(series: Series, table: ToneTable) -> tuple[list[Finding], Series]:
    """Tell frames of another training field in between, by the rows that are null in one field alone.

    Returns:
        What was found, and the series with the frames of the declared field only.
    """
    if len(series) < FEWEST_FRAMES or series.amplitude.shape[1] != len(table) or not table.knows_nulls:
        return [], series
    zero = series.amplitude == 0
    for name, other in _alternatives(table.id, len(table)):
        only_here = certain_nulls(table) & ~other.null_mask[: len(table)]
        if not only_here.any():
            continue
        ours = zero[:, only_here].all(axis=1)
        if ours.all():
            continue  # then none is of the other field
        theirs = ~zero[:, only_here].any(axis=1) & zero[:, (certain_nulls(other)[: len(table)])].all(axis=1)
        shares = ours.mean(), theirs.mean()
        if min(shares) >= FEWEST_OF_A_KIND and sum(shares) >= 1 - FEWEST_OF_A_KIND:
            return [_mixed(series, table, name, ours, theirs)], series.only(ours)
    return [], series


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


def check_duplicates(series: Series) -> tuple[list[Finding], Series]:
    """Tell frames that repeat one of the last few, value by value; noise alone keeps real frames apart.

    Returns:
        What was found, and the series without the copies.
    """
    if len(series) < FEWEST_FRAMES:
        return [], series
    copies = _copies(series)
    share = float(copies.mean())
    if share < DUPLICATE_SHARE or copies.sum() < 2:
        return [], series
    message = f"{int(copies.sum())} of {len(series)} frames repeat one of the {DUPLICATE_REACH} before them exactly"
    remedy = "find what sends frames twice: windows of copies hold less time than they say"
    finding = Finding(DUPLICATE_FRAMES, Severity.FAULT, message, remedy, {"duplicate_share": share}, series.node_id)
    return [finding], series.only(~copies)


def _copies(series: Series) -> BoolArray:
    amplitude = series.amplitude
    copies = np.zeros(len(series), dtype=np.bool_)
    varies = amplitude.max(axis=0) != amplitude.min(axis=0)
    if not varies.any():
        return copies
    window = np.cumsum(~series.follows)
    live = amplitude[:, varies]
    for back in range(1, min(DUPLICATE_REACH, len(series) - 1) + 1):
        same = (live[back:] == live[:-back]).all(axis=1) & (window[back:] == window[:-back])
        copies[back:] |= same
    return copies


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


def check_rate(series: Series, declared: Declared) -> list[Finding]:
    """Compare the rate of frames with the manifest's."""
    if series.time_s is None or not declared.rate_hz or len(series) < FEWEST_FRAMES:
        return []
    steps = np.diff(series.time_s)
    steps = steps[np.isfinite(steps)]
    if len(steps) < FEWEST_FRAMES - 1 or (middle := float(np.median(steps))) <= 0:
        return []
    rate_hz = 1 / middle
    if abs(rate_hz / declared.rate_hz - 1) <= declared.tolerance:
        return []
    message = (
        f"frames come at {rate_hz:.3g} Hz; the model was trained at {declared.rate_hz:.3g} Hz "
        f"(± {declared.tolerance:.0%})"
    )
    remedy = f"send at {declared.rate_hz:.3g} Hz, or resample: a window covers another span of time than in training"
    figures = {"rate_hz": rate_hz, "declared_rate_hz": declared.rate_hz}
    return [Finding(RATE_MISMATCH, Severity.WARNING, message, remedy, figures, series.node_id)]
