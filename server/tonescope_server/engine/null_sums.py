"""How much of an attribution lies on tones that carry no signal."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Var
from tonescope_server.models.model import Model
from tonescope_server.types import BoolArray, FloatArray

RESULT = "null:share"


@dataclass(frozen=True, eq=False)
class NullSums:
    """Matrices of two columns: a row of magnitudes times one of them is their sum on null tones, and their sum.

    Attributes:
        cells: ``(cells, 2)``.
        tones: ``(tones, 2)``.
        grid: the cells of a window as three axes, the middle one of which are the tones.
    """

    cells: FloatArray
    tones: FloatArray
    grid: tuple[int, int, int]

    @classmethod
    def of(cls, model: Model) -> NullSums:
        """Make those of a model."""
        cells = model.cells
        return cls(_columns(cells.null_cells), _columns(model.table.null_mask), cells.grid)

    @property
    def key(self) -> bytes:
        """What tells graphs that ``describe`` was asked to add to apart."""
        return self.tones.tobytes()

    def describe(self, tape: Tape) -> None:
        """Add the share to a finished description, as a result of the graph: a third of its price in NumPy.

        Nothing is added to results of another shape than they should have: those are refused once they are there.
        """
        magnitudes = self._magnitudes(tape)
        if magnitudes is None:
            return
        context = tape.context
        on_null = context.op("MatMul", magnitudes, context.constant(self.tones[:, 0], np.dtype(np.float32)))
        total = context.op("ReduceSum", magnitudes, context.ints([1]), keepdims=0)
        tape.result(RESULT, Var(tape, context.op("Div", on_null, total), ()))

    def _magnitudes(self, tape: Tape) -> ir.Value | None:
        """Return Σ|attribution| of each tone, ``(batch, tones)``, float32 whatever the model computes with."""
        context, cells, tones = tape.context, tape.results.get("cells"), tape.results.get("tones")
        if cells is not None and min(cells.shape, default=0) > 0 and prod(cells.shape) == prod(self.grid):
            grid = context.op("Cast", cells.value, to=ir.DataType.FLOAT.value)
            # Axes of one are left out: the plain orders need no reshape, and one axis to sum over.
            sizes = [self.grid[0], self.grid[1], self.grid[2]]
            kept = [axis for axis, size in enumerate(sizes) if axis == 1 or size > 1]
            wanted = tuple(sizes[axis] for axis in kept)
            if cells.shape != wanted:
                grid = context.op("Reshape", grid, context.ints([-1, *wanted]))
            others = [1 + place for place, axis in enumerate(kept) if axis != 1]
            return context.op("ReduceL1", grid, context.ints(others), keepdims=0) if others else context.op("Abs", grid)
        if cells is None and tones is not None and tones.shape == (len(self.tones),):
            return context.op("Abs", context.op("Cast", tones.value, to=ir.DataType.FLOAT.value))
        return None

    def share(self, cells: FloatArray | None, tones: FloatArray) -> FloatArray:
        """Return the part of Σ|attribution| on null tones, per window; by cell where there are cells.

        NaN where there is no attribution to have a part of.
        """
        sums = np.abs(tones) @ self.tones if cells is None else np.abs(cells.reshape(len(cells), -1)) @ self.cells
        # In plain numbers: for the few windows of a batch that is cheaper than three calls of NumPy.
        return np.array([on_null / total if total > 0 else np.nan for on_null, total in sums.tolist()], np.float32)


def _columns(null: BoolArray) -> FloatArray:
    return np.stack([null, np.ones_like(null)], axis=1).astype(np.float32)
