"""Sliding windows over frames: one ring a stream, and the rules for gaps, duplicates and mixed lengths.

A stream is one transmitter heard by one antenna of one node, or, for windows of several links, by all of them, in
frames of one length: streams never share a window. A source is one transmitter heard by one node. Its frames have one
counter, whatever their lengths and antennas, so the rules for sequence numbers are the source's. What a frame's values
become is in ``quantities``; what a model does with a window is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.quantities import FrameReader
from tonescope_server.csi.tones import ToneTable
from tonescope_server.errors import ParameterError
from tonescope_server.types import FloatArray

# How far behind a point of resumption a frame may lie and still be known: further behind, the source counts anew.
RESUME_SPAN = 10_000
_FROM_THE_FIRST: Mapping[tuple[int, int], int] = {}
TOO_MANY = "too_many_streams"
_SEQUENCE_PERIOD = 1 << 32

_KNOWN = "known"

SourceKey = tuple[int, str]
StreamKey = tuple[int, str, int, int]
"""Node, transmitter, antenna, and tones of a frame as it came; 0 tones for windows that were sent as such."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Consecutive frames of one stream.

    Shapes:
        frames: amplitudes, or what the reader read: float32 ``[n_frames, n_columns]``, the window's own memory.

    Attributes:
        node_id: the receiving node.
        transmitter: the sender; "" where the format names none.
        first_sequence: sequence number of the oldest frame.
        last_sequence: sequence number of the newest frame.
        capture_time_ns: when the newest frame was taken, nanoseconds since the Unix epoch; None where not known.
        index: 0, 1, … within the stream.
        rx: the antenna of the node; None where frames have one, and where a window holds several links.
        frame_length: tones of the frames as they came; where it is more than the window has, it holds the first ones.
    """

    frames: FloatArray
    node_id: int
    transmitter: str
    first_sequence: int
    last_sequence: int
    capture_time_ns: int | None
    index: int
    rx: int | None = None
    frame_length: int = 0

    @property
    def key(self) -> StreamKey:
        """Name the stream: node, transmitter, antenna, length of its frames."""
        return (self.node_id, self.transmitter, self.rx or 0, self.frame_length)


@dataclass
class WindowCounts:
    """What became of the frames.

    Attributes:
        frames: frames that entered a window, each once whatever its antennas.
        windows: windows emitted.
        skipped: frames and records passed over, by kind (``"length_192"``, ``"non_finite"``, ``"vitals"``,
            …); as ``"antenna_non_finite"``, …, frames that are used but for some of their antennas.
        gaps: places where sequence numbers are missing; where several sources of one node miss the same numbers (its
            antennas, sent one by one), that is one place.
        missing: sequence numbers missing at those places.
        known: frames before those that a resumed stream begins with.
        duplicates: frames dropped because their sequence number was the last one seen.
        reordered: frames dropped because a newer one had been seen.
        restarts: times a source's streams began again, after a gap too wide or as it restarted.
    """

    frames: int = 0
    windows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    missing: int = 0
    known: int = 0
    duplicates: int = 0
    reordered: int = 0
    restarts: int = 0


class _Stream:
    """The ring of one stream. Each row is stored twice, so that any window is one contiguous slice."""

    __slots__ = ("filled", "index", "position", "rows", "sequences", "until_next")

    def __init__(self, n_frames: int, n_tones: int) -> None:
        self.rows = np.empty((2 * n_frames, n_tones), dtype=np.float32)
        self.sequences = [0] * n_frames
        self.index = 0
        self.restart()

    def restart(self) -> None:
        self.position = self.filled = self.until_next = 0


@dataclass(slots=True)
class _Source:
    """One counter of frames, and a stream for each antenna and length that they have."""

    last: int | None = None
    streams: dict[tuple[int, int], _Stream] = field(default_factory=dict)


def accepted_lengths(table: ToneTable) -> tuple[int, ...]:
    """List the frame lengths whose first rows are the table's rows.

    ``ruview56`` is the start of a 64-tone LLTF frame, so both lengths serve it; frames of 128 and 192 tones
    also start with one, but at another gain, so they are left out unless asked for.
    """
    return (56, 64) if table.id == "ruview56" else (len(table),)


class Windower:
    """Cut streams of frames into windows.

    A window is emitted as soon as a stream holds ``window_frames`` frames, then every ``hop_frames`` frames.
    Rules, each one counted:

    - a frame of a length not in ``accept`` is skipped as ``length_<n>``, one with NaN or infinity as
      ``non_finite``; both keep their place in the sequence, so they make no gap;
    - frames of several accepted lengths, and of several antennas, make windows of their own, and no gaps for each
      other;
    - one that the reader cannot read, as the word it gives: ``no_phase``, ``links_<n>``;
    - the same sequence number as the last: a duplicate, dropped;
    - up to ``reorder_span`` behind the last: reordered, dropped;
    - further behind: the source restarted, so its streams begin again (a counter of 32 bits that wraps did
      not);
    - a gap of up to ``max_gap`` missing numbers is bridged; a wider one begins the source's streams again, so that
      with the default of 0 no window spans a gap;
    - frames without a sequence number are numbered here, one after the other;
    - streams beyond ``max_streams`` are skipped as ``too_many_streams``: memory is bounded.

    Args:
        window_frames: frames in a window.
        hop_frames: frames from one window to the next.
        n_tones: tones in a window: the first ``n_tones`` of each frame.
        accept: frame lengths taken; empty means ``n_tones`` alone. See ``accepted_lengths``.
        max_gap: missing frames a window may span.
        reorder_span: how far behind a frame may be before it means a restart.
        max_streams: streams held at most, and sources.
        starts: by node and length, the sequence number of the frame that a stream which is resumed begins with; earlier
            ones keep their place in the sequence.
        reader: what reads the values of a window off frames; None for amplitudes, each antenna by itself.

    Attributes:
        counts: what became of the frames.
        taken: the streams that the last frame entered, with the values read.

    Raises:
        ParameterError: a size below 1, a negative limit, or an accepted length shorter than ``n_tones``.
    """

    def __init__(
        self,
        window_frames: int,
        hop_frames: int,
        n_tones: int,
        *,
        accept: Collection[int] = (),
        max_gap: int = 0,
        reorder_span: int = 64,
        max_streams: int = 1024,
        starts: Mapping[tuple[int, int], int] = _FROM_THE_FIRST,
        reader: FrameReader | None = None,
    ) -> None:
        sizes = {"window_frames": window_frames, "hop_frames": hop_frames, "n_tones": n_tones}
        for name, value in {**sizes, "max_streams": max_streams}.items():
            if value < 1:
                raise ParameterError(f"{name}: expected at least 1, got {value}")
        for name, value in {"max_gap": max_gap, "reorder_span": reorder_span}.items():
            if value < 0:
                raise ParameterError(f"{name}: expected at least 0, got {value}")
        self.window_frames = window_frames
        self.hop_frames = hop_frames
        self.n_tones = n_tones
        self.accept = frozenset(accept) or frozenset({n_tones})
        if min(self.accept) < n_tones:
            raise ParameterError(f"accept: expected lengths of at least {n_tones}, got {min(self.accept)}")
        self.max_gap = max_gap
        self.reorder_span = reorder_span
        self.max_streams = max_streams
        self.counts = WindowCounts()
        self.taken: list[tuple[StreamKey, FloatArray]] = []
        self._reader = reader
        self._n_columns = n_tones if reader is None else reader.n_columns
        self._starts = starts
        self._sources: dict[SourceKey, _Source] = {}
        self._gaps: dict[int, tuple[int, int]] = {}
        self._n_streams = 0

    def push(self, frame: Frame) -> list[Window]:
        """Take one frame; give the windows it completes (one for each antenna, at most)."""
        self.taken = []
        counts = self.counts
        source = self._source((frame.node_id, frame.transmitter))
        if source is None:
            counts.skipped[TOO_MANY] += 1
            return []
        sequence = self._admit(source, frame)
        if sequence is None:
            return []
        parts = self._parts(frame)
        several = len(parts) > 1
        windows, refused = [], ""
        for rx, part in enumerate(parts):
            found = self._enter(source, frame, part, rx if several else None, sequence)
            if isinstance(found, str):
                refused = found
            elif found is not None:
                windows.append(found)
        if self.taken:
            counts.frames += 1
        if refused == _KNOWN:
            counts.known += not self.taken
        elif refused:
            counts.skipped[f"antenna_{refused}" if self.taken else refused] += 1
        return windows

    def skip(self, skipped: Skipped) -> None:
        """Count a record that is not a frame."""
        self.counts.skipped[skipped.kind] += 1

    def reset(self) -> None:
        """Forget every stream; keep the counts."""
        self._sources.clear()
        self._gaps.clear()
        self._n_streams = 0

    def _parts(self, frame: Frame) -> Sequence[npt.NDArray[Any]]:
        if self._reader is not None:
            return self._reader.parts(frame)
        return [frame.amplitude] if frame.values.ndim == 1 else frame.amplitude  # type: ignore[return-value]

    def _enter(
        self, source: _Source, frame: Frame, part: npt.NDArray[Any], rx: int | None, sequence: int
    ) -> Window | str | None:
        """Enter one antenna's values into its stream; give the window that they complete, or say why they are not."""
        key = (rx or 0, part.shape[-1])
        row = self._read(part)
        if isinstance(row, str):
            return row
        if key not in source.streams:
            start = self._starts.get((frame.node_id, key[1]), sequence)
            if 0 < start - sequence <= RESUME_SPAN:
                return _KNOWN
        stream = self._stream(source, key)
        if stream is None:
            return TOO_MANY
        self.taken.append(((frame.node_id, frame.transmitter, *key), row))
        return self._append(stream, row, sequence, frame, rx, key[1])

    def _read(self, part: npt.NDArray[Any]) -> FloatArray | str:
        """Read the values of a frame, or say in a word why it is skipped."""
        length = part.shape[-1]
        if length not in self.accept:
            return f"length_{length}"
        part = part[..., : self.n_tones]
        if not np.isfinite(part).all():
            return "non_finite"
        if self._reader is None:
            return part
        return self._reader.refusal(part) or self._reader.read(part)

    def _source(self, key: SourceKey) -> _Source | None:
        source = self._sources.get(key)
        if source is None and len(self._sources) < self.max_streams:
            source = self._sources[key] = _Source()
        return source

    def _stream(self, source: _Source, key: tuple[int, int]) -> _Stream | None:
        stream = source.streams.get(key)
        if stream is None and self._n_streams < self.max_streams:
            self._n_streams += 1
            stream = source.streams[key] = _Stream(self.window_frames, self._n_columns)
        return stream

    def _admit(self, source: _Source, frame: Frame) -> int | None:
        """Apply the rules for sequence numbers; give the frame's number, or None where it is dropped."""
        last, sequence = source.last, frame.sequence
        if last is None:
            source.last = sequence or 0
            return source.last
        if sequence is None:
            source.last = last + 1
            return source.last
        step = sequence - last
        if step < -_SEQUENCE_PERIOD // 2:
            step += _SEQUENCE_PERIOD
        if step == 0:
            self.counts.duplicates += 1
            return None
        if -self.reorder_span <= step < 0:
            self.counts.reordered += 1
            return None
        if step > 1 and self._gaps.get(frame.node_id) != (last, sequence):
            self._gaps[frame.node_id] = (last, sequence)
            self.counts.gaps += 1
            self.counts.missing += step - 1
        if step < 0 or step - 1 > self.max_gap:
            self.counts.restarts += 1
            for stream in source.streams.values():
                stream.restart()
        source.last = sequence
        return sequence

    def _append(
        self, stream: _Stream, row: FloatArray, sequence: int, frame: Frame, rx: int | None, length: int
    ) -> Window | None:
        n, at = self.window_frames, stream.position
        stream.rows[at] = row
        stream.rows[at + n] = row
        stream.sequences[at] = sequence
        stream.position = start = (at + 1) % n
        if stream.filled < n:
            stream.filled += 1
        if stream.filled < n:
            return None
        if stream.until_next > 0:
            stream.until_next -= 1
        if stream.until_next > 0:
            return None
        stream.until_next = self.hop_frames
        index = stream.index
        stream.index += 1
        self.counts.windows += 1
        return Window(
            stream.rows[start : start + n].copy(),
            frame.node_id,
            frame.transmitter,
            stream.sequences[start],
            sequence,
            frame.unix_time_ns,
            index,
            rx,
            length,
        )
