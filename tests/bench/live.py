"""(c) Live windows through a daemon: its latency, its rate, and what a window costs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.daemon import Daemon
from tests.bench.load import Spec
from tests.bench.measure import Row, Section, cores, milliseconds, quantile
from tests.bench.subject import Subject, count_net

AIM_P50_S = 0.5e-3
STREAMS, RATE_HZ, SECONDS = 200, 20, 10
MODEL = "count_net"
PIPELINED, BATCH = 64, 10


@dataclass(frozen=True)
class Result:
    """What one load found."""

    p50_s: float
    p99_s: float
    per_s: float
    cpu_us: float
    answered: int
    dropped: int
    problems: int
    client_core: float
    late_p99_s: float

    def __str__(self) -> str:
        return f"p50 {milliseconds(self.p50_s)}, p99 {milliseconds(self.p99_s)}"

    @property
    def rate(self) -> str:
        """Write what went through, and what a window cost the daemon."""
        return f"{self.per_s:,.0f} windows/s, {self.cpu_us:.0f} µs CPU each"


def measure() -> Section:
    """Put four loads on one daemon."""
    subject = count_net()
    with _served(subject) as (daemon, windows):
        load(daemon, windows, in_flight=1, seconds=1)  # warm
        alone = load(daemon, windows, in_flight=1, seconds=5)
        one = load(daemon, windows, in_flight=PIPELINED, seconds=5)
        batched = load(daemon, windows, in_flight=2, per_message=BATCH, seconds=5)
        many = load(daemon, windows, streams=STREAMS, rate_hz=RATE_HZ, seconds=SECONDS)
    lost = f"{many.dropped + many.problems} of {many.answered + many.dropped:,} lost"
    rows = [
        Row(
            "(c) live, one window in flight",
            f"{alone}; {alone.cpu_us:.0f} µs CPU each",
            aim="p50 ≤ 0.5 ms",
            met=alone.p50_s <= AIM_P50_S,
        ),
        Row(f"… one stream, {PIPELINED} in flight", one.rate),
        Row(f"… one stream, {BATCH} windows a message", batched.rate),
        Row(f"… {STREAMS} streams × {RATE_HZ} windows/s", f"{many}; {lost}"),
        Row("… and what they cost", many.rate),
    ]
    return Section(rows, _notes(subject, many))


def load(daemon: Daemon, windows: Path, **asked: Any) -> Result:
    """Put a load on the daemon from a process on the other core."""
    spec = Spec(daemon.address, MODEL, str(windows), core=cores()[1], **asked)
    command = [sys.executable, "-m", "tests.bench.load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        print(json.dumps(asdict(spec)), file=client.stdin, flush=True)
        if not client.stdout.readline():
            raise RuntimeError("the client could not open its streams: its error is above")
        before = daemon.cpu_s()
        print(file=client.stdin, flush=True)
        found = json.loads(client.stdout.readline())
        spent = daemon.cpu_s() - before
    return Result(
        p50_s=quantile(found["latency_s"], 0.5),
        p99_s=quantile(found["latency_s"], 0.99),
        per_s=found["answered"] / found["seconds"],
        cpu_us=spent / found["answered"] * 1e6,
        answered=found["answered"],
        dropped=found["dropped"],
        problems=found["problems"],
        client_core=found["client_core"],
        late_p99_s=quantile(found["late_s"], 0.99) if found["late_s"] else 0.0,
    )


@contextmanager
def _served(subject: Subject) -> Iterator[tuple[Daemon, Path]]:
    """Serve the model, the only one of its store, and lay the windows ready for the client."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = root / "store" / MODEL
        if subject.path.is_dir():
            shutil.copytree(subject.path, model)
        else:
            model.mkdir(parents=True)
            shutil.copy(subject.path, model)
        windows = root / "windows.npy"
        np.save(windows, subject.windows)
        with Daemon(root / "store", core=cores()[0]) as daemon:
            yield daemon, windows


def _notes(subject: Subject, many: Result) -> str:
    server, client = cores()
    where = "the other core" if server != client else "the same core, for there is no other"
    return (
        f"Model and windows: {subject.said}. One daemon process on one core, its client on {where}; raw gRPC in the "
        "client, one connection a stream, one window a message unless said, input × gradient, every field of the "
        "explanation. Latency is from send to receipt, in the client; with many streams it counts from the time a "
        f"window was due, so what the client itself was late (p99 {milliseconds(many.late_p99_s)}, its core "
        f"{many.client_core:.0%} busy) is in it. The daemon's cost is its processor time, all threads, over the "
        "windows answered."
    )
