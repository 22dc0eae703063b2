"""A recording played again: its frames at their own pace, faster, or as fast as they go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import tonescope
from tonescope.results import Notice, Summary
from tonescope_server.cli.recordings import frames_for_daemon
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import ParameterError

GAPS = "GAPS"  # the code of a daemon's notice


@dataclass
class Played:
    """What was played so far.

    Attributes:
        sent: by node, frames by their number of tones.
        skipped: by node, records without a usable frame, by kind.
        messages: what was sent for them: one for each antenna, where windows are of one antenna each.
        edges: how often one sample ended and the next began, in a file of samples that each hold a window. Their
            numbers leave a gap there, which to a daemon looks as if frames were missing.
    """

    sent: dict[int, Counter[int]] = field(default_factory=dict)
    skipped: dict[int | None, Counter[str]] = field(default_factory=dict)
    messages: int = 0
    edges: int = 0
    _sample: int | None = None

    def take(self, frame: Frame) -> None:
        """Take note of a frame."""
        self.sent.setdefault(frame.node_id, Counter())[frame.n_tones] += 1
        sample = frame.header.get("line")
        self.edges += self._sample is not None and sample != self._sample
        self._sample = sample

    def gaps(self, summary: Summary) -> int:
        """Return at how many places frames are missing, of those that a daemon counted."""
        return max(0, summary.gaps - self.edges)

    def told(self, notices: Iterable[Notice], summary: Summary | None = None) -> list[Notice]:
        """Leave out the notice of gaps where all that are known are edges of samples."""
        known = self.edges and (summary is None or not self.gaps(summary))
        return [each for each in notices if not (known and each.code == GAPS)]

    @property
    def frames(self) -> int:
        """Count the frames of all nodes."""
        return sum(lengths.total() for lengths in self.sent.values())

    @property
    def skipped_of_all(self) -> Counter[str]:
        """The same of all nodes together."""
        return sum(self.skipped.values(), Counter[str]())


def play(
    recording: Iterable[Frame | Skipped],
    speed: float,
    played: Played,
    tick: Callable[[], None] = lambda: None,
    nodes: frozenset[int] = frozenset(),
    wait: Callable[[float], object] = time.sleep,
    whole: bool = False,
) -> Iterator[tonescope.Frame]:
    """Yield the frames of a recording when they are due.

    Args:
        recording: frames, with the records that are none.
        speed: how many times faster than recorded; 0 means as fast as possible. Frames without a time come at once.
        played: filled in on the way.
        tick: called for every record.
        nodes: only these; empty means all.
        wait: sleeps.
        whole: whether frames of several antennas stay whole.
    """
    clock = _Clock(speed, wait)
    for item in recording:
        tick()
        if nodes and item.node_id not in nodes:
            continue
        if isinstance(item, Skipped):
            played.skipped.setdefault(item.node_id, Counter())[item.kind] += 1
            continue
        clock.wait_for(item.capture_time_ns)
        played.take(item)
        for message in frames_for_daemon(item, whole):
            played.messages += 1
            yield message


class _Clock:
    def __init__(self, speed: float, wait: Callable[[float], object]) -> None:
        self._speed = speed
        self._wait = wait
        self._start: tuple[int, float] | None = None

    def wait_for(self, capture_time_ns: int | None) -> None:
        if not self._speed or capture_time_ns is None:
            return
        now = time.monotonic()
        if self._start is None:
            self._start = capture_time_ns, now
        due = self._start[1] + (capture_time_ns - self._start[0]) * 1e-9 / self._speed
        if due > now:
            self._wait(due - now)


def speed_of(speed: float, as_fast_as_possible: bool) -> float:
    """Read the two options about pace as one number.

    Raises:
        ParameterError: a speed that is none.
    """
    if as_fast_as_possible:
        return 0.0
    if not 0 < speed < float("inf"):
        raise ParameterError(f"--speed: expected a number above 0, got {speed:g}")
    return speed
