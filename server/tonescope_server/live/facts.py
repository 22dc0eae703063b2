"""What every frame of a stream leaves behind, in bounded memory: a mark of its values, its power, its time.

Checks of single tones look at samples of a stream. Copies, steps of gain and a wrong rate can be told from these
three, so they are found wherever in the stream they are. Frames are taken in a block at a time, in numpy: a frame
costs about a microsecond.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.checks import Declared, Finding, Series
from tonescope_server.checks.copies import Copies, Marks, marks_of
from tonescope_server.checks.frames import check_rate
from tonescope_server.checks.gain import GAIN_STEPS, SMALLEST_RATIO, SMALLEST_STEP_DB, SPAN, check_gain
from tonescope_server.checks.series import Float64Array
from tonescope_server.csi.frames import Frame
from tonescope_server.types import FloatArray

MOST_FACTS = 4096  # frames; the latest, of those that no look has seen
FEWEST_FACTS = 32  # frames: fewer wait for the next look
LATEST = 128  # frames
CARRIED = 2 * SPAN - 1  # frames: a step has enough frames on both sides in one block or in the next, and never in both
LARGEST_BLOCKS = 8 * 256 * 64  # values: of the blocks in which the level jumps, those that are kept for a look
DB = 10.0


class FrameFacts:
    """Facts of the frames of one node, transmitter and shape.

    Args:
        node_id: the node.
    """

    def __init__(self, node_id: int) -> None:
        self._node_id = node_id
        self._chunks: deque[tuple[Marks, Float64Array, Float64Array]] = deque()
        self._count = 0
        self._tail: FloatArray | None = None
        self._tail_db: Float64Array = np.zeros(0)
        self._jumps: list[tuple[float, FloatArray]] = []
        self._start_db: float | None = None

    def take(self, frames: Sequence[Frame]) -> None:
        """Take frames of one shape in, in order."""
        values = np.concatenate([frame.values for frame in frames]).reshape(len(frames), -1)
        power = _power(values)
        sound = np.isfinite(power)
        # A time that is not known is further from all others than any pause.
        time_s = np.array([np.nan if (t := f.capture_time_ns) is None else t for f in frames], dtype=np.float64) / 1e9
        if not sound.all():
            values, power, time_s = values[sound], power[sound], time_s[sound]
        if not len(values):
            return
        self._chunks.append((marks_of(values), power, time_s))
        self._count += len(values)
        while self._count - len(self._chunks[0][0]) >= MOST_FACTS:
            self._count -= len(self._chunks.popleft()[0])
        self._note_jumps(values, power)

    def _note_jumps(self, values: npt.NDArray[Any], power: Float64Array) -> None:
        """Keep a block in which the level jumps, for a look at its tones; of many, those with the largest jumps."""
        level_db = DB * np.log10(np.maximum(power, 1e-12))
        whole_db = np.concatenate([self._tail_db, level_db])
        change = np.abs(np.diff(whole_db))
        largest = float(change.max()) if len(change) else 0.0
        # The median, which costs more, decides only where there may be a step at all.
        if largest > 0.7 * SMALLEST_STEP_DB and largest > 0.7 * SMALLEST_RATIO * 1.4826 * float(np.median(change)):
            amplitude = _amplitude(values)
            block = amplitude if self._tail is None else np.concatenate([self._tail, amplitude])
            self._jumps.append((largest, block))
            self._jumps.sort(key=lambda jump: -jump[0])
            while len(self._jumps) > 1 and sum(kept.size for _, kept in self._jumps) > LARGEST_BLOCKS:
                self._jumps.pop()
        self._tail, self._tail_db = _amplitude(values[-CARRIED:].copy()), level_db[-CARRIED:].copy()

    def since(self) -> Seen | None:
        """Return what came since the last call that returned as many as ``FEWEST_FACTS``; None for nothing."""
        if not self._chunks:
            return None
        marks, power, time_s = (np.concatenate(each) for each in zip(*self._chunks, strict=True))
        level_db = DB * float(np.log10(max(float(np.median(power[-LATEST:])), 1e-12)))
        if self._start_db is None and len(marks) >= FEWEST_FACTS:
            self._start_db = DB * float(np.log10(max(float(np.median(power[:FEWEST_FACTS])), 1e-12)))
        moved_db = 0.0 if self._start_db is None else level_db - self._start_db
        seen = Seen(self._node_id, marks, power, time_s, [block for _, block in self._jumps], moved_db)
        if len(marks) >= FEWEST_FACTS:
            self._chunks.clear()
            self._jumps.clear()
            self._count = 0
        return seen


class Seen:
    """What is known of frames that came in a row.

    Args:
        node_id: the node.
        marks, power, time_s: of each frame; times NaN where not known.
        jumps: amplitudes of the blocks of frames in which the level jumps.
        moved_db: how much stronger the latest ``LATEST`` frames are than the stream's first ``FEWEST_FACTS``.
    """

    def __init__(
        self,
        node_id: int,
        marks: Marks,
        power: Float64Array,
        time_s: Float64Array,
        jumps: Sequence[FloatArray],
        moved_db: float,
    ) -> None:
        self.node_id = node_id
        self.moved_db = moved_db
        follows = np.arange(len(marks)) > 0
        known = None if np.isnan(time_s).all() else time_s
        nothing = np.zeros((len(marks), 0), dtype=np.float32)
        self._series = Series(nothing, np.zeros(0, dtype=np.int64), follows, (node_id, "", 0, 0), known)
        self._copies = Copies.among(marks, np.asarray(power == 0), follows)
        self._jumps = jumps

    def __len__(self) -> int:
        return len(self._series)

    def findings(self, declared: Declared) -> list[Finding]:
        """Tell copies, a wrong rate and steps of gain."""
        found = self._copies.findings(self.node_id)
        once = self._series.only(~self._copies.any) if found else self._series
        found += check_rate(self._series, declared, once)
        return found + self._steps()

    def _steps(self) -> list[Finding]:
        steps = [each for block in self._jumps for each in _steps_in(block, self.node_id)]
        if not steps:
            return []
        largest = max(steps, key=lambda step: step.figures["largest_step_db"])
        number = sum(step.figures["steps"] for step in steps)
        message = (
            f"the level of all tones jumps {number:.0f} times at once, by up to "
            f"{largest.figures['largest_step_db']:.1f} dB: steps of the receiver's gain, which look like motion"
        )
        return [replace(largest, message=message, figures={**largest.figures, "steps": number})]


def _steps_in(amplitude: FloatArray, node_id: int) -> Iterable[Finding]:
    n = len(amplitude)
    series = Series(amplitude, np.arange(amplitude.shape[1]), np.arange(n) > 0, (node_id, "", 0, amplitude.shape[1]))
    # Rows that are null are constant, and need no table to be left out.
    found, _ = check_gain(series, np.zeros(amplitude.shape[1], dtype=np.bool_))
    return (finding for finding in found if finding.code == GAIN_STEPS)


def _amplitude(values: npt.NDArray[Any]) -> FloatArray:
    modulus = np.abs(values) if values.dtype.kind == "c" else values
    return modulus.astype(np.float32, copy=False)


def _power(values: npt.NDArray[Any]) -> Float64Array:
    parts = values.view(values.real.dtype) if values.dtype.kind == "c" else values
    power: Float64Array = np.einsum("ij,ij->i", parts, parts).astype(np.float64)
    return power
