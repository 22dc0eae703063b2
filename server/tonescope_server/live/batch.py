"""Explains several windows in one run, so that a bad one costs the others nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tonescope_server.engine.attribution import Attribution
from tonescope_server.errors import DeadlineError, PluginTimeoutError, TonescopeError
from tonescope_server.live.messages import Answer, Job
from tonescope_server.live.previous import together

MAX_BATCH = 32
# A plan cheaper than this per window runs on the event loop: a thread would cost more than it saves.
INLINE_BELOW_S = 1e-3
# … and keeps the loop from other streams no longer than about this.
INLINE_BATCH_S = 4e-3

Check = Callable[[], None]
# A run's result, the row of the first of one's own windows in it, and seconds for each window.
_Part = tuple[Attribution, int, float]
_Outcomes = dict[int, tuple[Attribution | TonescopeError, int, float]]


class Plan(Protocol):
    """What explains a batch: the engine's prepared request."""

    @property
    def seconds_per_window(self) -> float:
        """A measured estimate."""
        ...

    def run(self, x: npt.NDArray[Any], check: Check = ..., previous: npt.NDArray[Any] | None = ...) -> Attribution:
        """Explain a batch; ``check`` is called now and then, and may raise; ``previous`` has the window before each."""
        ...


class Patience:
    """What a computation asks now and then: whether anybody still waits for it."""

    def __init__(self, remaining_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = None if remaining_s is None else clock() + remaining_s
        self._gone = False

    def give_up(self) -> None:
        """Say that nobody waits any longer."""
        self._gone = True

    def check(self) -> None:
        """Go on, or not.

        Raises:
            DeadlineError: the caller went away, or its deadline passed.
        """
        if self._gone:
            raise DeadlineError("the caller went away before the work was done")
        if self._until is not None and self._clock() >= self._until:
            raise DeadlineError("the caller's deadline passed before the work was done")


def inline_windows(plan: Plan) -> int:
    """Return how many windows of a plan may run on the event loop at once."""
    fitting = int(INLINE_BATCH_S / max(plan.seconds_per_window, 1e-6))
    return min(MAX_BATCH, max(fitting, 1))


class Sharing:
    """Runs one cheap plan for several streams: what they ask for in one turn of the event loop goes into one run.

    Around a small graph, calling it costs as much as running it; with many streams of single windows that is paid once
    for all of them. Answers do not depend on what else is in a run. A stream that is alone is not made to wait.

    Args:
        plan: what explains a batch.

    Attributes:
        streams: how many use it now.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting: list[tuple[npt.NDArray[Any], asyncio.Future[_Part]]] = []
        self.streams = 0

    async def run(self, x: npt.NDArray[Any]) -> _Part:
        """Return the result of a run that has these windows in it, the row of the first, and seconds for each.

        Raises:
            TonescopeError: what is wrong with these windows; those of other streams are answered all the same.
        """
        if self.streams < 2:
            return _timed(self._plan, x)
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._run_all)
        future: asyncio.Future[_Part] = loop.create_future()
        self._waiting.append((x, future))
        return await future

    def _run_all(self) -> None:
        most, waiting, self._waiting = inline_windows(self._plan), self._waiting, []
        while waiting:
            count, windows = 1, len(waiting[0][0])
            while count < len(waiting) and windows + len(waiting[count][0]) <= most:
                windows += len(waiting[count][0])
                count += 1
            self._run_some(waiting[:count])
            del waiting[:count]

    def _run_some(self, together: list[tuple[npt.NDArray[Any], asyncio.Future[_Part]]]) -> None:
        try:
            result, _, each = _timed(self._plan, np.concatenate([x for x, _ in together]))
        except TonescopeError as error:
            if len(together) == 1:
                _settle(together[0][1], error)
                return
            for one in together:
                self._run_some([one])
            return
        except Exception as error:  # noqa: BLE001  it belongs to those who wait, not to the event loop
            for _, future in together:
                _settle(future, error)
            return
        first = 0
        for x, future in together:
            _settle(future, (result, first, each))
            first += len(x)


def _timed(plan: Plan, x: npt.NDArray[Any]) -> _Part:
    begun = time.perf_counter()
    result = plan.run(x)
    return result, 0, (time.perf_counter() - begun) / len(x)


def _settle(future: asyncio.Future[_Part], outcome: _Part | Exception) -> None:
    """Hand an outcome over; to nobody, where the one who waited is gone."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class Runner:
    """Runs one plan: cheap ones on the event loop, dear ones on the executor.

    Args:
        plan: what explains a batch.
        executor: where dear plans run.
        patience: whether anybody waits.
        bounded: whether the plan costs what was measured, whatever the windows hold: a graph does. What may take
            longer than it was seen to, such as a plugin's own loop, never runs on the event loop.
        sharing: what runs the plan for several streams; None to run it alone.
        uses_previous: whether the plan is given the window before each, as jobs have it; it is not shared then.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        patience: Patience,
        *,
        bounded: bool = True,
        sharing: Sharing | None = None,
        uses_previous: bool = False,
    ) -> None:
        self._plan = plan
        self._executor = executor
        self._check = patience.check
        self._sharing = None if uses_previous else sharing
        self.uses_previous = uses_previous
        self.inline = bounded and plan.seconds_per_window < INLINE_BELOW_S
        self.most = inline_windows(plan) if self.inline else MAX_BATCH

    async def explain(self, jobs: Sequence[Job]) -> list[Answer]:
        """Answer every job, in order: good ones from one run, bad ones with their own error.

        Raises:
            DeadlineError: nobody waits any longer.
        """
        started = time.perf_counter()
        good = [job for job in jobs if not isinstance(job.cells, TonescopeError)]
        outcomes = await self._outcomes(good) if good else {}
        return [_answer(job, outcomes, started) for job in jobs]

    async def _outcomes(self, jobs: Sequence[Job]) -> _Outcomes:
        """Run the jobs together; where that fails, each alone."""
        begun = time.perf_counter()
        try:
            attribution, first, each = await self._run(jobs)
        except DeadlineError:
            raise
        except TonescopeError as error:
            if isinstance(error, PluginTimeoutError):  # each alone would take as long again
                return dict.fromkeys((job.index for job in jobs), (error, 0, time.perf_counter() - begun))
            if len(jobs) == 1:
                return {jobs[0].index: (error, 0, time.perf_counter() - begun)}
            alone = [await self._outcomes([job]) for job in jobs]
            return {index: outcome for one in alone for index, outcome in one.items()}
        return {job.index: (attribution, first + row, each) for row, job in enumerate(jobs)}

    async def _run(self, jobs: Sequence[Job]) -> _Part:
        cells: list[Any] = [job.cells for job in jobs]
        x = cells[0] if len(cells) == 1 else np.concatenate(cells)
        if self.inline and self._sharing is not None:
            self._check()
            return await self._sharing.run(x)
        begun = time.perf_counter()
        given = (x, self._check, together(jobs)) if self.uses_previous else (x, self._check)
        if self.inline:
            result = self._plan.run(*given)
        else:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._executor, self._plan.run, *given)
        return result, 0, (time.perf_counter() - begun) / len(x)


def _answer(job: Job, outcomes: _Outcomes, started: float) -> Answer:
    if isinstance(job.cells, TonescopeError):
        return Answer(job, job.cells, 0, started - job.arrived)
    outcome, row, compute_s = outcomes[job.index]
    return Answer(job, outcome, row, started - job.arrived, compute_s)


async def explain_all(jobs: Sequence[Job], runner: Runner) -> list[Answer]:
    """Answer every job of one request, a bounded batch at a time, letting other calls in between."""
    answers: list[Answer] = []
    for start in range(0, len(jobs), runner.most):
        answers += await runner.explain(jobs[start : start + runner.most])
        await asyncio.sleep(0)
    return answers
