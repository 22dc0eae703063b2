"""Explanations that get better with time, and when they are good enough: tolerance, budget and time limit.

How an estimate gets better is the method's affair, and the engine's to ask for (``Prepared.progress``). Here it is
judged, and ended.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from time import monotonic

import numpy as np

from tonescope_server.engine.access import Check, never
from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.prepared import Prepared
from tonescope_server.errors import ParameterError, PluginError
from tonescope_server.types import FloatArray

CONFIDENCE = 0.95


class Reason(StrEnum):
    """Why the work on a window ended."""

    CONVERGED = "converged"
    BUDGET = "budget"
    TIME_LIMIT = "time_limit"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True)
class Stop:
    """When to stop; zero stands for no such condition. The first estimate is always worked out.

    Attributes:
        tolerance: where the relative error is at most this.
        budget: before more model evaluations than this, per window.
        time_limit_s: this long after the work began.

    Raises:
        ParameterError: a condition that is negative, or no number.
    """

    tolerance: float = 0.0
    budget: int = 0
    time_limit_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what can be no condition."""
        for name in ("tolerance", "budget", "time_limit_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{name}: expected a finite number of at least 0, got {value}")

    def is_late(self, began: float) -> bool:
        """Say whether the time limit has passed for work that began then, on the monotonic clock."""
        return self.time_limit_s > 0 and monotonic() - began >= self.time_limit_s

    def after(self, update: Update, is_last: bool, began: float) -> Reason | None:
        """Say why not to go on from here; None means that there is no reason."""
        error = update.relative_error
        if self.tolerance and error is not None and error <= self.tolerance:
            return Reason.CONVERGED
        if is_last:
            return Reason.EXHAUSTED
        if self.budget and update.attribution.evaluations >= self.budget:
            return Reason.BUDGET
        return Reason.TIME_LIMIT if self.is_late(began) else None


@dataclass(frozen=True)
class Update:
    """One window's explanation as it stands.

    Attributes:
        attribution: of a batch of one.
        number: of this update among those of its window, from 0.
        half_width: half the width of each tone's 95 % interval, ``(n_tones,)``; None where there is no standard error.
        relative_error: what the tolerance is compared with, see ``relative_error``; None where it is not known.
        reason: why the work ended with this update; None where it goes on.
        window: the window's place among those of its request.
    """

    attribution: Attribution
    number: int
    half_width: FloatArray | None
    relative_error: float | None
    reason: Reason | None = None
    window: int = 0


class _Enough(BaseException):
    """Ends the work inside a method: no error, and so nothing that a method's own ``except Exception`` may swallow."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def refine(
    prepared: Prepared,
    x: FloatArray,
    stop: Stop,
    check: Check = never,
    *,
    row: int = 0,
    batch: int = 1,
    began: float | None = None,
) -> Iterator[Update]:
    """Explain one window, and yield what is found as it gets better; the last update has a reason.

    Where nothing tells beforehand that an estimate is the last, it is yielded a second time, with the reason.

    Args:
        prepared: the request.
        x: (1, *input shape), as ``engine.windows.checked`` returns it.
        stop: when to stop.
        check: called between chunks of evaluations; what it raises ends the work without an answer.
        row: the window's place among those of the request.
        batch: how many windows the request has.
        began: when the time limit began, on the monotonic clock; None means now.

    Raises:
        MethodNotApplicableError, PluginError: as ``Prepared.run``.
    """
    since = monotonic() if began is None else began
    last: Update | None = None
    reason = Reason.EXHAUSTED
    spent = 0

    def spend(evaluations: int) -> None:
        nonlocal spent
        check()
        if last is not None and stop.budget and spent + evaluations > stop.budget:
            raise _Enough(Reason.BUDGET)
        if last is not None and stop.is_late(since):
            raise _Enough(Reason.TIME_LIMIT)
        spent += evaluations

    try:
        for number, (found, is_last) in enumerate(prepared.progress(x, spend, row=row, batch=batch)):
            last = update_of(found, prepared.method.complete, number, row)
            ended = stop.after(last, is_last, since)
            if ended is not None:
                yield replace(last, reason=ended)
                return
            yield last
    except _Enough as enough:
        reason = enough.reason
    if last is None:
        raise PluginError(f"method '{prepared.method.name}' gave no estimate")
    yield replace(last, reason=reason)


def in_turns(prepared: Prepared, x: FloatArray, stop: Stop, check: Check = never) -> Iterator[Update]:
    """Explain windows, ``(batch, *input shape)``: each takes a step in its turn, until every one has ended."""
    began, batch = monotonic(), len(x)
    waiting = deque(
        refine(prepared, x[row : row + 1], stop, check, row=row, batch=batch, began=began) for row in range(batch)
    )
    while waiting:
        window = waiting.popleft()
        update = next(window)
        yield update
        if update.reason is None:
            waiting.append(window)


def update_of(found: Attribution, complete: bool, number: int = 0, window: int = 0) -> Update:
    """Judge an estimate; ``complete`` says that it is to sum to ``f(x) − f(baseline)``."""
    return Update(found, number, half_width(found), relative_error(found, complete), window=window)


def half_width(found: Attribution) -> FloatArray | None:
    """Return half the width of each tone's 95 % interval, ``(n_tones,)``; None where no interval is known.

    It is the standard error times the quantile of Student's t with ``batches`` − 1 degrees of freedom; of the normal
    distribution where the method does not say how many batches.
    """
    if found.standard_error is None or (found.batches is not None and found.batches < 2):
        return None
    width: FloatArray = (_quantile(found.batches) * found.standard_error[0]).astype(np.float32)
    return width if np.isfinite(width).all() else None


def relative_error(found: Attribution, complete: bool) -> float | None:
    """Return how far an estimate may be off, as a fraction; None where the method does not let it be known.

    For a sampled method it is the largest half width of all tones, relative to the largest |tone|. For another whose
    cells are to sum to ``f(x) − f(baseline)``, along a path say, it is |convergence delta| relative to that difference.
    That a sampled method sums to it says nothing of its error: it may do so by construction.
    """
    if found.batches is not None or found.standard_error is not None:
        width = half_width(found)
        return None if width is None else _fraction(float(width.max()), float(np.abs(found.tones[0]).max()))
    if not complete or found.convergence_delta is None or found.cells is None:
        return None
    delta = float(found.convergence_delta[0])
    return _fraction(abs(delta), abs(float(found.cells[0].sum(dtype=np.float64)) - delta))


def _fraction(error: float, of: float) -> float:
    if error == 0.0:
        return 0.0
    return error / of if of else math.inf


def _quantile(batches: int | None) -> float:
    from scipy.special import ndtri, stdtrit  # takes its time to import, and most explanations have no interval

    upper = (1 + CONFIDENCE) / 2
    return float(ndtri(upper) if batches is None else stdtrit(batches - 1, upper))
