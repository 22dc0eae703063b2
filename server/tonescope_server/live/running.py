"""Mean and standard error over a stream, one update a window (Welford, 1962)."""

from __future__ import annotations

import numpy as np

from tonescope_server.live.messages import Running
from tonescope_server.types import FloatArray


class RunningMean:
    """The running mean of a vector and its standard error, in double precision.

    Source: Welford, "Note on a method for calculating corrected sums of squares and products", 1962.
    """

    __slots__ = ("_count", "_mean", "_squares")

    def __init__(self, size: int) -> None:
        self._count = 0
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)

    def add(self, values: FloatArray) -> Running:
        """Take one more vector in and return where that leaves things; there is no error until there are two.

        Shapes:
            values: ``[size]``.
        """
        self._count += 1
        before = values - self._mean
        self._mean += before / self._count
        self._squares += before * (values - self._mean)
        # The variance of the mean: the sample variance over the count.
        divisor = (self._count - 1) * self._count
        error = np.sqrt(self._squares * (1.0 / divisor)).astype(np.float32) if divisor else None
        return Running(self._count, self._mean.astype(np.float32), error)
