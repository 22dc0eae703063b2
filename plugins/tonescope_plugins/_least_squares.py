"""Least squares over batches of samples, and how far the batches disagree: the delete-one-batch jackknife."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constraint:
    """What is known of the unknowns of some windows: they are ``offset`` plus any combination of ``basis``.

    Attributes:
        windows: which windows, ``(n,)``.
        basis: ``(unknowns, free)``.
        offset: ``(unknowns, n)``.
    """

    windows: npt.NDArray[np.int64]
    basis: Float64Array
    offset: Float64Array


class BatchedLeastSquares:
    """Normal equations, summed batch by batch: the same matrix for all windows, and a right side for each.

    Constraints are eliminated: the free unknowns are solved for, and nothing is weighted.

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

    def solution(self, constraints: Iterable[Constraint]) -> Float64Array:
        """Return the unknowns over all batches, ``(windows, unknowns)``; every window has one constraint."""
        matrix, sides = self.totals()
        found: Float64Array = _solved(matrix[None], sides[None], constraints)[0]
        return found

    def without_each(self, constraints: Iterable[Constraint]) -> Float64Array:
        """Return the unknowns without each batch in turn, ``(batches, windows, unknowns)``."""
        matrix, sides, count = self._sums()
        counts = np.array([n for _, _, n in self._of_batches])
        whole = float(count) if self._share is None else self._share
        scale = (whole / (count - counts))[:, None, None]
        matrices = self._matrix + scale * (matrix - np.stack([m for m, _, _ in self._of_batches]))
        right = self._sides + scale * (sides - np.stack([s for _, s, _ in self._of_batches]))
        return _solved(matrices, right, constraints)

    def _sums(self) -> tuple[Float64Array, Float64Array, int]:
        matrices, sides, counts = zip(*self._of_batches, strict=True)
        return np.sum(matrices, axis=0), np.sum(sides, axis=0), sum(counts)


def _solved(matrices: Float64Array, sides: Float64Array, constraints: Iterable[Constraint]) -> Float64Array:
    """Solve several systems: ``(n, unknowns, unknowns)``, ``(n, unknowns, windows)`` → ``(n, windows, unknowns)``."""
    found = np.empty(sides.shape)
    for each in constraints:
        left = each.basis.T @ matrices @ each.basis
        right = each.basis.T @ (sides[:, :, each.windows] - matrices @ each.offset)
        found[:, :, each.windows] = each.offset + each.basis @ np.linalg.solve(left, right)
    turned: Float64Array = found.transpose(0, 2, 1)
    return turned


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
