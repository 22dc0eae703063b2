"""Runs one live stream: reads eagerly into the queue, explains what waits, writes the answers.

Two activities: a reader task that does nothing but fill the queue, and the caller's own task, which computes
and is the only writer. What a message means is in ``intake``; its form on the wire is the caller's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.vetting import OVERFLOW
from tonescope_server.errors import TonescopeError
from tonescope_server.live.batch import Runner
from tonescope_server.live.buffer import WindowBuffer
from tonescope_server.live.checker import StreamChecker
from tonescope_server.live.intake import Intake
from tonescope_server.live.messages import Answer, Draining, Job, Notice, Summary, Warned
from tonescope_server.live.previous import PreviousWindows
from tonescope_server.live.progressive import ProgressiveTotals
from tonescope_server.live.running import RunningMean

# How long the reader may get ahead of a sender that does not wait for its answers.
GATHER_S = 300e-6
# How many answers go by, at most, before that is tried again.
MAX_VAIN = 256

Receive = Callable[[], Awaitable[list[Job] | None]]
Send = Callable[[Sequence[Answer] | Notice], Awaitable[None]]


@dataclass
class Drain:
    """The daemon's word to its streams that it is going away."""

    grace_s: float = 10.0
    begun: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Totals:
    """Counts over all streams since the start, for metrics: plain numbers, next to free to add to."""

    streams: int = 0
    open_streams: int = 0
    explained: int = 0
    failed: int = 0
    dropped: int = 0
    compute_s: float = 0.0
    queue_s: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)
    progressive: ProgressiveTotals = field(default_factory=ProgressiveTotals)


@dataclass(frozen=True)
class Checking:
    """The checks of one stream, and where they run: beside the event loop, as they keep it for milliseconds."""

    checker: StreamChecker
    executor: Executor


class Session:
    """One open stream.

    Args:
        intake: makes windows of what comes.
        buffer: where they wait.
        runner: explains them.
        totals: counts over all streams.
        checking: the stream's checks; None where there are none.
    """

    def __init__(
        self,
        intake: Intake,
        buffer: WindowBuffer,
        runner: Runner,
        totals: Totals,
        checking: Checking | None = None,
    ) -> None:
        self._intake = intake
        self._buffer = buffer
        self._runner = runner
        self._totals = totals
        self._checking = checking
        self._samples = checking.checker.samples if checking is not None else None
        self._looking: asyncio.Task[None] | None = None
        self._running: dict[int, RunningMean] = {}
        self._previous = PreviousWindows() if runner.uses_previous else None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._notices: list[Notice] = []
        self._explained = self._failed = 0
        self._not_now, self._vain = 0, 1

    async def run(self, receive: Receive, send: Send, drain: Drain) -> None:
        """Answer the stream until its client ends it, or the daemon drains; then send the summary.

        Args:
            receive: waits for a message and returns the windows that it completed; None at the end.
            send: writes one message.
            drain: the daemon's word that it is going away.

        Raises:
            TonescopeError: the client broke the protocol, or its deadline passed.
        """
        reader = asyncio.create_task(self._read(receive))
        drainer = asyncio.create_task(self._wait_for(drain, reader))
        reader.add_done_callback(lambda _: self._news.set())
        try:
            await self._answer(reader, send)
            await self._look_last(send)
            if not reader.cancelled() and (error := reader.exception()):
                raise error
            await send(self.summary())
        finally:
            reader.cancel()
            drainer.cancel()
            if self._looking is not None:
                self._looking.cancel()
            self._totals.dropped += self._buffer.dropped

    def summary(self) -> Summary:
        """Return the counts of the stream so far."""
        summary = self._intake.summary()
        summary.explained = self._explained
        summary.failed = self._failed
        summary.dropped = self._buffer.dropped
        if self._checking is not None:
            summary.findings = dict(self._checking.checker.findings.counts)
        return summary

    async def _read(self, receive: Receive) -> None:
        """Fill the queue. Under back-pressure, wait for room between messages."""
        buffer = self._buffer
        while (jobs := await receive()) is not None:
            for job in jobs:
                buffer.push(job)
            if jobs or self._intake.notices:
                self._news.set()
            if self._checking is not None and self._checking.checker.due:
                self._begin_look(self._checking)
            while buffer.must_wait:
                self._room.clear()
                await self._room.wait()

    async def _wait_for(self, drain: Drain, reader: asyncio.Task[None]) -> None:
        await drain.begun.wait()
        self._notices.append(Draining(drain.grace_s))
        reader.cancel()
        self._news.set()

    async def _answer(self, reader: asyncio.Task[None], send: Send) -> None:
        """Explain what waits until nothing more can come."""
        while True:
            if self._news.is_set() and self._runner.inline:
                await self._gather()
            self._news.clear()
            jobs = self._buffer.take(self._runner.most, time.perf_counter())
            self._room.set()
            await self._say_notices(send)
            if jobs:
                if self._previous is not None:
                    self._previous.give_to(jobs)
                answers = await self._runner.explain(jobs)
                self._account_for(answers)
                await send(answers)
            elif reader.done() and not len(self._buffer):
                # The reader may have had something to say while the last notices were being sent.
                await self._say_notices(send)
                return
            else:
                await self._news.wait()
                self._news.clear()

    async def _gather(self) -> None:
        """Let the reader get ahead of the computing, which keeps it from the loop.

        A sender that does not wait for its answers is served twice as fast by few large answers as by many small
        ones. One that does wait sends nothing meanwhile: after each time in vain, this is tried half as often.
        """
        if self._not_now:
            self._not_now -= 1
            return
        waiting, until = len(self._buffer), time.perf_counter() + GATHER_S
        while len(self._buffer) < self._runner.most and time.perf_counter() < until:
            await asyncio.sleep(0)
        in_vain = len(self._buffer) == waiting
        self._vain = min(2 * self._vain, MAX_VAIN) if in_vain else 1
        self._not_now = self._vain if in_vain else 0

    async def _say_notices(self, send: Send) -> None:
        self._notices += self._intake.notices
        self._intake.notices.clear()
        self._notices += self._buffer.notices()
        while self._notices:
            await send(self._notices.pop(0))

    def _begin_look(self, checking: Checking) -> None:
        """Have the checks look at what came, one look at a time, while the stream goes on."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(checking))

    async def _look(self, checking: Checking) -> None:
        checker, loop = checking.checker, asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(checking.executor, checker.begin())
        except Exception as error:  # noqa: BLE001  a check that fails must not take the stream down with it
            self._checking = self._samples = None
            text = f"the stream's checks failed and are off for the rest of it: {type(error).__name__}: {error}"
            self._notices.append(Warned("CHECKS_FAILED", " ".join(text.split())))
            self._news.set()
            return
        before = checker.findings.counts.copy()
        self._notices += checker.findings.take(found, time.monotonic())
        self._totals.findings += checker.findings.counts - before
        if self._notices:
            self._news.set()

    async def _look_last(self, send: Send) -> None:
        """Look at what came since the last look: a short stream gets its findings, too."""
        if self._checking is None:
            return
        if self._looking is not None:
            await self._looking
        if self._checking is not None and self._checking.checker.has_news:
            await self._look(self._checking)
        await self._say_notices(send)

    def _account_for(self, answers: list[Answer]) -> None:
        """Add the running statistics, and count."""
        answers[0].dropped_before = self._buffer.dropped_since_answer()
        totals = self._totals
        for answer in answers:
            totals.queue_s += answer.queue_s
            totals.compute_s += answer.compute_s
            if isinstance(answer.outcome, TonescopeError):
                self._failed += 1
                totals.failed += 1
            else:
                self._explained += 1
                totals.explained += 1
                if self._samples is not None:
                    self._samples.answer(answer.outcome, answer.row, answer.job.node_id)
                self._count_faults(answer, answer.outcome)
                self._add_running(answer, answer.outcome)

    def _count_faults(self, answer: Answer, result: Attribution) -> None:
        """Count the faults that an answer carries among the findings: nothing else says them of the whole stream."""
        if self._checking is None:
            return
        for warning in result.warnings:
            if warning.is_fault and warning.window in (None, answer.row):
                new = self._checking.checker.findings.count(warning.code, answer.job.node_id, time.monotonic())
                self._totals.findings[warning.code] += new

    def _add_running(self, answer: Answer, result: Attribution) -> None:
        if any(warning.code == OVERFLOW and warning.window == answer.row for warning in result.warnings):
            return  # one of these would make the mean of all that follow one, too
        tones, node = result.tones[answer.row], answer.job.node_id
        running = self._running.get(node)
        if running is None:
            running = self._running[node] = RunningMean(len(tones))
        answer.running = running.add(tones)
