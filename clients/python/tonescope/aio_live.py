"""The asyncio live stream: what ``live`` does with threads, done with tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any

import grpc

from tonescope.errors import TonescopeError
from tonescope.live_state import UNREAD, LiveState, source_error
from tonescope.request import FrameLike, WindowLike
from tonescope.results import Explanation, Notice, Opened, Summary
from tonescope.resume import LiveCounts
from tonescope.v1 import live_pb2

Items = Iterable[Any] | AsyncIterable[Any]


class AsyncLiveStream:
    """A live stream: ``async for`` explanations, ``await send()`` or give it ``frames`` or ``windows`` to take.

    Leaving an ``async with`` block, or ``cancel()``, ends it at once; ``close()`` says that no more is sent.
    """

    def __init__(
        self,
        stub: Any,
        state: LiveState,
        frames: Items | None,
        windows: Items | None,
        wait_for_room: bool,
    ) -> None:
        self._stub = stub
        self._state = state
        self._changed = asyncio.Condition()
        self._wait_for_room = wait_for_room
        self._tasks = [asyncio.create_task(self._run())]
        for items, as_window in ((frames, False), (windows, True)):
            if items is not None:
                self._tasks.append(asyncio.create_task(self._feed(items, as_window)))

    async def send(self, item: FrameLike | WindowLike, *, as_window: bool = False) -> None:
        """Queue a frame or window. With the back-pressure policy this waits for room; otherwise the oldest goes.

        Raises:
            ProtocolError: the stream was closed.
            TonescopeError: why the stream failed, where it did.
        """
        message = self._state.message(item, as_window)
        if self._wait_for_room:
            await self._until(lambda: self._state.finished or not self._full)
        if self._state.error is not None:
            raise self._state.error
        self._state.outbox.add(message)
        await self._notify()

    async def close(self) -> None:
        """Say that no more is sent. What was sent is still answered."""
        self._state.no_more_input = True
        await self._notify()

    async def cancel(self) -> None:
        """End the stream at once; what was not answered stays unanswered."""
        self._state.finished = self._state.no_more_input = True
        self._state.account()
        current = asyncio.current_task()
        others = [task for task in self._tasks if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._notify()

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
        said = list(self._state.notices)
        self._state.notices.clear()
        return said

    async def receive(self) -> Explanation | None:
        """Wait for the next explanation; None at the end of the stream.

        Raises:
            TonescopeError: why the stream failed.
        """
        state = self._state
        await self._until(lambda: bool(state.unread) or state.finished)
        if state.unread:
            explanation = state.unread.popleft()
            await self._notify()
            return explanation
        if state.error is not None:
            raise state.error
        return None

    def __aiter__(self) -> AsyncIterator[Explanation]:
        return self

    async def __anext__(self) -> Explanation:
        if (explanation := await self.receive()) is None:
            raise StopAsyncIteration
        return explanation

    async def __aenter__(self) -> AsyncLiveStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cancel()

    @property
    def _full(self) -> bool:
        return self._state.outbox.waiting >= self._state.outbox.capacity // 2

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _feed(self, items: Items, as_window: bool) -> None:
        """Pull from the caller's iterable, never faster than things leave."""
        state = self._state
        try:
            async for item in _each(items):
                await self._until(lambda: state.finished or not self._full)
                if state.finished or state.no_more_input:
                    return
                await self.send(item, as_window=as_window)
        except Exception as error:  # noqa: BLE001 - the caller's own error belongs to the caller, who is iterating
            state.error = state.error or source_error(error)
            await self.cancel()
        await self.close()

    async def _run(self) -> None:
        try:
            delay_s: float | None = 0.0
            while delay_s is not None:
                await asyncio.sleep(delay_s)
                delay_s = await self._connect()
                self._state.tell()
        except TonescopeError as error:
            self._state.error = self._state.error or error
        finally:
            self._state.finished = True
            await self._notify()

    async def _connect(self) -> float | None:
        """Run one connection to its end; say how long to wait before the next one, or None for no more."""
        state = self._state
        call = self._stub.Live()
        sender = asyncio.create_task(self._send_all(call, state.begin()))
        try:
            async for response in call:
                state.receive(response)
                await self._notify()
                state.tell()
                await self._until(lambda: len(state.unread) < UNREAD or state.finished)
            code = await call.code()
            if code is grpc.StatusCode.OK:
                return None if state.done() else state.next_delay_s(None)
        except grpc.RpcError as error:
            return state.next_delay_s(error)
        finally:
            sender.cancel()
            call.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return state.next_delay_s(None)

    async def _send_all(self, call: Any, first: live_pb2.LiveRequest) -> None:
        state = self._state
        try:
            await call.write(first)
            # A write that fails as the daemon refuses the stream hides why: gRPC cancels the call before it reads that.
            await self._until(lambda: state.connected)
            while True:
                await self._until(lambda: state.outbox.waiting > 0 or state.no_more_input or state.draining)
                request = None if state.draining else state.outbox.take()
                if request is None:
                    await call.done_writing()
                    return
                await call.write(request)
                await self._notify()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reading side meets the same end, and decides


async def _each(items: Items) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
        await asyncio.sleep(0)  # a plain iterable must not keep the loop from sending what it gave
