"""How a method asks a model, a bounded number of evaluations at a time. What it makes of the answers is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tonescope_server.engine.plan import Plan
from tonescope_server.engine.targets import Resolved
from tonescope_server.types import FloatArray, IntArray

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer

Check = Callable[[], None]
"""Called between chunks of evaluations; raises to stop: a deadline passed, a caller gone."""

# Model evaluations in one run of ONNX Runtime. Per window a batch buys at most 1.5 ×, and memory grows with it.
EVALUATIONS_PER_RUN = 256


def never() -> None:
    """Check nothing: no deadline, no cancellation."""


class Access:
    """The target's value and gradient at any points, for a procedural method."""

    def __init__(self, explainer: Explainer, resolved: Resolved, batch: int, check: Check) -> None:
        self._explainer = explainer
        self._resolved = resolved
        self._weights = resolved.feeds(slice(0, batch), batch)
        self._plan = explainer.scoring(resolved)
        self._check = check
        self._evaluations = 0

    @property
    def spent(self) -> int:
        """Model evaluations so far."""
        return self._evaluations

    def score(self, points: FloatArray, window: IntArray) -> FloatArray:
        """Return the target's value at points, ``(n,)``."""
        return self._run(self._plan, "score", points, window)

    def gradient(self, points: FloatArray, window: IntArray) -> FloatArray:
        """Return the gradient of the target at points, ``(n, *input shape)``."""
        return self._run(self._explainer.differentiated(self._resolved), "gradient", points, window)

    def _run(self, plan: Plan, result: str, points: FloatArray, window: IntArray) -> FloatArray:
        name, dtype = self._explainer.model.input.name, np.dtype(self._explainer.model.input.dtype)
        found = []
        for rows in chunks(len(points), EVALUATIONS_PER_RUN):
            self._check()
            feeds = {key: weights[window[rows]] for key, weights in self._weights.items()}
            feeds[name] = np.ascontiguousarray(points[rows], dtype)
            found.append(plan.session.run(feeds)[result])
        self._evaluations += len(points)
        return np.concatenate(found)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Cut a number of rows into slices of at most ``size``."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
