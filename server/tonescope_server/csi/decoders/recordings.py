"""RuView's files: JSON-lines recordings of raw I/Q or amplitudes, and paired files with key points.

A paired file holds whole windows under a declared shape; how its buffer is really laid out is told by its
zeros. What a model makes of either does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import FRAME_TONE, TONE_FRAME
from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._lines import numbered_lines
from tonescope_server.csi.decoders.adr018 import CSI_MAGIC, OTHER_PACKETS, channel_values, kind_of_magic
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import tone_layouts, tone_table
from tonescope_server.errors import FrameError, RecordingError, ShortFrameError
from tonescope_server.marker import hookimpl
from tonescope_server.types import FloatArray

_Record = Mapping[str, Any]

_LARGEST = float(np.finfo(np.float32).max)
_OTHER_KINDS = frozenset(kind for kind, _ in OTHER_PACKETS.values())
_ORDER_SAMPLE = 64  # windows whose zeros are looked at


class RuviewJsonLinesDecoder:
    """Recordings of one JSON record a line: ``raw_csi`` with ``iq_hex``, or amplitudes in ``subcarriers``."""

    name = "ruview_jsonl"
    summary = "RuView JSON-lines recordings, raw I/Q or amplitudes"

    def decode(self, data: bytes) -> Frame:
        """Decode one line.

        Raises:
            ShortFrameError: fewer bytes than ``subcarriers`` announces.
            FrameError: not a CSI record (named by kind), damaged, or with NaN or infinity.
        """
        return _frame(_parsed(data), self.name)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether one of the first lines is a record of this format."""
        return any(_is_recording(record) for record in _first_records(head))

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read a recording; vitals, features and the like, and damaged lines, come as ``Skipped``."""
        for number, line in numbered_lines(path):
            node_id: int | None = None
            try:
                record = _parsed(line)
                node_id = _optional_int(record.get("node_id"))
                yield _frame(record, self.name)
            except FrameError as error:
                yield Skipped(error.kind, f"{path.name}:{number}: {error}", node_id)


@dataclass(frozen=True, slots=True, eq=False)
class PairedWindow:
    """One record of a paired file.

    Attributes:
        cells: the flat buffer as it is in the file, float32 ``[n_tones * n_frames]``.
        n_tones: the first number of ``csi_shape``.
        n_frames: the second.
        record: everything else the record holds (``kp``, ``conf``, ``ts_start``, …).
        line: its line in the file, from 1.
    """

    cells: FloatArray
    n_tones: int
    n_frames: int
    record: _Record
    line: int

    def frames(self, cell_order: str) -> FloatArray:
        """Give the frames under a cell order: float32 ``[n_frames, n_tones]``."""
        if cell_order == FRAME_TONE:
            return self.cells.reshape(self.n_frames, self.n_tones)
        return np.ascontiguousarray(self.cells.reshape(self.n_tones, self.n_frames).T)


def read_paired(path: Path, n_tones: int | None = None) -> Iterator[PairedWindow | Skipped]:
    """Read the windows of a paired file.

    Args:
        path: JSON lines, or one JSON array.
        n_tones: the tones a window should have; None takes what the file says.

    Raises:
        RecordingError: ``csi_shape`` is transposed, or has other tones than ``n_tones``. One wrong shape ends
            the
            reading: the program that wrote it got every record wrong.
    """
    for number, line in _records(path):
        where = f"{path.name}:{number}"
        try:
            record = _parsed(line) if isinstance(line, bytes | None) else line
            window = _paired_window(record, number)
        except FrameError as error:
            yield Skipped(error.kind, f"{where}: {error}")
        else:
            _check_shape(window, n_tones, where)
            yield window


def paired_cell_order(windows: Sequence[PairedWindow]) -> str | None:
    """Tell from the zeros how the buffers hold frames and tones: a cell order, or None if they do not tell.

    Tones that carry no signal are zero in every frame. In the right order the constant zeros are whole tones;
    in the other they are scattered over rows.
    """
    if not windows:
        return None
    sound = {
        order
        for order in (TONE_FRAME, FRAME_TONE)
        if _zeros_are_whole_tones(np.concatenate([window.frames(order) for window in windows]))
    }
    return sound.pop() if len(sound) == 1 else None


class RuviewPairedDecoder:
    """Paired files: windows of amplitudes with the key points seen by a camera at the same time.

    Read as frames, each record is a run of its own: sequence numbers leave a gap between records, so that a
    window as long as a record is exactly that record.
    """

    name = "ruview_paired"
    summary = "RuView paired files: CSI windows with key points"

    def decode(self, data: bytes) -> Frame:
        """Refuse: a record is a window of frames, not one.

        Raises:
            FrameError: always.
        """
        raise FrameError("ruview_paired: expected a file of windows, got one frame")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the first record has ``csi`` and ``csi_shape``."""
        return b'"csi_shape"' in head and b'"csi"' in head

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the frames of every window; ``header`` has ``cell_order`` and whence it is known.

        Raises:
            RecordingError: ``csi_shape`` is transposed.
        """
        windows = (item for item in read_paired(path) if isinstance(item, PairedWindow))
        order = paired_cell_order(list(islice(windows, _ORDER_SAMPLE)))
        source = "declared" if order is None else "zeros"
        first = 0
        for item in read_paired(path):
            if isinstance(item, Skipped):
                yield item
                continue
            header = {"cell_order": order or TONE_FRAME, "cell_order_from": source, "line": item.line}
            times = _frame_times(item)
            for i, row in enumerate(item.frames(order or TONE_FRAME)):
                yield Frame(row, sequence=first + i, capture_time_ns=times[i], format=self.name, header=header)
            first += item.n_frames + 1


def _parsed(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise FrameError("record: expected at most 1 MiB, got a longer line")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FrameError("record: expected JSON, got something else") from error
    if not isinstance(record, dict):
        raise FrameError(f"record: expected a JSON object, got {type(record).__name__}")
    return record


def _first_records(head: bytes) -> Iterator[dict[str, Any]]:
    for line in head.splitlines()[:64]:
        try:
            yield _parsed(line)
        except FrameError:
            continue


def _is_recording(record: _Record) -> bool:
    return "csi_shape" not in record and ("iq_hex" in record or "subcarriers" in record or "magic" in record)


def _frame(record: _Record, format: str) -> Frame:
    """Turn a record into a frame."""
    kind = _kind(record)
    if kind != "csi":
        raise FrameError(f"record: expected CSI, got {kind}", kind)
    raw = "iq_hex" in record
    values: npt.NDArray[Any] = _iq(record) if raw else _amplitudes(record["subcarriers"], "subcarriers")
    header = {name: record[name] for name in ("features",) if name in record}
    return Frame(
        values,
        node_id=_optional_int(record.get("node_id")) or 0,
        sequence=_optional_int(record.get("sequence")),
        capture_time_ns=_time_ns(record.get("timestamp")),
        rssi_dbm=_dbm(record.get("rssi")),
        noise_floor_dbm=_dbm(record.get("noise_floor")),
        format=format,
        header=header,
    )


def _kind(record: _Record) -> str:
    """Name the kind of a record: its type, or else its magic number, or else what it holds."""
    kind = record.get("type")
    if isinstance(kind, str) and kind != "raw_csi":
        return kind if kind in _OTHER_KINDS else "other_type"
    magic = record.get("magic")
    if isinstance(magic, str):
        try:
            number = int(magic, 16)
        except ValueError as error:
            raise FrameError(f"record: expected a hexadecimal magic, got {magic[:20]!r}") from error
        if number != CSI_MAGIC:
            return kind_of_magic(number)
    if "iq_hex" in record or isinstance(record.get("subcarriers"), list):
        return "csi"
    if kind == "raw_csi":
        raise FrameError("record: expected iq_hex or subcarriers, got neither")
    return "no_type"


def _iq(record: _Record) -> npt.NDArray[np.complex64]:
    try:
        data = bytes.fromhex(record["iq_hex"])
    except (TypeError, ValueError) as error:
        raise FrameError("record: expected hexadecimal iq_hex, got something else") from error
    antennas = record.get("antennas", 1)
    if type(antennas) is not int or not 1 <= antennas <= 255:
        raise FrameError(f"record: expected 1 to 255 antennas, got {str(antennas)[:20]}")
    announced = record.get("subcarriers")
    n = antennas * announced if type(announced) is int else len(data) // 2
    if len(data) < 2 * n or not data:
        raise ShortFrameError(f"record: expected {2 * n} bytes in iq_hex for {n} tones, got {len(data)}")
    if len(data) != 2 * n or n % antennas:
        raise FrameError(f"record: expected {2 * n} bytes in iq_hex for {n} tones, got {len(data)}")
    values = channel_values(np.frombuffer(data, np.int8))
    return values if antennas == 1 else values.reshape(antennas, -1)


def _amplitudes(numbers: Any, name: str) -> FloatArray:
    """Turn a list into float32 amplitudes.

    Raises:
        FrameError: not a flat list of numbers, or (of the kind "non_finite") NaN, infinity or a number too large
            for float32 among them.
    """
    if not isinstance(numbers, list) or not numbers:
        raise FrameError(f"record: expected a list of numbers in {name!r}, got something else")
    if any(type(number) not in (int, float) for number in numbers):
        raise FrameError(f"record: expected only numbers in {name!r}, got something else")
    if not all(abs(number) < _LARGEST for number in numbers):  # false for NaN, too
        raise FrameError(f"record: expected finite numbers in {name!r}, got NaN or infinity", "non_finite")
    return np.array(numbers, dtype=np.float32)


def _records(path: Path) -> Iterator[tuple[int, bytes | dict[str, Any] | None]]:
    """Give the records of a file of JSON lines, or of one JSON array."""
    with path.open("rb") as file:
        is_array = file.read(64).lstrip().startswith(b"[")
    if not is_array:
        yield from numbered_lines(path)
        return
    try:
        records = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"recording {path.name!r}: expected a JSON array, got damaged JSON") from error
    yield from enumerate((record if isinstance(record, dict) else {} for record in records), start=1)


def _paired_window(record: dict[str, Any], line: int) -> PairedWindow:
    missing = [name for name in ("csi", "csi_shape") if name not in record]
    if missing:
        raise FrameError(f"paired record: expected {' and '.join(missing)}, got none")
    shape = record["csi_shape"]
    if not isinstance(shape, list) or len(shape) != 2 or any(type(n) is not int or n < 1 for n in shape):
        raise FrameError(f"paired record: expected csi_shape of two sizes, got {str(shape)[:40]}")
    cells = _amplitudes(record["csi"], "csi")
    n_tones, n_frames = shape
    if cells.size != n_tones * n_frames:
        error = ShortFrameError if cells.size < n_tones * n_frames else FrameError
        raise error(f"paired record: expected {n_tones * n_frames} numbers for csi_shape {shape}, got {cells.size}")
    rest = {name: value for name, value in record.items() if name not in ("csi", "csi_shape")}
    return PairedWindow(cells, n_tones, n_frames, rest, line)


def _check_shape(window: PairedWindow, n_tones: int | None, where: str) -> None:
    known = {n_tones} if n_tones is not None else {len(tone_table(layout)) for layout in tone_layouts()}
    got = [window.n_tones, window.n_frames]
    if window.n_tones in known:
        return
    if window.n_frames in known:
        raise RecordingError(f"{where}: csi_shape is transposed: expected [tones, frames] = {got[::-1]}, got {got}")
    if n_tones is not None:
        raise RecordingError(f"{where}: csi_shape: expected [{n_tones}, frames], got {got}")


def _zeros_are_whole_tones(frames: FloatArray) -> bool:
    """Say whether there are tones that are zero in every frame, and hardly a zero elsewhere."""
    zero = frames == 0
    whole = zero.all(axis=0)
    # A live tone may fade to zero for a moment; a null tone never shows anything else.
    return bool(whole.any()) and float(zero[:, ~whole].mean() if not whole.all() else 1.0) < 0.02


def _frame_times(window: PairedWindow) -> list[int | None]:
    start, end = _time_ns(window.record.get("ts_start")), _time_ns(window.record.get("ts_end"))
    n = window.n_frames
    if start is None or end is None or end < start:
        return [start] * n
    return [start + (end - start) * i // max(n - 1, 1) for i in range(n)]


def _time_ns(seconds: Any) -> int | None:
    """Turn seconds since 1970 into nanoseconds; None for what cannot be such a time."""
    if type(seconds) not in (int, float) or not 0 <= seconds < 9e9:
        return None
    return int(round(seconds * 1e9))  # noqa: RUF046 - `seconds` may be anything to the type checker


def _dbm(level: Any) -> float | None:
    """The recorders write zero, or a positive number, where they know no level: none is received at that."""
    if type(level) not in (int, float) or not -1000 < level < 0:
        return None
    return float(level)


def _optional_int(value: Any) -> int | None:
    # `type`, since True is an instance of int.
    return int(value) if type(value) is int and 0 <= value < 1 << 32 else None


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer RuView's formats."""
    return [RuviewJsonLinesDecoder(), RuviewPairedDecoder()]
