"""What a live stream knows, and what a response or a lost connection does to it. No I/O: both clients drive it."""

from __future__ import annotations

from collections import deque
from typing import Any

import grpc

from tonescope import decode
from tonescope.errors import ProtocolError, TonescopeError, UnavailableError, from_problem, from_rpc
from tonescope.request import Frame, FrameLike, Window, WindowLike, frame_message, window_message
from tonescope.results import Explanation, Notice, Opened, Summary, ToneTable
from tonescope.resume import RETRIED, Outbox, Retry
from tonescope.v1 import csi_pb2, live_pb2

UNREAD = 1024
"""The most explanations that wait for their reader; then the daemon has to wait, or drop."""
_NOTICES = 256


class LiveState:
    """What a stream knows, shared by its blocking and its asyncio form."""

    def __init__(self, opening: live_pb2.Open, retry: Retry, buffer: int, address: str) -> None:
        self.opening = opening
        self.retry = retry
        self.address = address
        self.outbox = Outbox(buffer)
        self.unread: deque[Explanation] = deque()
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        self.opened: Opened | None = None
        self.summary: Summary | None = None
        self.error: TonescopeError | None = None
        self.table = ToneTable("")
        self.draining = False
        self.no_more_input = False
        self.finished = False
        self.failures = 0
        self._sent_before = 0

    def begin(self) -> live_pb2.LiveRequest:
        """Line up a connection's first message."""
        self.draining = False
        self.summary = None
        self._sent_before = self._sent
        self.opening.ClearField("resume_from")
        self.opening.resume_from.extend(self.outbox.rewind())
        return live_pb2.LiveRequest(open=self.opening)

    def receive(self, response: live_pb2.LiveResponse) -> None:
        """Take in one response."""
        kind = response.WhichOneof("message")
        if kind == "explanations":
            self._explanations(response.explanations)
        elif kind == "opened":
            self.opened = decode.opened(response.opened)
            self.table = self.opened.tone_table
        elif kind == "dropped":
            self.outbox.count(dropped=response.dropped.windows)
            said = f"{response.dropped.windows} windows dropped, {response.dropped.total} so far"
            self.notices.append(Notice("dropped", response.dropped.cause, said))
        elif kind == "warning":
            self.notices.append(Notice("warning", response.warning.code, response.warning.message))
        elif kind == "rejected":
            problem = from_problem(response.rejected.problem)
            self.outbox.count(rejected=1)
            self.notices.append(Notice("rejected", problem.reason, str(problem)))
        elif kind == "draining":
            self.draining = True
            self.notices.append(Notice("draining", response.draining.cause, "the daemon is going away"))
        elif kind == "summary":
            self.summary = decode.summary(response.summary)

    def _explanations(self, batch: Any) -> None:
        for message in batch.explanations:
            explanation = decode.explanation(message, self.table)
            at = explanation.node_id, explanation.first_sequence, explanation.last_sequence
            if not self.outbox.answered(*at):
                continue
            self.failures = 0
            self.outbox.count(**{"answered" if explanation.problem is None else "failed": 1})
            self.unread.append(explanation)

    def done(self) -> bool:
        """Say whether the stream ended as it should: all input sent, received, and the last word spoken."""
        if not self.no_more_input or self.outbox.waiting or self.summary is None:
            return False
        received = self.summary.frames_received or self.summary.windows
        return not self.draining or received >= self._sent - self._sent_before

    @property
    def _sent(self) -> int:
        return self.outbox.counts.sent + self.outbox.counts.resent

    def next_delay_s(self, error: grpc.RpcError | None) -> float | None:
        """Decide what a lost connection means: seconds to wait before the next, or None, with ``self.error`` set."""
        self.failures += 1
        typed: TonescopeError = UnavailableError(f"{self.address} ended the stream")
        if error is not None:
            typed = from_rpc(error, self.address)
            refused = error.code() not in RETRIED or typed.reason not in ("UNAVAILABLE", "INTERNAL")
            if refused or (self.opened is None and not self.retry.wait_for_daemon):
                self.error = typed
                return None
        if self.failures > self.retry.attempts:
            self.error = typed
            return None
        self.outbox.count(reconnects=1)
        self.notices.append(Notice("reconnecting", typed.reason, str(typed)))
        return self.retry.delay_s(self.failures)

    def message(self, item: FrameLike | WindowLike, as_window: bool) -> csi_pb2.Frame | csi_pb2.Window:
        """Build the message of one frame or window; bare arrays are what ``as_window`` says."""
        if self.no_more_input:
            raise ProtocolError("live stream: nothing can be sent after close()")
        if isinstance(item, Frame | bytes):
            return frame_message(item)
        if isinstance(item, Window) or as_window:
            return window_message(item)
        return frame_message(item)
