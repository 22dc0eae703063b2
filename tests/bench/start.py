"""(d) From the start of the process to the first explanation, and the memory of a daemon that has been at work."""

from __future__ import annotations

import statistics
import time

import numpy as np

import tonescope
from tests.bench.daemon import Daemon
from tests.bench.measure import Row, Section
from tests.bench.subject import bundled
from tonescope_server.demo import store_path

AIM_START_S, AIM_RESIDENT_MB = 2.0, 250
STARTS, WINDOWS = 5, 1000


def measure() -> Section:
    """Start daemons, and let the last one work."""
    subject = bundled()
    one = subject.windows[:1]
    starts, ready = [], []
    for _ in range(STARTS):
        with Daemon(store_path()) as daemon:
            ready.append(time.perf_counter() - daemon.started)
            with tonescope.connect(daemon.address) as client:
                client.explain(one, model="people_count")
            starts.append(time.perf_counter() - daemon.started)
    with Daemon(store_path()) as daemon, tonescope.connect(daemon.address) as client:
        idle = daemon.resident_bytes() / 1e6
        many = np.tile(subject.windows, (-(-WINDOWS // len(subject.windows)), 1, 1))[:WINDOWS]
        with client.live(windows=iter(many), model="people_count", overload="back_pressure") as stream:
            answered = sum(1 for _ in stream)
        resident = daemon.resident_bytes() / 1e6
    if answered != WINDOWS:
        raise RuntimeError(f"expected {WINDOWS} explanations, got {answered}")
    start = statistics.median(starts)
    rows = [
        Row(
            "(d) process start → first explanation",
            f"{start:.2f} s (listening after {statistics.median(ready):.2f})",
            aim=f"≤ {AIM_START_S:g} s",
            met=start <= AIM_START_S,
        ),
        Row(
            f"… resident after {WINDOWS:,} windows",
            f"{resident:.0f} MB ({idle:.0f} before the first)",
            aim=f"≤ {AIM_RESIDENT_MB} MB",
            met=resident <= AIM_RESIDENT_MB,
        ),
    ]
    return Section(rows, _notes())


def _notes() -> str:
    return (
        "`tonescope serve` as a process on the bundled store, any core, files in the system's cache. The client waits "
        "for the line that names the port, and asks at once; the first answer pays for loading and compiling the "
        f"model. Median of {STARTS} starts. Memory is VmRSS after one live stream of {WINDOWS:,} windows, in 10⁶ bytes."
    )
