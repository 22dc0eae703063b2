"""The zero signature: which cells never carry signal, and under which reading of the cells that makes sense.

A *reading* says which tone each flat cell is. The declared one is tried first; where the zeros contradict it, the
others are tried from the most plausible on, and those that fit are named. Nothing is ever guessed: where several fit,
all are named; where none fits, that is said.

The nulls of a tone layout are exactly zero in a raw window, and constant in a normalised one; a tone that carries
signal is neither, in a handful of frames already. Of a layout without nulls, rows that stand still contradict it, and
the order of cells is judged by what neighbours have in common (``continuity``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tonescope_server.checks.continuity import Continuity, continuity
from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Series
from tonescope_server.csi.cells import CELL_ORDERS, FEATURE, FRAME_TONE, TONE_FRAME, CellMap
from tonescope_server.csi.tones import ToneTable, certain_nulls, layouts_of_length, tone_table
from tonescope_server.csi.windows import StreamKey
from tonescope_server.types import BoolArray, FloatArray, IntArray

LAYOUT_MISMATCH = "LAYOUT_MISMATCH"
FRAME_MAJOR = "FRAME_MAJOR"
TONE_MAJOR = "TONE_MAJOR"
TONES_ROLLED = "TONES_ROLLED"
HEADER_AS_TONES = "HEADER_AS_TONES"
TRANSPOSED = "TRANSPOSED"
CONSTANT_ROWS = "CONSTANT_ROWS"

MOST_ROLLED = 4  # rows
# Pseudo-tones, two bytes each: twelve left of an ADR-018 header of which eight were read, or eight of twelve, or all
# twenty; then any other part of it.
HEADER_ROWS = (6, 4, 10, 9, 8, 7, 5, 3, 2, 1)
FEWEST_WINDOWS = 8  # cells: below that, a live int8 tone may well stay the same by chance
FEWEST_FRAMES = 16
MOST_DEAD = 1 / 8  # of the live rows: more that are constant is another layout, not a dead tone or two


@dataclass(frozen=True)
class Reading:
    """One way to read the flat cells of a window.

    Attributes:
        cell_order: as in the manifest.
        layout: id of the tone layout.
        n_tones: rows of a frame.
        n_frames: frames of a window.
        rolled: by how many rows the tones are rolled, circularly: row r holds tone r − rolled.
        header_rows: rows at the start of each frame that hold header bytes; the tones follow, and the last are lost.
    """

    cell_order: str
    layout: str
    n_tones: int
    n_frames: int
    rolled: int = 0
    header_rows: int = 0

    @cached_property
    def table(self) -> ToneTable:
        """The tone table of the layout."""
        return tone_table(self.layout, self.n_tones)

    @cached_property
    def tone_of_row(self) -> IntArray:
        """The tone of each row of a frame, int64 ``[n_tones]``; −1 for header bytes."""
        rows = np.arange(self.n_tones)
        if self.header_rows:
            return np.maximum(rows - self.header_rows, -1)
        return (rows - self.rolled) % self.n_tones

    def frames(self, cells: npt.NDArray[np.float32]) -> FloatArray:
        """Unfold flat cells: ``[n, n_cells]`` → ``[n, n_frames, n_tones]``, rows as they lie."""
        if self.cell_order == FRAME_TONE:
            return cells.reshape(len(cells), self.n_frames, self.n_tones)
        return cells.reshape(len(cells), self.n_tones, self.n_frames).transpose(0, 2, 1)

    def series(self, cells: npt.NDArray[np.float32], key: StreamKey = (0, "", 0, 0)) -> Series:
        """Lay windows end to end, columns that are no tone left out."""
        frames = self.frames(cells)
        follows = np.tile(np.arange(self.n_frames) > 0, len(cells))
        whole = Series(frames.reshape(-1, self.n_tones), np.arange(self.n_tones), follows, key)
        return self.corrected(whole)

    def corrected(self, series: Series) -> Series:
        """Give a series of raw rows the tones that this reading says they are."""
        tones = self.tone_of_row
        known = tones >= 0
        return replace(series, amplitude=series.amplitude[:, known], rows=tones[known])

    @cached_property
    def null_cells(self) -> BoolArray:
        """The flat cells whose tone carries no signal, bool ``[n_cells]``."""
        return _expected(self)[0]

    def differs(self, other: Reading) -> list[str]:
        """Say in words how this reading differs from another."""
        words = []
        if self.cell_order != other.cell_order:
            words.append(f'input.cell_order = "{self.cell_order}"')
        if self.layout != other.layout:
            words.append(f'tones.layout = "{self.layout}"')
        if self.rolled:
            words.append(f"tones rolled by {self.rolled:+d} rows")
        if self.header_rows:
            words.append(f"{self.header_rows} rows of header bytes before the tones")
        return words


def declared_reading(cells: CellMap) -> Reading:
    """Return the reading that a model declares."""
    return Reading(cells.cell_order, cells.table.id, cells.n_tones, cells.n_frames)


@dataclass(frozen=True)
class Signature:
    """Which cells never carried signal.

    Shapes:
        dead: bool ``[n_cells]``: zero throughout; or, where nothing is zero throughout, constant throughout.
        stuck: bool ``[n_cells]``: constant throughout at another value, where dead cells are zero.
    """

    dead: BoolArray
    stuck: BoolArray

    @classmethod
    def of(cls, cells: npt.NDArray[np.float32]) -> Signature:
        """Measure it: ``[n, n_cells]``."""
        constant = cells.max(axis=0) == cells.min(axis=0)
        zero = constant & (cells[0] == 0)
        return cls(zero, constant & ~zero) if zero.any() else cls(constant, np.zeros_like(constant))

    def fits(self, reading: Reading) -> bool:
        """Say whether a reading explains every dead cell, and every null that is certain is dead."""
        if not reading.table.knows_nulls:
            return False
        null, certain, header = _expected(reading)
        wrong = (self.dead & ~null) | (certain & ~(self.dead | self.stuck)) | (self.stuck & ~null)
        if (wrong & ~header).any():
            return False
        # Some of a header never changes (what node it is, its frequency, its flags); rows that all do hold tones.
        return not header.any() or bool((header & (self.dead | self.stuck)).any())

    def misfit(self, reading: Reading) -> tuple[int, int]:
        """Count the cells that contradict a reading: nulls that carry signal, and tones that carry none."""
        null, certain, header = _expected(reading)
        still = self.dead | self.stuck
        return int((certain & ~still).sum()), int((still & ~null & ~header).sum())


def check_cells(cells: npt.NDArray[np.float32], declared: CellMap) -> tuple[list[Finding], Reading]:
    """Compare the zero signature of windows with the declared layout.

    Shapes:
        cells: ``[n_windows, *shape]``, raw or normalised.

    Returns:
        What was found, and the reading to go on with: the one that fits, else the declared one.
    """
    found, shaped = _check_shape(cells, declared)
    reading = declared_reading(declared)
    if found:
        # Read along the other axis the buffer is frame-major: its zeros say the same thing again.
        return found, replace(reading, cell_order=_other(reading.cell_order))
    if len(cells) < FEWEST_WINDOWS:
        return [], reading
    signature = Signature.of(shaped)
    if not declared.table.knows_nulls:
        return _judge_without_nulls(signature, reading, shaped)
    return _judge(signature, reading, orders_of(reading))


def check_frames(series: Series, declared: CellMap) -> tuple[list[Finding], Series]:
    """Compare the zero signature of one stream's frames with the declared tone layout.

    Returns:
        What was found, and the series with its rows named by the reading that fits.
    """
    table, n_rows = declared.table, series.amplitude.shape[1]
    if len(series) < FEWEST_FRAMES or n_rows < len(table):
        return [], series
    reading = Reading(FRAME_TONE, table.id, len(table), 1)
    if not table.knows_nulls:
        found, _ = _judge_without_nulls(Signature.of(series.amplitude[:, : len(table)]), reading)
        return [replace(finding, node_id=series.node_id) for finding in found], series
    if has_header(series, declared):
        extra = n_rows - len(table)
        return [_header(extra, n_rows, series.node_id)], replace(
            series, amplitude=series.amplitude[:, extra:], rows=np.arange(len(table))
        )
    cut = replace(series, amplitude=series.amplitude[:, : len(table)], rows=series.rows[: len(table)])
    found, fitting = _judge(Signature.of(cut.amplitude), reading, (FRAME_TONE,))
    named = [replace(finding, node_id=series.node_id) for finding in found]
    return named, fitting.corrected(cut)


def has_header(series: Series, declared: CellMap) -> bool:
    """Say whether frames are as much longer than the declared layout as header bytes would make them, and fit then."""
    table, n_rows = declared.table, series.amplitude.shape[1]
    if len(series) < FEWEST_FRAMES or not table.knows_nulls or n_rows - len(table) not in HEADER_ROWS:
        return False
    reading = Reading(FRAME_TONE, table.id, len(table), 1)
    if Signature.of(series.amplitude[:, : len(table)]).fits(reading):
        return False
    return Signature.of(series.amplitude[:, n_rows - len(table) :]).fits(reading)


def _expected(reading: Reading) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Return which flat cells are null, certainly so, and header bytes, under a reading."""
    tones = reading.tone_of_row
    is_header = tones < 0
    null = reading.table.null_mask[tones] & ~is_header
    certain = certain_nulls(reading.table)[tones] & ~is_header

    def flat(rows: BoolArray) -> BoolArray:
        if reading.cell_order == FRAME_TONE:
            return np.tile(rows, reading.n_frames)
        return np.repeat(rows, reading.n_frames)

    return flat(null), flat(certain), flat(is_header)


def _check_shape(cells: npt.NDArray[np.float32], declared: CellMap) -> tuple[list[Finding], npt.NDArray[np.float32]]:
    """Tell arrays whose axes are the other way round; return the cells flat, in the order they lie in."""
    shape, flat = cells.shape[1:], cells.reshape(len(cells), declared.n_cells)  # there may be none
    squeezed = tuple(size for size in shape if size != 1)
    wanted = tuple(size for size in declared.shape if size != 1)
    if squeezed == wanted or len(squeezed) < 2 or squeezed != wanted[::-1]:
        return [], flat
    message = f"windows come as {shape} where the model takes {declared.shape}: the axes are the other way round"
    remedy = "swap the axes of the windows (numpy: x.swapaxes(-1, -2)); reshaping would scramble frames and tones"
    return [Finding(TRANSPOSED, Severity.FAULT, message, remedy)], flat


def _other(cell_order: str) -> str:
    return FRAME_TONE if cell_order == TONE_FRAME else TONE_FRAME


def orders_of(reading: Reading) -> tuple[str, ...]:
    """List the orders of cells that there can be, that of the reading first."""
    if reading.n_frames == 1:
        return (reading.cell_order,)
    return (reading.cell_order, *(o for o in CELL_ORDERS if o not in (reading.cell_order, FEATURE)))


def tiers(declared: Reading, orders: tuple[str, ...]) -> Iterator[list[Reading]]:
    """Yield readings to try, those of one tier equally plausible, from the most plausible on."""
    layouts = [table.id for table in layouts_of_length(declared.n_tones) if certain_nulls(table).any()]
    others = [layout for layout in layouts if layout != declared.layout]
    rolls = [roll for size in range(1, MOST_ROLLED + 1) for roll in (size, -size)]
    for order in orders[1:]:
        yield [replace(declared, cell_order=order)]
    for order in orders:
        yield [replace(declared, cell_order=order, layout=layout) for layout in others]
    for order in orders:
        yield from ([replace(declared, cell_order=order, rolled=roll)] for roll in rolls)
    for order in orders:
        yield from ([replace(declared, cell_order=order, header_rows=rows)] for rows in HEADER_ROWS)


def _judge(signature: Signature, declared: Reading, orders: tuple[str, ...]) -> tuple[list[Finding], Reading]:
    if signature.fits(declared):
        return [], declared
    for tier in tiers(declared, orders):
        fitting = [reading for reading in tier if signature.fits(reading)]
        if fitting:
            return [_mismatch(signature, declared, fitting)], fitting[0]
    still = _few_dead_rows(signature, declared) or _too_still(signature, declared)
    if still is not None:
        return [still], declared
    return [_unexplained(signature, declared)], declared


def _judge_without_nulls(
    signature: Signature, declared: Reading, cells: npt.NDArray[np.float32] | None = None
) -> tuple[list[Finding], Reading]:
    """Judge a layout of which every row carries signal: rows that stand still contradict it; else neighbours tell."""
    still = signature.dead | signature.stuck
    if declared.table.is_unknown and still.any():
        return [], declared  # they may be its nulls
    if _whole_rows(still, declared):
        return _judge(signature, declared, orders_of(declared))
    seen = None if cells is None else continuity(cells, declared.n_tones, declared.n_frames)
    if seen is None or seen.order in (None, declared.cell_order):
        return [], declared
    reading = replace(declared, cell_order=seen.order)
    return [_by_continuity(seen, reading)], reading


def _by_continuity(seen: Continuity, reading: Reading) -> Finding:
    frames_first = reading.cell_order == FRAME_TONE
    period, other = (reading.n_tones, reading.n_frames) if frames_first else (reading.n_frames, reading.n_tones)
    message = (
        f'"{reading.layout}" has no null tone, but neighbours tell: cells step {seen.breaks[reading.cell_order]:.2g} x '
        f"as far each {period} cells and {seen.breaks[_other(reading.cell_order)]:.2g} x each {other} (squares; cells "
        f"{reading.n_tones} apart differ {seen.leap:.2g} x as much as those {reading.n_frames} apart): the windows are "
    )
    message += "frame-major, so the declared rows are pieces of frames and not tones" if frames_first else "tone-major"
    figures = {f"step_at_ends_{order}": ratio for order, ratio in seen.breaks.items()} | {"leap": seen.leap}
    remedy = f'input.cell_order = "{reading.cell_order}"'
    return Finding(FRAME_MAJOR if frames_first else TONE_MAJOR, Severity.FAULT, message, remedy, figures)


def _mismatch(signature: Signature, declared: Reading, fitting: list[Reading]) -> Finding:
    best = fitting[0]
    seen = _seen(signature, declared)
    if best.header_rows:
        return _header(best.header_rows, declared.n_tones, None)
    if best.rolled:
        remedy = f"roll the rows back by {-best.rolled:+d} where frames are read"
        message = f"{seen}: they fit when the tones are rolled by {best.rolled:+d} rows"
        return Finding(TONES_ROLLED, Severity.FAULT, message, remedy, {"rolled_rows": float(best.rolled)})
    if best.cell_order != declared.cell_order:
        return _other_order(seen, declared, fitting)
    names = " or ".join(f'"{reading.layout}"' for reading in fitting)
    message = f'{seen}: they are the nulls of {names}, not of the declared "{declared.layout}"'
    remedy = f'tones.layout = {names}, or the rows in the order of "{declared.layout}": tonescope doctor tries both'
    return Finding(LAYOUT_MISMATCH, Severity.FAULT, message, remedy)


def _other_order(seen: str, declared: Reading, fitting: list[Reading]) -> Finding:
    best = fitting[0]
    period = declared.n_tones if best.cell_order == FRAME_TONE else declared.n_frames
    major = "frame-major" if best.cell_order == FRAME_TONE else "tone-major"
    message = (
        f"{seen}, and repeat every {period} cells: the windows are {major}, so the declared rows are pieces of "
        "frames and not tones"
        if best.cell_order == FRAME_TONE
        else f"{seen}, and come in runs of {period} cells: the windows are {major}"
    )
    code = FRAME_MAJOR if best.cell_order == FRAME_TONE else TONE_MAJOR
    remedy = " and ".join(best.differs(declared))
    return Finding(code, Severity.FAULT, message, remedy)


def _header(rows: int, n_rows: int, node_id: int | None) -> Finding:
    message = f"the first {rows} of {n_rows} rows are header bytes, not tones: the zeros fit once they are left out"
    remedy = f"skip {2 * rows} more bytes of each packet before its I/Q pairs"
    return Finding(HEADER_AS_TONES, Severity.FAULT, message, remedy, {"header_rows": float(rows)}, node_id)


def _few_dead_rows(signature: Signature, declared: Reading) -> Finding | None:
    """Tell a tone or two that stand still from a layout that is wrong."""
    null, certain, _ = _expected(declared)
    still = signature.dead | signature.stuck
    if (certain & ~still).any():
        return None
    rows = _whole_rows(still & ~null, declared)
    if not rows or len(rows) > MOST_DEAD * declared.n_tones or (still & ~null).sum() != len(rows) * declared.n_frames:
        return None
    listed = ", ".join(map(str, rows))
    message = (
        f"row {listed} never changes although its tone carries signal"
        if len(rows) == 1
        else (f"rows {listed} never change although their tones carry signal")
    )
    remedy = "look at what reads the frames: a tone of a real channel is never constant"
    return Finding(CONSTANT_ROWS, Severity.FAULT, message, remedy, {"constant_rows": float(len(rows))})


def _too_still(signature: Signature, declared: Reading) -> Finding | None:
    """Tell many tones that stand still from a layout that is wrong: the zeros are the declared ones, and no others."""
    null, certain, _ = _expected(declared)
    still = signature.stuck & ~null
    if not still.any() or (signature.dead & ~null).any() or (certain & ~signature.dead).any():
        return None
    live = int((~null).sum())
    rows, n_rows = len(_whole_rows(still, declared)), live // declared.n_frames
    seen = f"{rows} of {n_rows} rows" if rows else f"{int(still.sum())} of {live} cells"
    message = (
        f'{seen} that carry signal never change; the zeros are those of the declared "{declared.layout}", so it is no '
        "other layout: the channel is stiller than the amplitudes' step, or the frames are filled up"
    )
    remedy = "record amplitudes in finer steps (I/Q values, or decimals), or see what fills these rows"
    figures = {"constant_rows": float(rows), "constant_share": float(still.sum()) / live}
    return Finding(CONSTANT_ROWS, Severity.FAULT, message, remedy, figures)


def _unexplained(signature: Signature, declared: Reading) -> Finding:
    message = f'{_seen(signature, declared)}: neither the declared "{declared.layout}" nor any known layout fits'
    remedy = "see what fills these rows, and which layout the radio sends; until then no row is known to be its tone"
    return Finding(LAYOUT_MISMATCH, Severity.FAULT, message, remedy)


def _seen(signature: Signature, declared: Reading) -> str:
    null, certain, _ = _expected(declared)
    alive, dead = signature.misfit(declared)
    live = int((~null).sum())
    if not certain.any():
        return f"{dead} of the {live} cells that should carry signal carry none"
    nulls = f"{alive} of the {int(certain.sum())} cells that should be null carry signal"
    return f"{nulls}, and {dead} of the {live} others carry none"


def _whole_rows(cells: BoolArray, reading: Reading) -> list[int]:
    frames = reading.frames(cells[None].astype(np.float32))[0]
    return np.flatnonzero((frames > 0).all(axis=0)).tolist()
