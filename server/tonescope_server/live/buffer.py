"""The bounded queue between reading a stream and explaining it. No I/O, no clock of its own."""

from __future__ import annotations

from collections import deque

from tonescope_server.live.messages import Dropped, Job, Overload

QUEUE_FULL = "queue_full"
LATENCY_BUDGET = "latency_budget"


class WindowBuffer:
    """Windows that wait, oldest first, and the count of those that could not.

    Args:
        capacity: the most windows that wait.
        overload: what to do with one more.
        latency_budget_s: the longest a window may wait; zero means for ever.
    """

    def __init__(self, capacity: int, overload: Overload, latency_budget_s: float = 0.0) -> None:
        self._capacity = capacity
        self._overload = overload
        self._budget_s = latency_budget_s
        self._jobs: deque[Job] = deque()
        self._since_answer = 0
        self._unsaid: dict[str, int] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def must_wait(self) -> bool:
        """Say whether the reader must wait for room: full, under back-pressure."""
        return self._overload is Overload.BACK_PRESSURE and len(self._jobs) >= self._capacity

    def push(self, job: Job) -> None:
        """Queue a window; where the queue is full, the oldest gives way.

        Under back-pressure nothing gives way: the reader asks ``must_wait`` between messages, so what is
        queued exceeds the capacity by one message's windows at most.
        """
        if len(self._jobs) >= self._capacity and self._overload is Overload.DROP_OLDEST:
            self._jobs.popleft()
            self._drop(QUEUE_FULL)
        self._jobs.append(job)

    def take(self, most: int, now: float) -> list[Job]:
        """Take up to ``most`` windows, oldest first, dropping those that waited beyond the latency budget."""
        jobs = self._jobs
        if self._budget_s:
            while jobs and now - jobs[0].arrived > self._budget_s:
                jobs.popleft()
                self._drop(LATENCY_BUDGET)
        return [jobs.popleft() for _ in range(min(most, len(jobs)))]

    def dropped_since_answer(self) -> int:
        """Return how many were dropped since this was last asked."""
        count, self._since_answer = self._since_answer, 0
        return count

    def notices(self) -> list[Dropped]:
        """Return, by cause, what was dropped and not yet said."""
        if not self._unsaid:
            return []
        said = [Dropped(count, self.dropped, cause) for cause, count in self._unsaid.items()]
        self._unsaid = {}
        return said

    def _drop(self, cause: str) -> None:
        self.dropped += 1
        self._since_answer += 1
        self._unsaid[cause] = self._unsaid.get(cause, 0) + 1
