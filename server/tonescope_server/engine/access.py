"""How a method asks a model, a bounded number of evaluations at a time. What it makes of the answers is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tonescope_server.engine.plan import Plan
from tonescope_server.engine.targets import Resolved
from tonescope_server.plugin.watch import in_host
from tonescope_server.types import FloatArray, IntArray

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer

Check = Callable[[], None]
"""Called between chunks of evaluations; raises to stop: a deadline passed, a caller gone."""
Spend = Callable[[int], None]
"""Called as ``Check`` is, with how many evaluations per window are about to be spent; raises to stop before them."""

# Model evaluations in one run of ONNX Runtime. Per window a batch buys at most 1.5 ×, and memory grows with it.
EVALUATIONS_PER_RUN = 256


def never() -> None:
    """Check nothing: no deadline, no cancellation."""


def free(evaluations: int) -> None:
    """Spend whatever it takes."""


class Access:
    """The target's value and gradient at any points, for a procedural method."""

    def __init__(self, explainer: Explainer, resolved: Resolved, rows: slice, batch: int, spend: Spend) -> None:
        self._explainer = explainer
        self._resolved = resolved
        self._batch: int = rows.stop - rows.start
        self._weights = resolved.feeds(rows, batch)
        self._plan = explainer.scoring(resolved)
        self._most = 1 if explainer.model.wants_windows_alone else EVALUATIONS_PER_RUN
        self._spend = spend
        self._evaluations = 0

    @property
    def spent(self) -> int:
        """Model evaluations so far, per window."""
        return -(-self._evaluations // self._batch)

    def score(self, points: FloatArray, window: IntArray) -> FloatArray:
        """Return the target's value at points, ``(n,)``."""
        with in_host():
            return self._run(self._plan, "score", points, window)

    def gradient(self, points: FloatArray, window: IntArray) -> FloatArray:
        """Return the gradient of the target at points, ``(n, *input shape)``."""
        with in_host():
            return self._run(self._explainer.differentiated(self._resolved), "gradient", points, window)

    def _run(self, plan: Plan, result: str, points: FloatArray, window: IntArray) -> FloatArray:
        name, dtype = self._explainer.model.input.name, np.dtype(self._explainer.model.input.dtype)
        found = []
        for rows in chunks(len(points), self._most):
            self._spend(0 if rows.start else -(-len(points) // self._batch))  # all of them are asked for at once
            feeds = {key: weights[window[rows]] for key, weights in self._weights.items()}
            feeds[name] = np.ascontiguousarray(points[rows], dtype)
            found.append(plan.session.run(feeds)[result])
        self._evaluations += len(points)
        return np.concatenate(found)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Cut a number of rows into slices of at most ``size``."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
