"""What a live stream knows, and what a response or a lost connection does to it. No I/O: both clients drive it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from tonescope import decode
from tonescope.connection import ConnectionEvent, Disconnected, OnConnection, Reconnected
from tonescope.errors import ParameterError, ProtocolError, TonescopeError, UnavailableError, from_problem, from_rpc
from tonescope.fields import number
from tonescope.request import Frame, FrameLike, Window, WindowLike, frame_message, window_message
from tonescope.results import Explanation, Notice, Opened, Summary, ToneTable
from tonescope.resume import RETRIED, Outbox, Retry
from tonescope.v1 import csi_pb2, live_pb2

UNREAD = 1024
"""The most explanations that wait for their reader; then the daemon has to wait, or drop."""
_NOTICES = 256


def source_error(error: Exception) -> TonescopeError:
    """Return what a stream fails with where the caller's own source raised: ours as it is, any other as the cause."""
    if isinstance(error, TonescopeError):
        return error
    typed = TonescopeError(f"the source failed: {type(error).__name__}: {' '.join(str(error).split())}")
    typed.__cause__ = error
    return typed


def _check(retry: Any, buffer: Any, on_connection: Any) -> None:
    if isinstance(buffer, float | np.floating):
        raise ParameterError(f"buffer: expected a whole number, got {buffer!r}")
    number("buffer", buffer, 1, unit="frames or windows")
    if not isinstance(retry, Retry):
        raise ParameterError(f"retry: expected a Retry or None, got {type(retry).__name__}")
    if on_connection is not None and not callable(on_connection):
        raise ParameterError(f"on_connection: expected a function or None, got {type(on_connection).__name__}")


class LiveState:
    """What a stream knows, shared by its blocking and its asyncio form.

    Args:
        opening: the message that opens it.
        retry: when to connect again.
        buffer: the most frames or windows held.
        address: the daemon's.
        on_connection: told when the connection is lost or back; None means nobody is.
        clock: seconds, from anywhere.

    Raises:
        ParameterError: a buffer, retry or callback that is none.
    """

    def __init__(
        self,
        opening: live_pb2.Open,
        retry: Retry,
        buffer: int,
        address: str,
        on_connection: OnConnection | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(retry, buffer, on_connection)
        self.opening = opening
        self.retry = retry
        self.address = address
        self.outbox = Outbox(buffer)
        self.unread: deque[Explanation] = deque()
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        self.opened: Opened | None = None
        self.error: TonescopeError | None = None
        self.table = ToneTable("")
        self.draining = False
        self.no_more_input = False
        self.finished = False
        self._sent_before = 0
        self._summary: Summary | None = None
        self._summary_before: Summary | None = None
        self._next_index = self._first_index = 0
        self._on_connection = on_connection
        self._untold: deque[ConnectionEvent] = deque()
        self._clock = clock
        self.connected = self._answered = self._accounted = False
        self._lost_at: float | None = None
        self._attempts = 0
        self._unanswered = 0

    def begin(self) -> live_pb2.LiveRequest:
        """Line up a connection's first message."""
        self.draining = self.connected = self._answered = self._accounted = False
        self._summary_before, self._summary = self.summary, None
        self._sent_before, self._first_index = self._sent, self._next_index
        self.opening.ClearField("resume_from")
        self.opening.resume_from.extend(self.outbox.rewind())
        return live_pb2.LiveRequest(open=self.opening)

    def receive(self, response: live_pb2.LiveResponse) -> None:
        """Take in one response."""
        kind = response.WhichOneof("message")
        if kind == "explanations":
            self._explanations(response.explanations)
        elif kind == "opened":
            self._open(decode.opened(response.opened))
        elif kind == "dropped":
            self.outbox.count(dropped=response.dropped.windows)
            said = f"{response.dropped.windows} windows dropped, {response.dropped.total} so far"
            self.notices.append(Notice("dropped", response.dropped.cause, said))
        elif kind == "warning":
            self.notices.append(decode.warning(response.warning))
        elif kind == "rejected":
            problem = from_problem(response.rejected.problem)
            self.outbox.count(rejected=1)
            self.notices.append(Notice("rejected", problem.reason, str(problem)))
        elif kind == "draining":
            self.draining = True
            self.notices.append(Notice("draining", response.draining.cause, "the daemon is going away"))
        elif kind == "summary":
            self._summary = decode.summary(response.summary)

    def _open(self, opened: Opened) -> None:
        if self._lost_at is not None:
            self.outbox.count(reconnects=0 if self.opened is None else 1)
            self._untold.append(Reconnected(self.address, self._clock() - self._lost_at, self._attempts))
        self.opened, self.table = opened, opened.tone_table
        self.outbox.lengths = frozenset(opened.frame_lengths)
        self.connected, self._lost_at = True, None

    def _explanations(self, batch: Any) -> None:
        for message in batch.explanations:
            message.window_index += self._first_index
            explanation = decode.explanation(message, self.table)
            at = explanation.node_id, explanation.first_sequence, explanation.last_sequence
            if not self.outbox.answered(*at):
                self._first_index -= 1
                continue
            self._next_index = max(self._next_index, explanation.window_index + 1)
            self._answered = True
            self.outbox.count(**{"answered" if explanation.problem is None else "failed": 1})
            self.unread.append(explanation)

    def done(self) -> bool:
        """Say whether the stream ended as it should: all input sent, received, and the last word spoken."""
        if not self.no_more_input or self.outbox.waiting or self._summary is None:
            return False
        received = self._summary.frames_received or self._summary.windows
        return not self.draining or received >= self._sent - self._sent_before

    @property
    def summary(self) -> Summary | None:
        """The daemon's counts of every connection that it summed up, in one; None where there is none yet."""
        if self._summary is None or self._summary_before is None:
            return self._summary or self._summary_before
        return self._summary_before + self._summary

    def account(self) -> None:
        """Note, once, that a connection is over: whether the daemon had summed up what it took."""
        if self.connected and not self._accounted and self._summary is None and self._sent > self._sent_before:
            self.outbox.count(unaccounted=1)
        self._accounted = True

    @property
    def _sent(self) -> int:
        return self.outbox.counts.sent + self.outbox.counts.resent

    def next_delay_s(self, error: grpc.RpcError | None) -> float | None:
        """Decide what a lost connection means: seconds to wait before the next, or None, with ``self.error`` set."""
        self.account()
        typed: TonescopeError = UnavailableError(
            f"the daemon at {self.address} {'is going away' if self.draining else 'ended the stream'}"
        )
        if error is not None:
            typed = from_rpc(error, self.address)
            refused = error.code() not in RETRIED or typed.reason not in ("UNAVAILABLE", "INTERNAL")
            if refused or (self.opened is None and not self.retry.wait_for_daemon):
                self.error = typed
                return None
        now, first = self._clock(), self._lost_at is None
        if self._lost_at is None:
            self._lost_at, self._attempts = now, 0
            self._unanswered = self._unanswered_now()
        left_s = self._lost_at + self.retry.give_up_after_s - now
        given_up = self._why_give_up(left_s, typed)
        if given_up is not None:
            self.error = given_up
            return None
        if first:
            self._untold.append(Disconnected(self.address, typed, self.retry.give_up_after_s))
        self._attempts += 1
        return min(self.retry.delay_s(max(self._attempts, self._unanswered)), left_s)

    def _unanswered_now(self) -> int:
        """Count the connections in a row that were lost without an answer, as of the loss of this one."""
        if self._answered:
            return 0
        return self._unanswered + (self.connected and self._sent > self._sent_before)

    def _why_give_up(self, left_s: float, last: TonescopeError) -> TonescopeError | None:
        if left_s <= 0:
            limit_s = self.retry.give_up_after_s
            return UnavailableError(f"{last}; gave up after {limit_s:g} s" if limit_s else str(last))
        if self._unanswered > self.retry.unanswered:
            n = self._unanswered
            return UnavailableError(f"{last}; gave up after {n} connections in a row that ended without an answer")
        return None

    def tell(self) -> None:
        """Tell whoever asked what became of the connection. Not to be called under a lock: theirs is any code.

        Raises:
            TonescopeError: what they were told with raised.
        """
        while self._untold:
            event = self._untold.popleft()
            try:
                if self._on_connection is not None:
                    self._on_connection(event)
            except Exception as error:
                raise TonescopeError(f"on_connection failed: {error}") from error

    def message(self, item: FrameLike | WindowLike, as_window: bool) -> csi_pb2.Frame | csi_pb2.Window:
        """Build the message of one frame or window; bare arrays are what ``as_window`` says."""
        if self.no_more_input:
            raise ProtocolError("live stream: nothing can be sent after close()")
        if isinstance(item, Frame | bytes):
            return frame_message(item)
        if isinstance(item, Window) or as_window:
            return window_message(item)
        return frame_message(item)
