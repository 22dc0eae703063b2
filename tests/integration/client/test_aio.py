"""The asyncio client does what the blocking one does."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest

import tonescope
from tonescope import Retry, errors

from .daemons import Daemon
from .frames import FAST, expected_windows, frames


def test_the_asyncio_client_does_what_the_blocking_one_does(
    daemon: Daemon, client: tonescope.Client, windows: np.ndarray
) -> None:
    async def run() -> tuple[bytes, list[int | None], list[int | None], str]:
        async with tonescope.aio.connect(daemon.address) as aio:
            tones = (await aio.explain(windows, model="tiny", target=1)).tones.tobytes()
            live = aio.live(model="tiny", frames=frames(20), overload="back_pressure")
            answered = [each.last_sequence async for each in live]
            async with aio.live(model="tiny") as handle:
                for frame in frames(4):
                    await handle.send(frame)
                await handle.close()
                by_hand = [each.last_sequence async for each in handle]
            with pytest.raises(errors.UnknownModelError) as caught:
                await aio.model("nobody")
            assert len(await aio.models()) == 3
            assert len(await aio.methods()) >= 5
            return tones, answered, by_hand, str(caught.value)

    tones, answered, by_hand, message = asyncio.run(run())
    assert tones == client.explain(windows, model="tiny", target=1).tones.tobytes()
    assert answered == [last for _, last in expected_windows(20)]
    assert by_hand == [3]
    assert "nobody" in message


def test_what_the_asyncio_client_cannot_do_is_said_in_the_same_words(daemon: Daemon, windows: np.ndarray) -> None:
    async def run() -> None:
        aio = tonescope.aio.connect(daemon.address)
        with pytest.raises(errors.ShapeError, match="is taken for 56 windows"):
            await aio.explain(windows[0], model="tiny/1")
        with pytest.raises(errors.UnknownModelError, match=r'no version "7" \(there are: 1\)'):
            await aio.model("tiny/7")
        with pytest.raises(errors.FrameError, match=r"^frame: expected a Frame, an array or bytes, got int$"):
            [each async for each in aio.live(model="tiny", frames=[b"garbage", b"", 5])]  # type: ignore[list-item]
        with pytest.raises(errors.TonescopeError, match=r"^the source failed: ZeroDivisionError: ") as caught:
            [each async for each in aio.live(model="tiny", frames=(frames(1)[1 // n] for n in (2, 0)))]
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        await aio.close()
        with pytest.raises(errors.ProtocolError, match="expected no call after close"):
            await aio.models()
        with pytest.raises(errors.ProtocolError, match="expected no call after close"):
            aio.live(model="tiny")

    asyncio.run(run())


def test_an_asyncio_stream_too_survives_its_daemon(mortal: Daemon) -> None:
    told: list[tonescope.ConnectionEvent] = []

    async def run() -> tuple[list[int | None], int]:
        answered: list[int | None] = []
        async with tonescope.aio.connect(mortal.address) as aio:

            async def source():  # type: ignore[no-untyped-def]
                for frame in frames(200):
                    await asyncio.sleep(0.002)
                    yield frame

            stream = aio.live(
                model="tiny", frames=source(), retry=FAST, overload="back_pressure", on_connection=told.append
            )
            async for each in stream:
                answered.append(each.last_sequence)
                if len(answered) == 20:
                    os.kill(mortal.process.pid, signal.SIGKILL)
                    await asyncio.to_thread(mortal.process.wait)
                    assert mortal.process.stdout is not None
                    mortal.process.stdout.close()
                    await asyncio.to_thread(mortal.start)
            return answered, stream.counts.reconnects

    answered, reconnects = asyncio.run(run())
    assert answered == [last for _, last in expected_windows(200)]
    assert reconnects == 1
    assert [type(event) for event in told] == [tonescope.Disconnected, tonescope.Reconnected]


def test_an_asyncio_stream_too_gives_up_after_the_time_it_was_given(mortal: Daemon) -> None:
    told: list[tonescope.ConnectionEvent] = []

    async def run() -> int:
        retry = Retry(first_s=0.01, cap_s=0.02, give_up_after_s=0.5)
        async with tonescope.aio.connect(mortal.address) as aio:
            stream = aio.live(model="tiny", retry=retry, on_connection=told.append)
            for frame in frames(4):
                await stream.send(frame)
            assert await stream.receive() is not None
            await asyncio.to_thread(mortal.stop, signal.SIGKILL)
            with pytest.raises(errors.UnavailableError, match=f"{mortal.address}.*gave up after 0.5 s"):
                await asyncio.wait_for(stream.receive(), 20)
            return stream.counts.reconnects

    assert asyncio.run(run()) == 0
    assert [type(event) for event in told] == [tonescope.Disconnected]


def test_an_asyncio_stream_too_fails_with_what_the_callers_own_code_raised_when_told(mortal: Daemon) -> None:
    def refuse(event: tonescope.ConnectionEvent) -> None:
        raise OSError("the log is full")

    async def run() -> None:
        async with (
            tonescope.aio.connect(mortal.address) as aio,
            aio.live(model="tiny", retry=FAST, on_connection=refuse) as stream,
        ):
            for frame in frames(4):
                await stream.send(frame)
            assert await stream.receive() is not None
            await asyncio.to_thread(mortal.stop, signal.SIGKILL)
            with pytest.raises(errors.TonescopeError, match="on_connection failed: the log is full"):
                await asyncio.wait_for(stream.receive(), 20)

    asyncio.run(run())


def test_why_the_daemon_refuses_a_stream_is_told_however_much_is_waiting_to_be_sent(daemon: Daemon) -> None:
    async def run() -> None:
        async with tonescope.aio.connect(daemon.address) as aio:
            for _ in range(20):  # a write that is under way when the refusal comes is a matter of luck
                stream = aio.live(model="nobody")
                for frame in frames(600):  # without a pause, so that all of it waits when the stream opens
                    await stream.send(frame)
                with pytest.raises(errors.UnknownModelError, match="nobody"):
                    await stream.receive()

    asyncio.run(run())
