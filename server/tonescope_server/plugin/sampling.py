"""What methods that sample share: seeded draws that depend on nothing else, runs of bounded size, standard errors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_server.types import FloatArray

Seed = Annotated[int, Field(ge=0, lt=2**63, description="Of what is drawn at random: the same seed, the same answer.")]
"""The type of a parameter that is a seed."""

SAMPLES_PER_RUN = 32
"""Samples that one run holds: more buys nothing on a CPU, and deadlines and progress are between runs."""


def generator(seed: int, purpose: str, number: int) -> np.random.Generator:
    """Return the generator of one draw: counter-based, so that no draw depends on how many others there are.

    Args:
        seed: the request's.
        purpose: what is drawn; different purposes draw independently of each other.
        number: which of the draws.
    """
    return np.random.Generator(np.random.Philox(key=[seed, crc32(purpose.encode())], counter=[0, 0, 0, number]))


def even_runs(total: int, most: int = SAMPLES_PER_RUN) -> Iterator[slice]:
    """Cut a number of samples into as few runs as hold at most ``most`` each, of sizes that differ by one at most."""
    runs = -(-total // most)
    edges = [total * run // max(runs, 1) for run in range(runs + 1)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)


def standard_error(sums: npt.NDArray[Any], squares: npt.NDArray[Any], count: int) -> FloatArray | None:
    """Return the standard error of the mean of independent draws; None where there are fewer than two.

    Args:
        sums: the sum of the draws, or of their differences from any one number that is near them all, which keeps what
            is left of large squares.
        squares: the sum of the squares of the same.
        count: how many draws.
    """
    if count < 2:
        return None
    total = sums.astype(np.float64)
    spread = np.maximum(squares.astype(np.float64) - total**2 / count, 0.0) / (count - 1)
    result: FloatArray = np.sqrt(spread / count).astype(np.float32)
    return result
