"""What became of a recording's frames and records: counted, in one line for people and one section for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tonescope_server.cli.console import listed, remark
from tonescope_server.csi.frames import Frame, Skipped

# Of so many kinds, the first record that was passed over is told as well: where it is, and what is wrong with it.
_TOLD = 3


def antennas(frames: int, sent: int) -> str:
    """Say what a daemon's frames are, where each antenna was sent by itself; "" where they are those of the file."""
    return f" of one antenna each ({frames} of several)" if sent > frames else ""


@dataclass
class Counted:
    """Counts of one recording.

    Attributes:
        frames: in the file; ``used`` of them entered a window, or a stream that was too short for one.
        skipped: the frames that did not, by kind.
        records: without a usable frame, by kind; ``first``: what was wrong with the first of each.
        windows: made of them.
        gaps: places where frames are missing; where a file holds samples, their edges are none.
        sent: what a daemon was sent for the frames, one for each antenna of some; 0 where no daemon had a part in it.
    """

    frames: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    windows: int = 0
    gaps: int = 0
    sent: int = 0
    _edges: int = 0
    _sample: int | None = None

    def frames_of(self, recording: Iterable[Frame | Skipped]) -> Iterator[Frame]:
        """Read a recording's frames, and count what is none."""
        for item in recording:
            if isinstance(item, Skipped):
                self.records[item.kind] += 1
                self.first.setdefault(item.kind, item.message)
                continue
            self.frames += 1
            sample = item.header.get("line")
            self._edges += self.frames > 1 and sample != self._sample
            self._sample = sample
            yield item

    def close(self, used: int, skipped: Mapping[str, int], windows: int, gaps: int) -> None:
        """Take what the windows' maker counted."""
        self.used, self.skipped, self.windows = used, Counter(skipped), windows
        self.gaps = max(0, gaps - self._edges)

    @property
    def text(self) -> str:
        """Say it in one line."""
        records = f"; records without a frame: {listed(self.records)}" if self.records else ""
        told = [self.first[kind] for kind, _ in self.records.most_common(_TOLD)]
        # That a record is of another kind, its count says already.
        others = tuple(f"got {kind}" for kind in self.records)
        first = "".join(f"; {each}" for each in told if each and not each.endswith(others))
        frames = f"{self.sent or self.frames} frames{antennas(self.frames, self.sent)}"
        return (
            f"{self.used} of {frames} used (skipped: {listed(self.skipped)}), "
            f"{self.windows} windows, {self.gaps} gaps{records}{first}"
        )

    def say(self, name: str) -> None:
        """Say it on the side, where there is anything that a reader of the results would not know."""
        if self.skipped or self.records or self.gaps:
            remark(f"{name}: {self.text}")

    @property
    def section(self) -> dict[str, Any]:
        """The section ``recording`` of a report."""
        return {
            "frames": self.frames,
            "frames_sent": self.sent or None,
            "frames_used": self.used,
            "frames_skipped": dict(self.skipped),
            "records_skipped": dict(self.records),
            "windows": self.windows,
            "gaps": self.gaps,
        }
