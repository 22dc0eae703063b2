"""Gateways in processes of their own, and nodes that send to them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tonescope_server.csi.decoders.adr018 import encode

COMMAND = [sys.executable, "-m", "tonescope_server.cli", "ingest"]
Event = dict[str, Any]


class Gateway:
    """A gateway on a free port, whose JSON lines are read as they come."""

    def __init__(self, server: str, *flags: object) -> None:
        asked = ["--udp", ":0", "--server", server, "--json", "--status-every", "0.1", *map(str, flags)]
        self.process = subprocess.Popen(
            [*COMMAND, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.events: list[Event] = []
        self.errors = ""
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for each in self._threads:
            each.start()
        port = self.wait(lambda: next(iter(self.named("listening")), None))["udp"].rpartition(":")[2]
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", int(port)))
        self.sent = 0

    def send(self, *packets: bytes, pause_s: float = 0.0) -> None:
        """Send packets; with a pause after every one of them."""
        for packet in packets:
            self._socket.send(packet)
            time.sleep(pause_s)
        self.sent += len(packets)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def wait(self, what: Callable[[], Any], timeout_s: float = 30) -> Any:
        """Wait until ``what`` is true of the events, and return it."""
        with self._changed:
            if not self._changed.wait_for(what, timeout_s):
                pytest.fail(f"not in time; last: {self.events[-1:]}; stderr: {self.errors}")
            return what()

    def wait_for_status(self, what: Callable[[Event], bool], timeout_s: float = 30) -> Event:
        def newest() -> Event | None:
            statuses = self.named("status")
            return statuses[-1] if statuses and what(statuses[-1]) else None

        found: Event = self.wait(newest, timeout_s)
        return found

    def connections(self) -> list[bool]:
        return [event["connected"] for event in self.named("connection")]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> Event:
        """Stop it, and return its summary; it must end well."""
        self.process.send_signal(how)
        assert self.process.wait(20) == 0, self.errors
        self._join()
        assert "Traceback" not in self.errors
        (summary,) = self.named("summary")
        assert self.events[-1] is summary
        return summary

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._join()
        self._socket.close()

    def _join(self) -> None:
        for each in self._threads:
            each.join(10)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._changed:
                    self.events.append(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.errors += line


def amplitudes(n: int) -> np.ndarray:
    """Real channel values that int8 holds as they are: 56 tones, as the tiny model takes them."""
    return np.random.default_rng(5).integers(1, 100, (n, 56)).astype(np.float32)


def packets(n: int, node: int = 1, start: int = 0) -> list[bytes]:
    """Packets number ``start`` up to ``n``, as one node would send them."""
    values = amplitudes(n)
    return [encode(values[i], node_id=node, sequence=i, rssi_dbm=-50) for i in range(start, n)]


def answered(gateway: Gateway, node: int = 1) -> list[tuple[int, int]]:
    """Return the windows of a node that were explained, in the order in which they came."""
    return [
        (event["first_sequence"], event["last_sequence"])
        for event in gateway.named("explanation")
        if event["node_id"] == node and "problem" not in event
    ]
