"""Daemons in processes of their own, which tests may kill and start again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest


class Daemon:
    """A daemon that can be killed and started again on the same port."""

    def __init__(self, store: Path, port: int = 0, *flags: str) -> None:
        self.store = store
        self.flags = flags
        self.address = f"127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tonescope_server.cli", "serve", "--listen", self.address]
        self.process = subprocess.Popen(
            [*command, "--store", str(self.store), "--log-level", "error", *self.flags],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "listening on" not in line:
            self.stop(signal.SIGKILL)
            pytest.fail(f"the daemon did not start: {line!r}")
        self.address = line.split()[-1]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
