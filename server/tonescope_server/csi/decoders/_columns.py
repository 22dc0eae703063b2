"""Frames in columns: an array of values, and beside it one of each thing known of the frames.

What files of arrays and of tables share; how either is read does not belong here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import RecordingError

# What a column may be called, and what it says of a frame.
TIME_NS, TIME_S = "time_ns", "time_s"
NAMES = (TIME_NS, TIME_S, "node", "transmitter", "sequence", "rssi_dbm", "noise_floor_dbm", "agc_gain")
ALIASES = {"time": TIME_S, "timestamp": TIME_S, "rssi": "rssi_dbm", "noise_floor": "noise_floor_dbm", "node_id": "node"}

Columns = Mapping[str, Any]


def as_values(array: npt.NDArray[Any], name: str, where: str) -> npt.NDArray[Any]:
    """Make frames' values of an array: complex64 or float32 ``[n_frames, n_tones]`` or ``[…, n_rx, n_tones]``.

    Raises:
        RecordingError: another shape, or no numbers.
    """
    if array.ndim not in (2, 3) or 0 in array.shape[1:]:
        raise RecordingError(
            f"recording {where!r}: {name}: expected (frames, tones) or (frames, antennas, tones), got {array.shape}"
        )
    if array.dtype.kind not in "iufc":
        raise RecordingError(f"recording {where!r}: {name}: expected numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the frame is passed over
        return np.asarray(array.astype(np.complex64 if array.dtype.kind == "c" else np.float32))


def named(names: Mapping[str, Any]) -> dict[str, Any]:
    """Take the columns that say something of frames, each under its own name."""
    known = {ALIASES.get(name, name): column for name, column in names.items()}
    return {name: column for name, column in known.items() if name in NAMES}


def frames(
    values: npt.NDArray[Any], columns: Columns, format: str, where: str, first: int = 0
) -> Iterator[Frame | Skipped]:
    """Give the frames of some rows, each with what its columns say.

    Args:
        values: as ``as_values`` makes them.
        columns: each as long as ``values``, under the names of ``NAMES``.
        format: the decoder's name.
        where: the file's name.
        first: the number of the first row.
    """
    for i, row in enumerate(values):
        if not np.isfinite(row).all():
            yield Skipped("non_finite", f"{where}, row {first + i}: expected finite values, got NaN or infinity")
            continue
        said = {name: column[i] for name, column in columns.items()}
        yield Frame(
            np.ascontiguousarray(row),
            node_id=_whole(said.get("node"), 1 << 32) or 0,
            transmitter=str(said["transmitter"]) if said.get("transmitter") is not None else "",
            sequence=_whole(said.get("sequence"), 1 << 32),
            capture_time_ns=_time_ns(said),
            rssi_dbm=_number(said.get("rssi_dbm")),
            noise_floor_dbm=_number(said.get("noise_floor_dbm")),
            agc_gain=_number(said.get("agc_gain")),
            format=format,
        )


def _time_ns(said: Columns) -> int | None:
    if said.get(TIME_NS) is not None:
        return _whole(said[TIME_NS], 1 << 63)
    seconds = _number(said.get(TIME_S))
    return round(seconds * 1e9) if seconds is not None and 0 <= seconds < 9e9 else None


def _number(value: Any) -> float | None:
    """Give a finite number; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any, limit: int) -> int | None:
    number = _number(value)
    if number is None or number != int(number) or not 0 <= number < limit:
        return None
    return int(value)
