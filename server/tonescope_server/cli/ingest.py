"""``tonescope ingest``: a gateway from nodes that send ADR-018 packets over UDP to a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import tonescope
from tonescope.aio_live import AsyncLiveStream
from tonescope.connection import OnConnection
from tonescope_server.cli.console import remark
from tonescope_server.cli.ingest_report import Report, Speaker, status_line, summary_lines
from tonescope_server.cli.options import (
    DEFAULT_SERVER,
    HopOption,
    MethodOption,
    NormaliseOption,
    OutputOption,
    ParameterOption,
    RemoteModelOption,
    ServerOption,
    TargetOption,
    parse_parameters,
    parse_target,
)
from tonescope_server.cli.remote import only_model, our_errors
from tonescope_server.csi.decoders import adr018
from tonescope_server.csi.frames import Frame
from tonescope_server.errors import ConfigurationError, ParameterError
from tonescope_server.ingest.forwarder import RETRY, Forwarder
from tonescope_server.ingest.recorder import Recorder
from tonescope_server.ingest.traffic import Traffic
from tonescope_server.ingest.udp import UdpReceiver, udp_address

END_S = 2.0
"""How long the daemon gets, at the end, to answer what it was sent."""
_AT_ONCE = 16


def ingest(
    udp: Annotated[
        str,
        typer.Option(
            "--udp",
            metavar="[HOST]:PORT",
            help="Where to listen. Without a host, for packets of this machine alone; 0.0.0.0 is every interface.",
        ),
    ] = ":5005",
    server: ServerOption = DEFAULT_SERVER,
    model: RemoteModelOption = "",
    method: MethodOption = "input_x_gradient",
    target: TargetOption = "",
    output: OutputOption = "",
    param: ParameterOption = None,
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    buffer: Annotated[
        int, typer.Option("--buffer", min=1, max=1_000_000, help="Frames kept for a daemon that is slow or away.")
    ] = 4096,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="Append what comes to this recording, which replay reads.", show_default=False),
    ] = None,
    print_explanations: Annotated[bool, typer.Option("--print-explanations", help="Write every explanation.")] = False,
    status_every: Annotated[
        float, typer.Option("--status-every", min=0.1, metavar="SECONDS", help="Seconds from one status to the next.")
    ] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Write JSON lines to stdout.")] = False,
) -> None:
    """Receive CSI that nodes send over UDP (ADR-018), and forward it to a daemon, until stopped.

    What is not CSI is counted by kind. A daemon that is slow or away never holds up the socket.

    Example:  tonescope ingest --udp 0.0.0.0:5005 --model people_count

    Example:  tonescope ingest --udp :5005 --record today.csi.jsonl --json --print-explanations
    """
    if normalise == "recording":
        raise ParameterError("--normalise: expected none, manifest or running for a live source, got recording")
    host, port = udp_address(udp)
    asked = Asked(
        server,
        model,
        buffer,
        {
            "method": method,
            "target": parse_target(target, output, tonescope.Target),
            "parameters": parse_parameters(param),
            "normalise": normalise,
            "hop_frames": hop,
        },
    )
    with contextlib.ExitStack() as stack:
        receiver = UdpReceiver(host, port, buffer)
        stack.callback(receiver.stop)
        recorder = stack.enter_context(Recorder(record)) if record is not None else None
        with our_errors():
            asyncio.run(_Gateway(asked, receiver, recorder, json, print_explanations, status_every).run())


@dataclass
class Asked:
    """Which daemon, and what of it: ``opening`` is what the live stream is opened with, an empty model its only one."""

    server: str
    model: str
    buffer: int
    opening: dict[str, Any]

    async def open(self, client: tonescope.aio.AsyncClient, on_connection: OnConnection) -> AsyncLiveStream:
        """Open a live stream.

        Raises:
            UnknownModelError: no model was named, and the daemon has none or several.
        """
        self.model = self.model or only_model(await client.models(), self.server)
        return client.live(
            model=self.model, buffer=self.buffer, retry=RETRY, on_connection=on_connection, **self.opening
        )


class _Gateway:
    """One run of the command."""

    def __init__(
        self,
        asked: Asked,
        receiver: UdpReceiver,
        recorder: Recorder | None,
        as_json: bool,
        explanations: bool,
        status_every_s: float,
    ) -> None:
        self._asked, self._receiver, self._recorder = asked, receiver, recorder
        self._as_json, self._explanations = as_json, explanations
        self._status_every_s = status_every_s
        self._traffic = Traffic()
        self._failure: ConfigurationError | None = None

    async def run(self) -> None:
        """Receive and forward until a signal.

        Raises:
            TonescopeError: the daemon refuses the stream at its first opening; or the recording could not be written.
        """
        stop, arrived = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        speaker = Speaker(self._as_json, self._explanations, stop.set)
        async with tonescope.aio.connect(self._asked.server) as client:
            forwarder = Forwarder(
                lambda told: self._asked.open(client, told),
                self._asked.server,
                self._asked.buffer,
                speaker.heard,
                speaker.said,
            )
            report = Report(self._traffic, self._receiver, forwarder, self._recorder)
            began = time.monotonic()
            self._receiver.start(lambda: loop.call_soon_threadsafe(arrived.set))
            self._say_listening(speaker)
            forwarding = asyncio.create_task(forwarder.run())
            taking = asyncio.create_task(self._take(arrived, forwarder))
            telling = asyncio.create_task(self._tell(report, forwarder, speaker))
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({stopping, forwarding, taking, telling}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._receiver.stop()
                await _ended(telling, stopping, taking)
                while self._take_some(forwarder):
                    pass
                await self._finish(forwarder, forwarding, stop)
            forwarder.tell_notices()
            counted = report.totals()
            seconds = time.monotonic() - began
            speaker.event(
                "summary",
                {**counted, "seconds": round(seconds, 3), "daemon": forwarder.summary},
                summary_lines(counted, seconds),
            )
        for failure in (_error_of(taking), _error_of(telling), self._failure):
            if failure is not None:
                raise failure

    def _say_listening(self, speaker: Speaker) -> None:
        address, server = self._receiver.address, self._asked.server
        reach = ", for packets of this machine alone" if self._receiver.is_loopback else ""
        text = f"tonescope: listening on {address} (UDP){reach}; forwarding to {server}"
        speaker.event("listening", {"udp": address, "server": server}, text)

    async def _take(self, arrived: asyncio.Event, forwarder: Forwarder) -> None:
        while True:
            await arrived.wait()
            arrived.clear()
            while self._take_some(forwarder):
                await asyncio.sleep(0)  # the daemon's answers have their turn, too

    def _take_some(self, forwarder: Forwarder) -> int:
        """Take some of the packets that wait: count, record and forward them; say how many there were."""
        packets = self._receiver.take(_AT_ONCE)
        for packet in packets:
            taken = self._traffic.take(packet)
            self._record(packet, taken)
            if isinstance(taken, Frame):
                forwarder.give(
                    tonescope.Frame(
                        raw=packet.data, format=adr018.NAME, node_id=taken.node_id, capture_time_ns=packet.time_ns
                    )
                )
        return len(packets)

    def _record(self, packet: Any, taken: Frame | str) -> None:
        """Record a packet. A file that cannot be written ends the recording, and not the gateway."""
        if self._recorder is None or self._failure is not None:
            return
        try:
            self._recorder.write(packet, taken)
        except ConfigurationError as error:
            self._failure = error
            remark(f"{error}; nothing more is recorded")

    async def _tell(self, report: Report, forwarder: Forwarder, speaker: Speaker) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(self._status_every_s)
            now = time.monotonic()
            forwarder.tell_notices()
            for node, hosts in self._traffic.moved.items():
                remark(f"node {node} is heard from {', '.join(hosts)}: two devices with one node id are told as one")
            self._traffic.moved.clear()
            counted = report.status(now - last)
            speaker.event("status", {**counted, "seconds": round(now - last, 3)}, status_line(counted))
            last = now

    async def _finish(self, forwarder: Forwarder, forwarding: asyncio.Task[None], stop: asyncio.Event) -> None:
        """Let the daemon answer what it was sent; not for long, and not after a second signal."""
        stop.clear()
        again = asyncio.create_task(stop.wait())
        if forwarder.connected:
            forwarder.close()
            await asyncio.wait({forwarding, again}, timeout=END_S, return_when=asyncio.FIRST_COMPLETED)
        await _ended(again, forwarding)
        failure = _error_of(forwarding)
        if failure is not None:
            raise failure


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()
