"""Windows whose explanations get better with time: worked on in turns, handed on no faster than they are taken.

What is computed and when it is good enough is the engine's. Here is who waits for what: the work runs on the executor
a short step at a time, so that other calls get their turn, and never waits for a client that reads slowly.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from tonescope_server.engine.prepared import Prepared
from tonescope_server.engine.progress import Stop, Update, refine
from tonescope_server.errors import DeadlineError, PluginTimeoutError, TonescopeError, UnavailableError
from tonescope_server.live.batch import Patience
from tonescope_server.live.messages import Job

# One step on the executor goes on for as long as this before another window, or another call, gets its turn.
STEP_S = 5e-3


@dataclass
class ProgressiveTotals:
    """Counts over all such calls since the start, for metrics.

    Attributes:
        calls: how many there were; ``open_calls`` how many there are now.
        updates: estimates that were found; ``sent`` those that were sent.
        evaluations: of models.
        ended: windows, by why the work on them ended; "failed" where it failed.
    """

    calls: int = 0
    open_calls: int = 0
    updates: int = 0
    sent: int = 0
    evaluations: int = 0
    compute_s: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Standing:
    """How one window stands: its newest update, or the error that it met.

    Attributes:
        queue_s: from its arrival to the start of the work on it.
        compute_s: spent on it so far.
    """

    job: Job
    outcome: Update | TonescopeError
    queue_s: float = 0.0
    compute_s: float = 0.0

    @property
    def ended(self) -> str:
        """Why the work on it ended; empty where it goes on."""
        if isinstance(self.outcome, TonescopeError):
            return "failed"
        return self.outcome.reason or ""


class Newest:
    """What has been found and not been taken yet: of each window the newest alone."""

    def __init__(self) -> None:
        self._standings: dict[int, Standing] = {}
        self._changed = asyncio.Event()
        self._last = asyncio.Event()
        self._closed = False

    def put(self, standing: Standing) -> None:
        """Keep the newest of a window, in place of what was there."""
        self._standings[standing.job.index] = standing
        self._changed.set()
        if standing.ended:
            self._last.set()

    def close(self) -> None:
        """Say that nothing more comes."""
        self._closed = True
        self._changed.set()
        self._last.set()

    async def take(self, interval_s: float, since: float) -> list[Standing]:
        """Wait for something, until ``interval_s`` after ``since``; what is a window's last does not wait.

        Returns:
            What there is; nothing once it is closed and empty.
        """
        await self._changed.wait()
        try:
            await asyncio.wait_for(self._last.wait(), since + interval_s - time.monotonic())
            due = self._closed
        except TimeoutError:
            due = True
        taken = [each for each in self._standings.values() if due or each.ended]
        for each in taken:
            del self._standings[each.job.index]
        if not self._closed:
            self._last.clear()
            if not self._standings:
                self._changed.clear()
        return taken


class _Window:
    """One window, and the work on it: what it has found and cost so far."""

    def __init__(self, job: Job, found: Iterator[Update]) -> None:
        self.job = job
        self.evaluations = 0
        self.updates = 0
        self.compute_s = 0.0
        self._found = found
        self._started: float | None = None

    def step(self, seconds: float) -> Standing:
        """Work for about so long, but until there is an update.

        Raises:
            DeadlineError: nobody waits any longer.
        """
        begun = time.perf_counter()
        self._started = self._started or begun
        outcome: Update | TonescopeError
        try:
            outcome = self._newest(begun + seconds)
        except DeadlineError:
            raise
        except TonescopeError as error:
            outcome = error
        self.compute_s += time.perf_counter() - begun
        return Standing(self.job, outcome, self._started - self.job.arrived, self.compute_s)

    def _newest(self, until: float) -> Update:
        while True:
            update = next(self._found)
            self.evaluations = update.attribution.evaluations
            self.updates = update.number + 1
            if update.reason is not None or time.perf_counter() >= until:
                return update


class Progressive:
    """The windows of one call.

    Args:
        prepared: what explains them.
        jobs: the windows.
        stop: when each of them is good enough, or has cost enough.
        interval_s: the smallest time between two updates of a window.
        computing: where the work runs.
        patience: whether anybody waits.
        totals: counts over all such calls.
        draining: whether the daemon is going away.
    """

    def __init__(
        self,
        prepared: Prepared,
        jobs: Sequence[Job],
        stop: Stop,
        interval_s: float,
        computing: Executor,
        patience: Patience,
        totals: ProgressiveTotals,
        draining: Callable[[], bool],
    ) -> None:
        self._prepared = prepared
        self._jobs = jobs
        self._stop = stop
        self._interval_s = interval_s
        self._computing = computing
        self._patience = patience
        self._totals = totals
        self._draining = draining
        self._newest = Newest()

    async def run(self, send: Callable[[Standing], Awaitable[None]]) -> None:
        """Work, and send what is found, until the work on every window has ended.

        Raises:
            DeadlineError: nobody waits any longer.
            UnavailableError: the daemon is going away; what was found until then has been sent.
        """
        work = asyncio.create_task(self._work())
        work.add_done_callback(self._work_ended)
        sent = -float("inf")
        try:
            while standings := await self._newest.take(self._interval_s, sent):
                sent = time.monotonic()
                for standing in standings:
                    await send(standing)
                    self._totals.sent += 1
            await work
        finally:
            self._patience.give_up()
            work.cancel()

    def _work_ended(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled():
            work.exception()  # looked at, or asyncio complains of it where nobody waits any longer
        self._newest.close()

    async def _work(self) -> None:
        """Let each window take a step in its turn, until all have ended."""
        waiting = self._begun()
        while waiting:
            if self._draining():
                raise UnavailableError("the daemon is draining: connect elsewhere, or later")
            window = waiting.popleft()
            standing = await self._step(window)
            self._note(standing)
            if not standing.ended:
                waiting.append(window)

    def _begun(self) -> deque[_Window]:
        """Return the windows to work on; those that cannot be explained have ended already."""
        began, batch = time.monotonic(), len(self._jobs)
        windows: deque[_Window] = deque()
        for row, job in enumerate(self._jobs):
            if isinstance(job.cells, TonescopeError):
                self._note(Standing(job, job.cells))
                continue
            check = self._patience.check
            found = refine(self._prepared, job.cells, self._stop, check, row=row, batch=batch, began=began)
            windows.append(_Window(job, found))
        return windows

    async def _step(self, window: _Window) -> Standing:
        """Let one window take a step on the executor, and count what that cost."""
        evaluations, updates, compute_s = window.evaluations, window.updates, window.compute_s
        seconds = min(STEP_S, self._interval_s) if updates else 0.0  # nobody waits for a first estimate to get better
        loop = asyncio.get_running_loop()
        try:
            standing = await loop.run_in_executor(self._computing, window.step, seconds)
        except PluginTimeoutError as error:  # the step is still under way, on a thread that was given up
            standing = Standing(window.job, error)
        self._totals.evaluations += window.evaluations - evaluations
        self._totals.updates += window.updates - updates
        self._totals.compute_s += window.compute_s - compute_s
        return standing

    def _note(self, standing: Standing) -> None:
        self._newest.put(standing)
        if standing.ended:
            self._totals.ended[standing.ended] += 1
