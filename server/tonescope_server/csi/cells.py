"""The map from the flat cells of a model's input to (frame, tone), and the fold of cell values into tones.

A model's declared shape does not say in which order its flat buffer holds frames and tones; the manifest's
``cell_order`` does. A cell may also be one component of a complex value (amplitude and phase, or I and Q), and belong
to one of several antenna links. What a tone is belongs to ``tones``; what a frame's components are to ``quantities``.
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
"""The orders of plain windows. Those with components or links name these axes, too: ``link_component_tone_frame``."""
TONE, FRAME, COMPONENT, LINK = "tone", "frame", "component", "link"


@dataclass(frozen=True, eq=False)
class CellMap:
    """How the flat cells of one input window map to frames and tones. Build it with ``cell_map``.

    Attributes:
        shape: the input's shape without its batch axis.
        cell_order: the axes of the flat cells, slowest first: ``"tone_frame"`` (all frames of tone 0 first),
            ``"frame_tone"`` (all tones of frame 0 first), or with ``component`` and ``link`` among them; or
            ``"feature"`` (no frame axis: every cell is a row of its own).
        table: the tone table that ``tone_of_cell`` points into.
        n_tones: rows of the table.
        n_frames: frames in a window.
        tone_of_cell: int64 ``[n_cells]``: the tone row of each flat cell.
        frame_of_cell: int64 ``[n_cells]``: the frame of each flat cell.
        declared_axis: the axis of ``shape`` that the model calls its tones; None where no axis has that
            length. Where ``cell_order`` contradicts it, the declared row of a cell is not its tone: see
            ``declared_row_of_cell``.
        links: names of the antenna links in a window; empty where it has one.
        components: what the cells of one tone in one frame are, such as ``("real", "imaginary")``; empty where there
            is one.
        link_of_cell: int64 ``[n_cells]``: the link of each flat cell.
        component_of_cell: int64 ``[n_cells]``: the component of each flat cell.
    """

    shape: tuple[int, ...]
    cell_order: str
    table: ToneTable
    n_tones: int
    n_frames: int
    tone_of_cell: IntArray
    frame_of_cell: IntArray
    declared_axis: int | None
    links: tuple[str, ...]
    components: tuple[str, ...]
    link_of_cell: IntArray
    component_of_cell: IntArray

    @property
    def n_links(self) -> int:
        """Count the links of one window."""
        return max(len(self.links), 1)

    @property
    def n_components(self) -> int:
        """Count the components of one value."""
        return max(len(self.components), 1)

    @property
    def n_columns(self) -> int:
        """Count the values of one frame: links × components × tones, in that order."""
        return self.n_links * self.n_components * self.n_tones

    @property
    def n_cells(self) -> int:
        """Count the cells of one window."""
        return self.n_columns * self.n_frames

    @property
    def has_parts(self) -> bool:
        """Say whether a tone has several cells in one frame: components, or links."""
        return bool(self.links or self.components)

    @property
    def is_tone_major(self) -> bool:
        """Say whether the fold is a plain sum over the last axis of ``[batch, n_tones, …]``."""
        return self.cell_order == FEATURE or self.cell_order.startswith(TONE)

    @cached_property
    def key(self) -> tuple[str, int, int, int, int]:
        """What tells maps of one input apart, as far as the fold into tones goes."""
        return self.cell_order, self.n_tones, self.n_frames, self.n_links, self.n_components

    @cached_property
    def null_cells(self) -> BoolArray:
        """Mark the cells whose tone carries no signal: bool ``[n_cells]``, read-only."""
        mask = self.table.null_mask[self.tone_of_cell]
        mask.setflags(write=False)
        return mask

    @cached_property
    def declared_row_of_cell(self) -> IntArray | None:
        """Give each flat cell's row in the declared shape: int64 ``[n_cells]``; None without a tone axis."""
        return None if self.declared_axis is None else _rows(self.shape, self.declared_axis)

    @property
    def rows_are_tones(self) -> bool:
        """Say whether row k of the declared tone axis is tone row k of the table."""
        rows = self.declared_row_of_cell
        return rows is not None and bool(np.array_equal(rows, self.tone_of_cell))

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """Give the flat cells as three axes, of which the middle one are the tones."""
        sizes = self._sizes
        at = self._axes.index(TONE)
        return math.prod(sizes[:at]), self.n_tones, math.prod(sizes[at + 1 :])

    def arrange(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Lay the frames of one window out as the model's input.

        Shapes:
            frames: ``[n_frames, n_columns]`` → ``shape``, contiguous.

        Raises:
            ShapeError: ``frames`` has another shape.
        """
        if frames.shape != (self.n_frames, self.n_columns):
            got = frames.shape
            raise ShapeError(f"window: expected (frames, tones) = {(self.n_frames, self.n_columns)}, got {got}")
        laid_out = frames.reshape(self._canonical).transpose([_CANONICAL.index(axis) for axis in self._axes])
        return np.ascontiguousarray(laid_out).reshape(self.shape)

    def frames(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Undo ``arrange`` for a batch: ``[batch, *shape]`` → ``[batch, n_frames, n_columns]``.

        Raises:
            ShapeError: ``cells`` has another shape.
        """
        return self._by_frame(cells).reshape(-1, self.n_frames, self.n_columns)

    def fold(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum signed cell values into the tones they belong to.

        Shapes:
            cells: ``[batch, *shape]`` → ``[batch, n_tones]``.

        Raises:
            ShapeError: ``cells`` has another shape.
        """
        self._check(cells)
        before, n_tones, after = self.grid
        if before == 1:
            return np.asarray(cells.reshape(-1, n_tones, after).sum(axis=2))
        if after == 1:
            return np.asarray(cells.reshape(-1, before, n_tones).sum(axis=1))
        return np.asarray(cells.reshape(-1, before, n_tones, after).sum(axis=(1, 3)))

    def fold_parts(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum signed cell values over frames only: what each link and component had of each tone's attribution.

        Shapes:
            cells: ``[batch, *shape]`` → ``[batch, n_links, n_components, n_tones]``.

        Raises:
            ShapeError: ``cells`` has another shape.
        """
        return np.asarray(self._by_frame(cells).sum(axis=1))

    def fold_frames(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum signed cell values over links and components: ``[batch, *shape]`` → ``[batch, n_frames, n_tones]``.

        Raises:
            ShapeError: ``cells`` has another shape.
        """
        return np.asarray(self._by_frame(cells).sum(axis=(2, 3)))

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

    @cached_property
    def _axes(self) -> tuple[str, ...]:
        """The axes of the flat cells, slowest first; those that a window does not have are of length 1."""
        named = (TONE, FRAME) if self.cell_order == FEATURE else tuple(self.cell_order.split("_"))
        return (*(axis for axis in (LINK, COMPONENT) if axis not in named), *named)

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        by_name = dict(zip(_CANONICAL, self._canonical, strict=True))
        return tuple(by_name[axis] for axis in self._axes)

    @property
    def _canonical(self) -> tuple[int, int, int, int]:
        return self.n_frames, self.n_links, self.n_components, self.n_tones

    def _by_frame(self, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """``[batch, *shape]`` → ``[batch, n_frames, n_links, n_components, n_tones]``."""
        self._check(cells)
        order = [1 + self._axes.index(axis) for axis in _CANONICAL]
        return cells.reshape(-1, *self._sizes).transpose(0, *order)

    def _check(self, cells: npt.NDArray[Any]) -> None:
        if cells.shape[1:] != self.shape:
            raise ShapeError(f"cells: expected (batch, {', '.join(map(str, self.shape))}), got {cells.shape}")


_CANONICAL = (FRAME, LINK, COMPONENT, TONE)


def cell_map(
    shape: tuple[int, ...],
    table: ToneTable,
    cell_order: str,
    n_frames: int,
    links: tuple[str, ...] = (),
    components: tuple[str, ...] = (),
) -> CellMap:
    """Build the map of one input: ``shape`` without its batch axis, all sizes known.

    Raises:
        ParameterError: an unknown cell order, or one that does not name the axes there are.
        ShapeError: the shape does not hold ``n_frames`` × the table's tones (× links × components).
    """
    check_order(cell_order, bool(links), bool(components))
    shape = tuple(int(size) for size in shape)
    n_tones = len(table)
    if cell_order == FEATURE:
        n_frames = 1
    sizes = {TONE: n_tones, FRAME: n_frames, LINK: max(len(links), 1), COMPONENT: max(len(components), 1)}
    n_cells = math.prod(sizes.values())
    if n_frames < 1 or any(size < 1 for size in shape) or math.prod(shape) != n_cells:
        parts = "".join(f" x {len(names)} {what}" for names, what in ((links, "links"), (components, "parts")) if names)
        raise ShapeError(
            f"input shape {shape}: expected {n_frames} frames x {n_tones} tones of {table.id!r}{parts} = "
            f"{n_cells} cells, got {math.prod(shape)}"
        )
    axes = (TONE, FRAME) if cell_order == FEATURE else tuple(cell_order.split("_"))
    place = dict(zip(axes, np.unravel_index(np.arange(n_cells), [sizes[axis] for axis in axes]), strict=True))
    of = {axis: np.asarray(place.get(axis, np.zeros(n_cells)), dtype=np.int64) for axis in sizes}
    for values in of.values():
        values.setflags(write=False)
    declared = _declared_axis(shape, n_tones, of[TONE])
    return CellMap(
        shape, cell_order, table, n_tones, n_frames, of[TONE], of[FRAME], declared, links, components, of[LINK],
        of[COMPONENT],
    )  # fmt: skip


def check_order(cell_order: str, has_links: bool = False, has_components: bool = False) -> None:
    """Make sure that a cell order names the axes of its cells, each once.

    Raises:
        ParameterError: it does not.
    """
    if not (has_links or has_components):
        if cell_order not in CELL_ORDERS:
            raise ParameterError(f"cell_order: expected one of {', '.join(CELL_ORDERS)}, got {cell_order!r}")
        return
    wanted = [*([LINK] if has_links else []), *([COMPONENT] if has_components else []), TONE, FRAME]
    if sorted(cell_order.split("_")) != sorted(wanted):
        raise ParameterError(
            f"cell_order: expected the axes {', '.join(wanted)} in the order of the cells, such as "
            f"{'_'.join(wanted)!r}, got {cell_order!r}"
        )


def _rows(shape: tuple[int, ...], axis: int) -> IntArray:
    rows: IntArray = np.indices(shape, dtype=np.int64)[axis].reshape(-1)
    return rows


def _declared_axis(shape: tuple[int, ...], n_tones: int, tone_of_cell: IntArray) -> int | None:
    """Find the axis a reader takes for the tones; of several as long, the one the order agrees with."""
    axes = [axis for axis, size in enumerate(shape) if size == n_tones]
    agreeing = (axis for axis in axes if len(axes) == 1 or np.array_equal(_rows(shape, axis), tone_of_cell))
    return next(agreeing, axes[0] if axes else None)
