"""All checks of data in turn, over a recording or over windows.

Each check sees the data with what the checks before it found put right, so that one fault is told once, as itself,
and not again as everything that follows from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tonescope_server.checks import copies, drift, frames, gain, layout, normalisation
from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.parts import check_parts
from tonescope_server.checks.series import Declared, Series
from tonescope_server.csi.cells import FEATURE
from tonescope_server.csi.windows import accepted_lengths
from tonescope_server.types import BoolArray

SKIPPED_LENGTHS = "SKIPPED_LENGTHS"
MOST_SKIPPED = 0.5  # of the frames: mixed lengths are usual, a majority that cannot be used is not


def check_recording(all_series: Sequence[Series], declared: Declared, lengths: Sequence[int] = ()) -> list[Finding]:
    """Check the frames of a recording.

    Args:
        all_series: see ``series_of``.
        declared: what the manifest says.
        lengths: frame lengths that windows take; empty means those of the tone layout.

    Returns:
        What was found, the same finding once for each node.
    """
    table = declared.cells.table
    taken = set(lengths or accepted_lengths(table))
    usable = [s for s in all_series if s.amplitude.shape[1] in taken]
    headed = [s for s in all_series if s.amplitude.shape[1] not in taken and layout.has_header(s, declared.cells)]
    found: list[Finding] = []
    for series in [*usable, *headed]:
        found += _check_series(series, declared)
    found += frames.check_nodes(usable or all_series, declared)
    explained = {id(s) for s in (*usable, *headed)}
    found += _check_lengths([s for s in all_series if id(s) not in explained], all_series, taken)
    return _once(found)


def check_windows(cells: npt.NDArray[np.float32], declared: Declared, *, normalised: bool = True) -> list[Finding]:
    """Check ready-made windows.

    Args:
        cells: ``[n_windows, *shape]``.
        declared: what the manifest says.
        normalised: whether the windows are said to be what the model takes; else they are raw amplitudes.
    """
    if declared.cells.cell_order == FEATURE and not declared.cells.table.knows_nulls:
        return []  # engineered features: equal or constant ones are nobody's fault
    if declared.cells.has_parts:
        return check_parts(cells, declared, lambda each, plain: check_windows(each, plain, normalised=normalised))
    wrong: list[Finding] = []
    if normalised:
        wrong, cells = normalisation.check_each_window(cells, declared)
    found, reading = layout.check_cells(cells[_fresh(cells, declared)], declared.cells)
    flat = cells.reshape(len(cells), -1)
    if normalised and declared.takes_z_scores and reading != layout.declared_reading(declared.cells):
        series = normalisation.put_right(flat, reading, declared)
    else:
        series = reading.series(flat)
    again, series = copies.check_copies(series)
    named = frames.check_rows(series, declared.cells.table.null_mask) if wrong else None
    found += wrong + again + (_check_named(series, declared, found, raw=not normalised) if named is None else named)
    return _once(found)


def _fresh(cells: npt.NDArray[np.float32], declared: Declared) -> BoolArray:
    """Mark the windows that hold something new: what stands still in the others says nothing of rows."""
    reading = layout.declared_reading(declared.cells)
    known = copies.Copies.of(reading.series(cells.reshape(len(cells), -1)))
    fresh: BoolArray = np.asarray(~known.any.reshape(len(cells), reading.n_frames).all(axis=1))
    return fresh


def _check_series(series: Series, declared: Declared) -> list[Finding]:
    table = declared.cells.table
    if series.amplitude.shape[1] in accepted_lengths(table):
        series = replace(series, amplitude=series.amplitude[:, : len(table)], rows=series.rows[: len(table)])
    found, once = copies.check_copies(series)
    found += frames.check_rate(series, declared, once)
    mixed, series = frames.check_fields(once, table)
    read, series = layout.check_frames(series, declared.cells)
    found += mixed + read
    if series.amplitude.shape[1] > len(table):
        return found
    return found + _check_named(series, declared, found, raw=True)


def _check_named(series: Series, declared: Declared, found: Sequence[Finding], *, raw: bool) -> list[Finding]:
    """Check frames whose rows are known to be tones, unless what was found says that they are not known."""
    if not len(series):
        return []
    if any(finding.code == layout.LAYOUT_MISMATCH for finding in found):
        # Whatever is known of declared rows says nothing of these; what all rows do at once can still be seen.
        return gain.check_gain(series, np.zeros(len(declared.cells.table), dtype=np.bool_))[0] if raw else []
    null = declared.cells.table.null_mask
    copied = frames.check_rows(series, null)
    if raw:
        steps, series = gain.check_gain(series, null)
        # At a gain that changes, no level is the training's: the steps are what is wrong, and not the statistics.
        wrong = steps or normalisation.check_frames(series, declared)
    else:
        wrong = normalisation.check_windows(series, declared)
    # What is wrong in itself is not what was trained either: drift would only say it again.
    return copied + (wrong or drift.check_input(series, declared, raw=raw))


def _check_lengths(unused: Sequence[Series], all_series: Sequence[Series], taken: Iterable[int]) -> list[Finding]:
    """Tell that most frames cannot be used."""
    total = sum(map(len, all_series))
    lost = sum(map(len, unused))
    if not total or lost <= MOST_SKIPPED * total:
        return []
    lengths = ", ".join(f"{n}" for n in sorted({s.amplitude.shape[1] for s in unused}))
    wanted = ", ".join(map(str, sorted(taken)))
    message = f"{lost} of {total} frames have {lengths} tones; windows take {wanted}"
    remedy = "state tones.layout (and window.frame_lengths) for the frames that the radio sends, or another model"
    return [Finding(SKIPPED_LENGTHS, Severity.WARNING, message, remedy, {"skipped_share": lost / total})]


def _once(found: Sequence[Finding]) -> list[Finding]:
    """Keep the first finding of each code and node."""
    first: dict[tuple[str, int | None], Finding] = {}
    for finding in found:
        first.setdefault((finding.code, finding.node_id), finding)
    return list(first.values())
