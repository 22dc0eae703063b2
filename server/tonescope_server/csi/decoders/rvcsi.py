"""``.rvcsi`` files: JSON lines, a header line and then a frame a line, with parts, amplitude and phase.

Only the names of the lists are documented. Of the other fields those that are there under the names below are
taken; none is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._lines import numbered_lines
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ShortFrameError
from tonescope_server.marker import hookimpl
from tonescope_server.types import FloatArray

NAME = "rvcsi"
_LISTS = ("i_values", "q_values", "amplitude", "phase")
_LARGEST = float(np.finfo(np.float32).max)
_NS_PER_UNIT = {"timestamp_ns": 1, "timestamp_us": 1_000, "timestamp_ms": 1_000_000}
_KEPT = ("channel", "bandwidth_mhz", "chip", "adapter_kind", "session_id", "quality_score", "validation")
_MOST_NS = 1 << 63


def decode(data: bytes) -> Frame:
    """Decode one line.

    Shapes:
        ``Frame.values``: complex64 of the parts, or of amplitude and phase, or float32 amplitudes; ``[n_tones]``.

    Raises:
        ShortFrameError: lists of different lengths.
        FrameError: not a frame (of the kind "header" for a header line), damaged, or with NaN or infinity.
    """
    record = _parsed(data)
    if not any(name in record for name in _LISTS):
        raise FrameError("rvcsi line: expected a frame, got a line without values", "header")
    lists = {name: _numbers(record[name], name) for name in _LISTS if record.get(name) is not None}
    sizes = {name: values.size for name, values in lists.items()}
    announced = _whole(record.get("subcarrier_count"))
    if len({*sizes.values()} | ({announced} if announced is not None else set())) > 1:
        raise ShortFrameError(f"rvcsi line: expected lists of one length, got {sizes} for {announced} tones")
    return Frame(
        _values(lists),
        node_id=_whole(record.get("node_id")) or 0,
        transmitter=_text(record.get("source_mac")),
        sequence=_whole(record.get("sequence", record.get("frame_id"))),
        capture_time_ns=_time_ns(record),
        rssi_dbm=_dbm(record.get("rssi_dbm", record.get("rssi"))),
        noise_floor_dbm=_dbm(record.get("noise_floor_dbm", record.get("noise_floor"))),
        format=NAME,
        header=_header(record),
    )


class RvcsiDecoder:
    """Lines of ``.rvcsi`` files, one by one or in a file."""

    name = NAME
    summary = "RuView .rvcsi files: JSON lines of parts, amplitude and phase"

    def decode(self, data: bytes) -> Frame:
        """Decode one line: see ``decode`` of this module."""
        return decode(data)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether one of the first lines has the lists of a frame."""
        return b'"i_values"' in head and b'"q_values"' in head

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read a file; header lines, and damaged ones, come as ``Skipped``."""
        for number, line in numbered_lines(path):
            try:
                if line is None:
                    raise FrameError("rvcsi line: expected at most 1 MiB, got a longer line")
                yield decode(line)
            except FrameError as error:
                yield Skipped(error.kind, f"{path.name}:{number}: {error}")


def _parsed(data: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FrameError("rvcsi line: expected JSON, got something else") from error
    if not isinstance(record, dict):
        raise FrameError(f"rvcsi line: expected a JSON object, got {type(record).__name__}")
    return record


def _numbers(values: Any, name: str) -> FloatArray:
    if not isinstance(values, list) or not values or any(type(value) not in (int, float) for value in values):
        raise FrameError(f"rvcsi line: expected a list of numbers in {name!r}, got something else")
    if not all(abs(value) < _LARGEST for value in values):  # false for NaN, too
        raise FrameError(f"rvcsi line: expected finite numbers in {name!r}, got others", "non_finite")
    return np.array(values, dtype=np.float32)


def _values(lists: Mapping[str, FloatArray]) -> npt.NDArray[Any]:
    if "i_values" in lists and "q_values" in lists:
        values = np.empty(lists["i_values"].size, dtype=np.complex64)
        values.real, values.imag = lists["i_values"], lists["q_values"]
        return values
    if "amplitude" not in lists:
        raise FrameError("rvcsi line: expected i_values and q_values, or amplitude, got neither")
    amplitude = lists["amplitude"]
    if "phase" not in lists:
        return amplitude
    polar: npt.NDArray[np.complex64] = (amplitude * np.exp(1j * lists["phase"])).astype(np.complex64)
    return polar


def _header(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: record[name] for name in _KEPT if name in record}
    if not isinstance(kept.get("chip", ""), str):
        del kept["chip"]
    if "bandwidth_mhz" in kept and _whole(kept["bandwidth_mhz"]) is None:
        del kept["bandwidth_mhz"]
    return kept


def _time_ns(record: Mapping[str, Any]) -> int | None:
    for name, unit in _NS_PER_UNIT.items():
        value = record.get(name)
        if type(value) is int and 0 <= value * unit < _MOST_NS:
            return value * unit
    seconds = record.get("timestamp")
    if type(seconds) in (int, float) and 0 <= seconds < 9e9:  # type: ignore[operator]  # the type was just looked at
        return round(float(seconds) * 1e9)  # type: ignore[arg-type]
    return None


def _dbm(level: Any) -> float | None:
    return float(level) if type(level) in (int, float) and -1000 < level < 0 else None


def _whole(value: Any) -> int | None:
    # `type`, since True is an instance of int.
    return int(value) if type(value) is int and 0 <= value < 1 << 32 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer .rvcsi files."""
    return [RvcsiDecoder()]
