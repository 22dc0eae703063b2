"""The map from the flat cells of a model's input to (frame, tone), and the fold of cell values into tones.

A model's declared shape does not say in which order its flat buffer holds frames and tones; the manifest's
``cell_order`` does. What a tone is belongs to ``tones``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.tones import ToneTable
from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.types import BoolArray, IntArray

TONE_FRAME = "tone_frame"
FRAME_TONE = "frame_tone"
FEATURE = "feature"
CELL_ORDERS = (TONE_FRAME, FRAME_TONE, FEATURE)


@dataclass(frozen=True, eq=False)
class CellMap:
    """How the flat cells of one input window map to frames and tones. Build it with ``cell_map``.

    Attributes:
        shape: the input's shape without its batch axis.
        cell_order: ``"tone_frame"`` (all frames of tone 0 first), ``"frame_tone"`` (all tones of frame 0
            first) or ``"feature"`` (no frame axis: every cell is a row of its own).
        table: the tone table that ``tone_of_cell`` points into.
        n_tones: rows of the table.
        n_frames: frames in a window.
        tone_of_cell: int64 ``[n_cells]``: the tone row of each flat cell.
        frame_of_cell: int64 ``[n_cells]``: the frame of each flat cell.
        declared_axis: the axis of ``shape`` that the model calls its tones; None where no axis has that
            length. Where ``cell_order`` contradicts it, the declared row of a cell is not its tone: see
            ``declared_row_of_cell``.
    """

    shape: tuple[int, ...]
    cell_order: str
    table: ToneTable
    n_tones: int
    n_frames: int
    tone_of_cell: IntArray
    frame_of_cell: IntArray
    declared_axis: int | None

    @property
    def n_cells(self) -> int:
        """Count the cells of one window."""
        return self.n_tones * self.n_frames

    @property
    def is_tone_major(self) -> bool:
        """Say whether the fold is a plain sum over the last axis of ``[batch, n_tones, n_frames]``."""
        return self.cell_order != FRAME_TONE

    @cached_property
    def null_cells(self) -> BoolArray:
        """Mark the cells whose tone carries no signal: bool ``[n_cells]``, read-only."""
        mask = self.table.null_mask[self.tone_of_cell]
        mask.setflags(write=False)
        return mask

    @cached_property
    def declared_row_of_cell(self) -> IntArray | None:
        """Give each flat cell's row in the declared shape: int64 ``[n_cells]``; None without a tone axis."""
        if self.declared_axis is None:
            return None
        rows: IntArray = np.indices(self.shape, dtype=np.int64)[self.declared_axis].reshape(-1)
        return rows

    @property
    def rows_are_tones(self) -> bool:
        """Say whether row k of the declared tone axis is tone row k of the table."""
        rows = self.declared_row_of_cell
        return rows is not None and bool(np.array_equal(rows, self.tone_of_cell))

    def arrange(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Lay the frames of one window out as the model's input.

        Shapes:
            frames: ``[n_frames, n_tones]`` → ``shape``, contiguous.

        Raises:
            ShapeError: ``frames`` has another shape.
        """
        if frames.shape != (self.n_frames, self.n_tones):
            raise ShapeError(f"window: expected (frames, tones) = {(self.n_frames, self.n_tones)}, got {frames.shape}")
        if self.is_tone_major:
            frames = frames.T
        return np.ascontiguousarray(frames).reshape(self.shape)

    def frames(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Undo ``arrange`` for a batch: ``[batch, *shape]`` → ``[batch, n_frames, n_tones]``.

        Raises:
            ShapeError: ``cells`` has another shape.
        """
        self._check(cells)
        if self.is_tone_major:
            return cells.reshape(-1, self.n_tones, self.n_frames).transpose(0, 2, 1)
        return cells.reshape(-1, self.n_frames, self.n_tones)

    def fold(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum signed cell values into the tones they belong to.

        Shapes:
            cells: ``[batch, *shape]`` → ``[batch, n_tones]``.

        Raises:
            ShapeError: ``cells`` has another shape.
        """
        self._check(cells)
        if self.is_tone_major:
            return np.asarray(cells.reshape(-1, self.n_tones, self.n_frames).sum(axis=2))
        return np.asarray(cells.reshape(-1, self.n_frames, self.n_tones).sum(axis=1))

    def fold_declared(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum signed cell values along the declared tone axis, whatever it really holds.

        Shapes:
            cells: ``[batch, *shape]`` → ``[batch, n_tones]``.

        Raises:
            ShapeError: ``cells`` has another shape, or the input has no axis as long as the tone table.
        """
        self._check(cells)
        if self.declared_axis is None:
            raise ShapeError(f"input shape {self.shape}: expected an axis of {self.n_tones} tones, got none")
        keep = self.declared_axis + 1
        return np.asarray(cells.sum(axis=tuple(axis for axis in range(1, cells.ndim) if axis != keep)))

    def _check(self, cells: npt.NDArray[Any]) -> None:
        if cells.shape[1:] != self.shape:
            raise ShapeError(f"cells: expected (batch, {', '.join(map(str, self.shape))}), got {cells.shape}")


def cell_map(shape: tuple[int, ...], table: ToneTable, cell_order: str, n_frames: int) -> CellMap:
    """Build the map of one input: ``shape`` without its batch axis, all sizes known.

    Raises:
        ParameterError: an unknown cell order.
        ShapeError: the shape does not hold ``n_frames`` × the table's tones.
    """
    if cell_order not in CELL_ORDERS:
        raise ParameterError(f"cell_order: expected one of {', '.join(CELL_ORDERS)}, got {cell_order!r}")
    shape = tuple(int(size) for size in shape)
    n_tones = len(table)
    if cell_order == FEATURE:
        n_frames = 1
    if n_frames < 1 or any(size < 1 for size in shape) or math.prod(shape) != n_frames * n_tones:
        raise ShapeError(
            f"input shape {shape}: expected {n_frames} frames x {n_tones} tones of {table.id!r} = "
            f"{n_frames * n_tones} cells, got {math.prod(shape)}"
        )
    flat = np.arange(math.prod(shape), dtype=np.int64)
    if cell_order == FRAME_TONE:
        frame, tone = np.divmod(flat, n_tones)
    else:
        tone, frame = np.divmod(flat, n_frames)
    tone.setflags(write=False)
    frame.setflags(write=False)
    return CellMap(shape, cell_order, table, n_tones, n_frames, tone, frame, _declared_axis(shape, n_tones, cell_order))


def _declared_axis(shape: tuple[int, ...], n_tones: int, cell_order: str) -> int | None:
    """Find the axis a reader takes for the tones; of several as long, the one the order agrees with."""
    axes = [axis for axis, size in enumerate(shape) if size == n_tones]
    if not axes:
        return None
    return axes[-1] if cell_order == FRAME_TONE else axes[0]
