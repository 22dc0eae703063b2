"""Least squares over batches of samples, and how far the batches disagree: the delete-one-batch jackknife."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


class BatchedLeastSquares:
    """Normal equations, summed batch by batch: the same matrix for all windows, and a right side for each.

    Args:
        matrix: what is there before any batch, ``(unknowns, unknowns)``: rows without chance, a penalty.
        sides: ``(unknowns, windows)``.
        share: the weight that all batches have together, however many there are; None means a weight of one a row.
    """

    def __init__(self, matrix: Float64Array, sides: Float64Array, share: float | None) -> None:
        self._matrix, self._sides, self._share = matrix, sides, share
        self._of_batches: list[tuple[Float64Array, Float64Array, int]] = []

    @property
    def batches(self) -> int:
        """How many batches there are so far."""
        return len(self._of_batches)

    def add(self, rows: Float64Array, values: Float64Array, weights: Float64Array | None = None) -> None:
        """Add a batch: ``rows`` is ``(n, unknowns)``, ``values`` ``(windows, n)``, ``weights`` ``(n,)``."""
        weighted = rows if weights is None else rows * weights[:, None]
        self._of_batches.append((weighted.T @ rows, weighted.T @ values.T, len(rows)))

    def totals(self) -> tuple[Float64Array, Float64Array]:
        """Return the matrix and the right sides over all batches."""
        if not self._of_batches:
            return self._matrix, self._sides
        matrix, sides, count = self._sums()
        scale = 1.0 if self._share is None else self._share / count
        return self._matrix + scale * matrix, self._sides + scale * sides

    def solution(self) -> Float64Array:
        """Return the unknowns over all batches, ``(windows, unknowns)``."""
        return np.asarray(np.linalg.solve(*self.totals()).T, np.float64)

    def without_each(self) -> Float64Array:
        """Return the unknowns without each batch in turn, ``(batches, windows, unknowns)``."""
        matrix, sides, count = self._sums()
        counts = np.array([n for _, _, n in self._of_batches])
        whole = float(count) if self._share is None else self._share
        scale = (whole / (count - counts))[:, None, None]
        matrices = self._matrix + scale * (matrix - np.stack([m for m, _, _ in self._of_batches]))
        right = self._sides + scale * (sides - np.stack([s for _, s, _ in self._of_batches]))
        return np.asarray(np.linalg.solve(matrices, right).transpose(0, 2, 1), np.float64)

    def _sums(self) -> tuple[Float64Array, Float64Array, int]:
        matrices, sides, counts = zip(*self._of_batches, strict=True)
        return np.sum(matrices, axis=0), np.sum(sides, axis=0), sum(counts)


def jackknife(without_each: Float64Array) -> Float64Array | None:
    """Return the standard error of an estimate from what it is without each batch, ``(batches, …)`` → ``(…)``.

    None where there are fewer than two batches. Its intervals are those of Student's t with ``batches − 1`` degrees of
    freedom.

    Source: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982), chapter 3.
    """
    batches = len(without_each)
    if batches < 2:
        return None
    found: Float64Array = np.sqrt((batches - 1) * without_each.var(axis=0))
    return found
