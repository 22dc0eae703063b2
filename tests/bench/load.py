"""The client of the live measurements: as many streams as asked for, on raw gRPC, in a process of its own.

    python -m tests.bench.load < SPEC.json

It is not the product's client: windows are serialised once and results are read no further than is counted, so that
one core of client can busy one core of daemon. It writes one line of JSON when the streams are open, waits for a line,
sends, and writes one line of JSON: the latencies, and what the daemon's summaries say.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from tonescope.v1 import csi_pb2, live_pb2, tensor_pb2

METHOD = "/tonescope.v1.AttributionService/Live"
# One connection a stream, as devices have; and what comes is read at once.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


@dataclass
class Spec:
    """What to send.

    Attributes:
        rate_hz: windows per second of each stream; 0 means as fast as ``in_flight`` windows allow.
        per_message: windows in one message.
        core: where this process runs.
        windows: a ``.npy`` file, ``(n, *input shape)``.
    """

    address: str
    model: str
    windows: str
    streams: int = 1
    rate_hz: float = 0.0
    in_flight: int = 1
    per_message: int = 1
    seconds: float = 5.0
    core: int | None = None


@dataclass
class Counts:
    """What came back."""

    latency_s: list[float] = field(default_factory=list)
    answered: int = 0
    problems: int = 0
    dropped: int = 0
    late_s: list[float] = field(default_factory=list)


class Stream:
    """One live stream: opened, then run."""

    def __init__(self, spec: Spec, messages: list[bytes], counts: Counts) -> None:
        self._spec = spec
        self._messages = messages
        self._counts = counts
        self._channel = grpc.aio.insecure_channel(spec.address, OPTIONS)
        self._call: Any = self._channel.stream_stream(
            METHOD, request_serializer=None, response_deserializer=live_pb2.LiveResponse.FromString
        )()
        self._sent: deque[float] = deque()
        self._room = asyncio.Semaphore(spec.in_flight)

    async def open(self) -> None:
        opening = live_pb2.Open(normalisation=csi_pb2.NORMALISATION_NONE)
        opening.options.model.name = self._spec.model
        await self._call.write(live_pb2.LiveRequest(open=opening).SerializeToString())
        first = await self._call.read()
        assert first.WhichOneof("message") == "opened"

    async def run(self, begin: float) -> None:
        reader = asyncio.create_task(self._read())
        send = self._send_at_rate if self._spec.rate_hz else self._send_as_answered
        await send(begin)
        await self._call.done_writing()
        await reader
        await self._channel.close()

    async def _send_at_rate(self, begin: float) -> None:
        """Send at set times. A window's latency counts from its time, however late this process was with it."""
        step = 1 / self._spec.rate_hz
        for number in range(int(self._spec.seconds * self._spec.rate_hz)):
            due = begin + number * step
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._counts.late_s.append(time.perf_counter() - due)
            self._sent.append(due)
            await self._call.write(self._messages[number % len(self._messages)])

    async def _send_as_answered(self, begin: float) -> None:
        number = 0
        while time.perf_counter() - begin < self._spec.seconds:
            await self._room.acquire()
            self._sent.append(time.perf_counter())
            await self._call.write(self._messages[number % len(self._messages)])
            number += 1

    async def _read(self) -> None:
        counts, of_message = self._counts, 0
        while (response := await self._call.read()) is not grpc.aio.EOF:
            kind = response.WhichOneof("message")
            if kind == "summary":
                counts.dropped += response.summary.dropped
            if kind != "explanations":
                continue
            now = time.perf_counter()
            for explanation in response.explanations.explanations:
                counts.problems += explanation.HasField("problem")
                # A dropped window leaves no answer: those before this one are forgotten.
                for _ in range(explanation.dropped_before // self._spec.per_message):
                    self._sent.popleft()
                counts.answered += 1
                of_message += 1
                if of_message == self._spec.per_message:
                    of_message = 0
                    counts.latency_s.append(now - self._sent.popleft())
                    self._room.release()


def _messages(spec: Spec) -> list[bytes]:
    """Serialise the windows, once."""
    windows = [
        csi_pb2.Window(
            values=tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=window.shape, data=window.tobytes())
        )
        for window in np.load(spec.windows)
    ]
    size = spec.per_message
    batches = [windows[i : i + size] for i in range(0, len(windows) - size + 1, size)]
    return [live_pb2.LiveRequest(windows=live_pb2.WindowBatch(windows=b)).SerializeToString() for b in batches]


async def _main(spec: Spec) -> dict[str, Any]:
    counts, messages = Counts(), _messages(spec)
    streams = [Stream(spec, messages, counts) for _ in range(spec.streams)]
    for stream in streams:
        await stream.open()
    print(json.dumps({"open": len(streams)}), flush=True)
    sys.stdin.readline()
    begin, cpu = time.perf_counter() + 0.1, time.process_time()
    # Devices do not send in step: each starts somewhere in the first interval.
    step = 1 / spec.rate_hz if spec.rate_hz else 0.0
    await asyncio.gather(*(s.run(begin + step * i / len(streams)) for i, s in enumerate(streams)))
    took = time.perf_counter() - begin
    return vars(counts) | {"seconds": took, "client_core": (time.process_time() - cpu) / took}


if __name__ == "__main__":
    given = Spec(**json.loads(sys.stdin.readline()))
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    print(json.dumps(asyncio.run(_main(given))), flush=True)
