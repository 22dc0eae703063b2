"""How much of an attribution lies on tones that carry no signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tonescope_server.models.model import Model
from tonescope_server.types import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class NullSums:
    """Matrices of two columns: a row of magnitudes times one of them is their sum on null tones, and their sum.

    Attributes:
        cells: ``(cells, 2)``.
        tones: ``(tones, 2)``.
    """

    cells: FloatArray
    tones: FloatArray

    @classmethod
    def of(cls, model: Model) -> NullSums:
        """Make those of a model."""
        return cls(_columns(model.cells.null_cells), _columns(model.table.null_mask))

    def share(self, cells: FloatArray | None, tones: FloatArray) -> FloatArray:
        """Return the part of Σ|attribution| on null tones, per window; by cell where there are cells.

        NaN where there is no attribution to have a part of.
        """
        sums = np.abs(tones) @ self.tones if cells is None else np.abs(cells.reshape(len(cells), -1)) @ self.cells
        # In plain numbers: for the few windows of a batch that is cheaper than three calls of NumPy.
        return np.array([on_null / total if total > 0 else np.nan for on_null, total in sums.tolist()], np.float32)


def _columns(null: BoolArray) -> FloatArray:
    return np.stack([null, np.ones_like(null)], axis=1).astype(np.float32)
