"""How things are timed, and what a measurement says. What is measured lives in the files beside this one."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Timed = Callable[[int], Sequence[float]]
"""Does its work n times and returns the seconds that each time took."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        ours: the product's figure, with its unit.
        peer: the other side's figure, and whose it is; "" where the product is not compared with anything.
        ratio: as it is judged; "" where there is none.
        aim: what it should be; "" for a line that is there to be read.
        met: whether it is; None where there is no aim, or nothing was measured.
    """

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    aim: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Section:
    """What one file of measurements has to say.

    Attributes:
        rows: its lines of the table.
        notes: what exactly was compared with what, for the reader of the report.
    """

    rows: Sequence[Row]
    notes: str


def local(call: Callable[[], object]) -> Timed:
    """Make a call of this process timed."""

    def samples(times: int) -> list[float]:
        found = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
        return found

    return samples


def medians(timed: Mapping[str, Timed], *, rounds: int, times: int) -> dict[str, float]:
    """Return the median seconds of each, taken turn by turn, so that a busy moment falls on all of them."""
    for each in timed.values():
        each(max(times // 2, 1))  # warm
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, each in timed.items():
            found[name] += each(times)
    return {name: statistics.median(samples) for name, samples in found.items()}


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the smallest sample that is at least as large as a share ``q`` of them."""
    ordered = sorted(samples)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def cores() -> tuple[int, int]:
    """Return two cores that this process may use: one for a server, one for its client. They may be the same."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and those that it starts, on one core: both sides of a comparison get the same one."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def microseconds(seconds: float) -> str:
    """Write a short time."""
    return f"{seconds * 1e6:.0f} µs"


def milliseconds(seconds: float) -> str:
    """Write a longer time."""
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.1 else f"{seconds * 1e3:,.0f} ms"
