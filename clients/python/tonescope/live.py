"""The blocking live stream: iterate over explanations, send frames or windows, survive the connection.

Two threads a stream: gRPC's own pulls requests from here, ours reads responses and opens the next connection when one
is lost. What is sent again, and when, is decided in ``resume``; what a response means in ``live_state``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import grpc

from tonescope.errors import TonescopeError
from tonescope.live_state import UNREAD, LiveState, source_error
from tonescope.request import FrameLike, WindowLike
from tonescope.results import Explanation, Notice, Opened, Summary
from tonescope.resume import LiveCounts
from tonescope.v1 import attribution_service_pb2_grpc, live_pb2

Stub = attribution_service_pb2_grpc.AttributionServiceStub


class LiveStream:
    """A live stream. Iterate over it for explanations; ``send`` to it, or give it ``frames`` or ``windows`` to take.

    Leaving a ``with`` block, or ``cancel()``, ends it at once; ``close()`` says that no more is sent, and iterating
    then yields what is still to be answered. All methods may be called from any thread.

    Attributes:
        counts: what became of everything that was sent.
        opened: what was negotiated; None until the daemon answered.
        summary: the daemon's own counts, of all connections that it summed up: see ``counts.unaccounted``.
    """

    def __init__(
        self,
        stub: Stub,
        state: LiveState,
        frames: Iterable[FrameLike] | None,
        windows: Iterable[WindowLike] | None,
        wait_for_room: bool,
    ) -> None:
        self._stub = stub
        self._state = state
        self._changed = threading.Condition()
        self._call: Any = None
        self._connection = 0
        self._cancelled = False
        self._wait_for_room = wait_for_room
        self._start(self._run)
        if frames is not None:
            self._start(lambda: self._feed(frames, as_window=False))
        elif windows is not None:
            self._start(lambda: self._feed(windows, as_window=True))

    def send(self, item: FrameLike | WindowLike, *, as_window: bool = False) -> None:
        """Queue a frame or window.

        With the back-pressure policy this waits while the buffer is full of what is still to be sent; otherwise the
        oldest goes, and is counted.

        Args:
            item: a Frame, a Window, bytes (a raw frame) or an array.
            as_window: whether a bare array is a window.

        Raises:
            ProtocolError: the stream was closed.
            TonescopeError: why the stream failed, where it did.
        """
        message = self._state.message(item, as_window)
        with self._changed:
            if self._wait_for_room:
                self._wait_while(lambda: self._full)
            if self._state.error is not None:
                raise self._state.error
            self._state.outbox.add(message)
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more is sent. What was sent is still answered."""
        with self._changed:
            self._state.no_more_input = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the stream at once; what was not answered stays unanswered."""
        with self._changed:
            self._cancelled = self._state.finished = True
            self._state.account()
            self._state.no_more_input = True
            self._changed.notify_all()
            call = self._call
        if call is not None:
            call.cancel()

    def receive(self, timeout: float | None = None) -> Explanation | None:
        """Wait for the next explanation; None at the end of the stream.

        Raises:
            TimeoutError: nothing came for ``timeout`` seconds.
            TonescopeError: why the stream failed.
        """
        state = self._state
        with self._changed:
            over = self._changed.wait_for(lambda: bool(state.unread) or state.finished, timeout)
            if state.unread:
                self._changed.notify_all()
                return state.unread.popleft()
            if state.error is not None:
                raise state.error
        if not over:
            raise TimeoutError(f"no explanation for {timeout} s")
        return None

    @property
    def counts(self) -> LiveCounts:
        """What became of everything that was sent, so far."""
        return self._state.outbox.counts

    @property
    def opened(self) -> Opened | None:
        """What was negotiated; None until the daemon answered."""
        return self._state.opened

    @property
    def summary(self) -> Summary | None:
        """The daemon's own counts, of all connections that it summed up; None until the first one's end."""
        return self._state.summary

    def notices(self) -> list[Notice]:
        """Take what else was said since this was last asked: warnings, refusals, drops, draining."""
        with self._changed:
            said = list(self._state.notices)
            self._state.notices.clear()
        return said

    def __iter__(self) -> Iterator[Explanation]:
        return self

    def __next__(self) -> Explanation:
        if (explanation := self.receive()) is None:
            raise StopIteration
        return explanation

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def _full(self) -> bool:
        return self._state.outbox.waiting >= self._state.outbox.capacity // 2

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._state.finished or not condition())

    def _start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name="tonescope-live", daemon=True).start()

    def _feed(self, items: Iterable[Any], as_window: bool) -> None:
        """Pull from the caller's iterable, never faster than things leave."""
        try:
            for item in items:
                with self._changed:
                    self._wait_while(lambda: self._full)
                    if self._state.finished or self._state.no_more_input:
                        return
                self.send(item, as_window=as_window)
        except Exception as error:  # noqa: BLE001 - the caller's own error belongs to the caller, who is iterating
            self._fail(error)
        self.close()

    def _fail(self, error: Exception) -> None:
        typed = source_error(error)
        with self._changed:
            self._state.error = self._state.error or typed
            call = self._call
        self.cancel()
        if call is not None:
            call.cancel()

    def _run(self) -> None:
        try:
            delay_s: float | None = 0.0
            while delay_s is not None:
                with self._changed:
                    self._changed.wait_for(lambda: self._cancelled, delay_s)
                    if self._cancelled:
                        break
                delay_s = self._connect()
                self._state.tell()
        except TonescopeError as error:
            self._fail(error)
        finally:
            with self._changed:
                self._state.finished = True
                self._changed.notify_all()

    def _connect(self) -> float | None:
        """Run one connection to its end; say how long to wait before the next one, or None for no more."""
        try:
            with self._changed:
                if self._cancelled:
                    return None
                self._connection += 1
                first = self._state.begin()
                self._call = self._stub.Live(self._requests(self._connection, first))
            for response in self._call:
                self._take_in(response)
        except grpc.RpcError as error:
            with self._changed:
                self._connection += 1
                self._changed.notify_all()
                return None if self._cancelled else self._state.next_delay_s(error)
        with self._changed:
            self._connection += 1
            self._changed.notify_all()
            return None if self._state.done() else self._state.next_delay_s(None)

    def _take_in(self, response: live_pb2.LiveResponse) -> None:
        with self._changed:
            self._state.receive(response)
            self._changed.notify_all()
        self._state.tell()
        with self._changed:
            # A reader who does not read must not fill the memory: then the daemon has to wait or drop.
            self._changed.wait_for(lambda: len(self._state.unread) < UNREAD or self._state.finished)

    def _requests(self, connection: int, first: live_pb2.LiveRequest) -> Iterator[live_pb2.LiveRequest]:
        """Yield the requests of one connection; end, and so half-close, with it, with the input, or for a drain."""
        yield first
        state = self._state
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: state.outbox.waiting or state.no_more_input or state.draining or self._stale(connection)
                )
                if self._stale(connection) or state.draining:
                    return
                request = state.outbox.take()
                self._changed.notify_all()
            if request is None:
                return
            yield request

    def _stale(self, connection: int) -> bool:
        return connection != self._connection or self._state.finished
