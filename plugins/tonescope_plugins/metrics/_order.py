"""In which order features are removed. Ties are broken at random, so that an even attribution is a random order."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from tonescope_server.plugin import Judged, Parameters
from tonescope_server.plugin.metric import Float64Array
from tonescope_server.types import BoolArray, IntArray

Rank = Literal["signed", "absolute"]


class StepParameters(Parameters):
    """Parameters of metrics that remove features step by step."""

    rank: Rank = Field(
        "signed",
        description="By what features are ranked: 'signed', the one that speaks most for the target first; or "
        "'absolute', the one that says most either way first.",
    )
    max_steps: int = Field(64, ge=1, le=4096, description="Steps at most: with more features, several go at a time.")


def descending(judged: Judged, rank: Rank) -> IntArray:
    """Order the features of each window, the most relevant first: ``(n, features)``."""
    values = np.abs(judged.attribution) if rank == "absolute" else judged.attribution
    ties = judged.generator("ties").permutation(judged.n_features)
    return np.stack([np.lexsort((ties, -row)) for row in values]).astype(np.int64)


def counts(n_features: int, max_steps: int) -> IntArray:
    """Return how many features are gone after each step, from none to all."""
    steps = min(n_features, max_steps)
    return np.unique(np.round(np.linspace(0, n_features, steps + 1)).astype(np.int64))


def first_gone(order: IntArray, gone: IntArray) -> BoolArray:
    """Mark the first features of an order, for each of some counts.

    Shapes:
        order ``(n, features)``, gone ``(k,)`` → ``(n, k, features)``.
    """
    place = np.argsort(order, axis=1)
    return np.asarray(place[:, None, :] < gone[None, :, None])


def area(values: Float64Array, at: Float64Array) -> Float64Array:
    """Return the area under curves by the trapezoid rule: ``(n, steps)`` → ``(n,)``."""
    return np.asarray(np.trapezoid(values, at, axis=1), np.float64)
