"""From frames to a daemon's live stream and back to explanations, whether or not the daemon is there.

One stream carries all nodes: the daemon keeps their windows apart, and its checks can only tell that a node is missing
where they see all of them. Nothing here ever waits with a frame in hand: there is a bounded buffer, and the oldest go.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import tonescope
from tonescope.aio_live import AsyncLiveStream
from tonescope.connection import OnConnection
from tonescope.results import Explanation, Notice, Summary

OpenStream = Callable[[OnConnection], Awaitable[AsyncLiveStream]]
Heard = Callable[[Explanation], object]
Said = Callable[[tonescope.ConnectionEvent | Notice], object]

RETRY = tonescope.Retry(give_up_after_s=float("inf"), unanswered=1 << 31, wait_for_daemon=True)
"""A gateway never gives up: the daemon may be away for a night, and nodes may send what no window is made of."""
_TRANSIENT = (tonescope.errors.UnavailableError, tonescope.errors.OverloadedError, tonescope.errors.DeadlineError)
_LOOK_S = 0.05


@dataclass(frozen=True)
class Forwarded:
    """What became of the frames.

    Attributes:
        sent: frames sent to the daemon; ``resent``: again, after a reconnection.
        dropped: frames that the full buffer gave up before they were sent.
        forgotten: frames sent, and not answered when the connection was lost, that the full buffer could not send
            again.
        explained: windows explained; ``failed``: windows answered with a problem.
        windows_dropped: windows that the daemon dropped unexplained.
        rejected: refusals of frames that the daemon reported.
        reconnects: connections opened again after one was lost.
    """

    sent: int = 0
    resent: int = 0
    dropped: int = 0
    forgotten: int = 0
    explained: int = 0
    failed: int = 0
    windows_dropped: int = 0
    rejected: int = 0
    reconnects: int = 0

    def __add__(self, other: Forwarded) -> Forwarded:
        mine, theirs = asdict(self), asdict(other)
        return Forwarded(**{name: mine[name] + theirs[name] for name in mine})


class Forwarder:
    """Sends frames to a daemon in one live stream, and opens another where the daemon ended it.

    Args:
        open_stream: opens a stream; it is given whom to tell of the connection.
        address: the daemon's, for what is said.
        capacity: the most frames that wait while there is no stream; a stream has a buffer of its own.
        heard: called with every explanation.
        said: called with what becomes of the connection, and with what the daemon says of the stream.

    Attributes:
        summary: the daemon's own counts of the last stream; None where it ended without.
    """

    def __init__(self, open_stream: OpenStream, address: str, capacity: int, heard: Heard, said: Said) -> None:
        self._open_stream = open_stream
        self._address = address
        self._heard, self._said = heard, said
        self._capacity = capacity
        self._waiting: deque[tonescope.Frame] = deque()
        self._more = asyncio.Event()
        self._closing = False
        self._stream: AsyncLiveStream | None = None
        self._before = Forwarded()
        self._away: tuple[float, int] | None = None
        self._reason = ""
        self._handed = 0
        self.summary: Summary | None = None

    @property
    def connected(self) -> bool:
        """Whether the daemon answers."""
        return self._away is None and self._stream is not None and self._stream.opened is not None

    @property
    def counts(self) -> Forwarded:
        """What became of the frames, in all streams together."""
        return self._before + (_counts(self._stream) if self._stream is not None else Forwarded())

    def give(self, frame: tonescope.Frame) -> None:
        """Take a frame; where the buffer is full the oldest goes."""
        if len(self._waiting) >= self._capacity:
            self._waiting.popleft()
            self._before += Forwarded(dropped=1)
        self._waiting.append(frame)
        self._more.set()

    def close(self) -> None:
        """Say that no more is given: ``run`` then returns, once all is answered."""
        self._closing = True
        self._more.set()

    def tell_notices(self) -> None:
        """Pass on what the daemon has said since this was last asked."""
        for notice in self._stream.notices() if self._stream is not None else ():
            self._said(notice)

    async def run(self) -> None:
        """Forward until closed.

        Raises:
            TonescopeError: the daemon refuses the stream, and had never opened one.
        """
        try:
            await self._run()
        finally:
            self._before += Forwarded(dropped=len(self._waiting))
            self._waiting.clear()

    async def _run(self) -> None:
        was_opened, attempt = False, 0
        while True:
            try:
                self._stream = await self._open_stream(self._note)
                await self._forward(self._stream)
                return
            except tonescope.TonescopeError as raised:
                error = raised
            finally:
                opened = self._retire()
            was_opened = was_opened or opened
            if not was_opened and not isinstance(error, _TRANSIENT):
                raise error
            attempt = 1 if opened else attempt + 1
            self._lost(error, attempt)
            await asyncio.sleep(RETRY.delay_s(attempt))

    async def _forward(self, stream: AsyncLiveStream) -> None:
        self._handed = 0
        beside = [asyncio.create_task(each) for each in (self._feed(stream), self._until_opened(stream))]
        try:
            async for explanation in stream:
                self._heard(explanation)
                self.tell_notices()
            self.summary = stream.summary
        finally:
            for each in beside:
                each.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await stream.cancel()

    async def _feed(self, stream: AsyncLiveStream) -> None:
        while True:
            while self._waiting:
                frame = self._waiting.popleft()
                try:
                    await stream.send(frame)
                except tonescope.TonescopeError:  # the reading side meets the same, and decides
                    self._waiting.appendleft(frame)
                    return
                self._handed += 1
            if self._closing:
                await stream.close()
                return
            self._more.clear()
            await self._more.wait()

    async def _until_opened(self, stream: AsyncLiveStream) -> None:
        """Say that the daemon is back where it was this side that said it is gone."""
        while self._away is not None and stream.opened is None:
            await asyncio.sleep(_LOOK_S)
        self._back()

    def _retire(self) -> bool:
        """Add what a stream counted that has ended to the rest; say whether it had been opened."""
        stream = self._stream
        if stream is None:
            return False
        self.tell_notices()
        counts = _counts(stream)
        self._before += counts + Forwarded(dropped=self._handed - counts.sent - counts.dropped)
        self._stream = None
        return stream.opened is not None

    def _note(self, event: tonescope.ConnectionEvent) -> None:
        if isinstance(event, tonescope.Reconnected):
            self._back(event.attempts)
        elif self._away is None:
            self._away = time.monotonic(), 0
            self._said(event)

    def _lost(self, error: tonescope.TonescopeError, attempt: int) -> None:
        """Note that there is no stream, and say so, unless the same was said before."""
        since = self._away[0] if self._away is not None else time.monotonic()
        if self._away is None or error.reason != self._reason:
            self._said(tonescope.Disconnected(self._address, error, RETRY.give_up_after_s))
        self._away, self._reason = (since, attempt), error.reason

    def _back(self, attempts: int = 1) -> None:
        if self._away is None:
            return
        since, before = self._away
        self._away, self._reason = None, ""
        self._said(tonescope.Reconnected(self._address, time.monotonic() - since, before + attempts))


def _counts(stream: AsyncLiveStream) -> Forwarded:
    counts = stream.counts
    return Forwarded(
        sent=counts.sent,
        resent=counts.resent,
        dropped=counts.discarded,
        forgotten=counts.forgotten,
        explained=counts.answered,
        failed=counts.failed,
        windows_dropped=counts.dropped,
        rejected=counts.rejected,
        reconnects=counts.reconnects,
    )
