"""A daemon to measure: started as users start it, its processor time and memory read from /proc."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Daemon:
    """``tonescope serve`` in a process of its own; use it in a ``with`` block.

    Args:
        store: the folder of models.
        core: the one core that it may use; None means any.

    Attributes:
        started: when the process was started, by ``time.perf_counter``.
        address: where it listens.
    """

    def __init__(self, store: Path, core: int | None = None, flags: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "tonescope_server.cli", "serve", "--listen", "127.0.0.1:0"]
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, "--store", str(store), "--log-level", "error", *flags], stdout=subprocess.PIPE, text=True
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})
        self.address = self._address()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)

    def cpu_s(self) -> float:
        """Return the processor time that the process has used, all threads, user and system."""
        fields = (Path("/proc") / str(self._process.pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def resident_bytes(self) -> int:
        """Return the resident memory."""
        status = (Path("/proc") / str(self._process.pid) / "status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def _address(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        found = re.search(r"listening on (\S+)", said)
        if found is None:
            raise RuntimeError(f"the daemon did not start: it said {said!r}; its error is above")
        return found[1]
