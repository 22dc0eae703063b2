"""Parquet files: one row a frame, its values in lists, what else is known of it in columns of their own.

Needs pyarrow, which the extra ``captures`` installs. The file is read a batch of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._columns import as_values, frames, named
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, RecordingError
from tonescope_server.marker import hookimpl

NAME = "parquet"
REAL, IMAGINARY, AMPLITUDE, N_RX = "csi_real", "csi_imag", "amplitude", "n_rx"
_MAGIC = b"PAR1"
_ROWS = 1024


class ParquetDecoder:
    """Parquet files of frames.

    The values are the lists ``csi_real`` and ``csi_imag``, or ``amplitude``; with several antennas, one antenna
    after the other, and their number in ``n_rx``. Further columns are those of ``.npz`` files: ``time_s`` or
    ``time_ns``, ``node``, ``transmitter``, ``sequence``, ``rssi_dbm``, ``noise_floor_dbm``, ``agc_gain``.
    """

    name = NAME
    summary = "Parquet files, one row a frame"

    def decode(self, data: bytes) -> Frame:
        """Refuse: a file holds many frames.

        Raises:
            FrameError: always.
        """
        raise FrameError("parquet: expected a file of frames, got one frame")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with Parquet's magic number."""
        return head.startswith(_MAGIC)

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the rows of a file in order.

        Raises:
            RecordingError: it cannot be read, has no values, or pyarrow is not installed.
        """
        first = 0
        for rows in _batches(path):
            values = _values(rows, path.name)
            columns = {name: [row.get(name) for row in rows] for name in rows[0]}
            for i, one in enumerate(values):
                said = {name: column[i : i + 1] for name, column in named(columns).items()}
                if isinstance(one, Skipped):
                    yield one
                else:
                    yield from frames(one[None], said, NAME, path.name, first + i)
            first += len(rows)


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    arrow, reader = _pyarrow()
    try:
        with reader.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            if not ({REAL, IMAGINARY} <= present or AMPLITUDE in present):
                raise RecordingError(
                    f"recording {path.name!r}: expected columns {REAL} and {IMAGINARY}, or {AMPLITUDE}, "
                    f"got {', '.join(sorted(present)) or 'none'}"
                )
            for batch in file.iter_batches(batch_size=_ROWS):
                if rows := batch.to_pylist():
                    yield rows
    except (arrow.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise RecordingError(f"recording {path.name!r}: expected a Parquet file, got a damaged one") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise RecordingError(f"recording {path.name!r}: expected a Parquet file, got a damaged one") from error


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise RecordingError("Parquet files: need pyarrow: install tonescope[captures]") from error
    return pyarrow, parquet


def _values(rows: list[dict[str, Any]], where: str) -> Iterator[npt.NDArray[Any] | Skipped]:
    for row in rows:
        try:
            yield _row(row, where)
        except FrameError as error:
            yield Skipped(error.kind, f"{where}: {error}")


def _row(row: dict[str, Any], where: str) -> npt.NDArray[Any]:
    """Make one frame's values, ``[n_tones]`` or ``[n_rx, n_tones]``, of the lists of a row."""
    if row.get(REAL) is not None and row.get(IMAGINARY) is not None:
        real, imaginary = (_numbers(row[name], name) for name in (REAL, IMAGINARY))
        if real.shape != imaginary.shape:
            raise FrameError(f"row: expected as many values in {IMAGINARY} as in {REAL}, got {imaginary.size}")
        values: npt.NDArray[Any] = real + 1j * imaginary
    elif row.get(AMPLITUDE) is not None:
        values = _numbers(row[AMPLITUDE], AMPLITUDE)
    else:
        raise FrameError("row: expected values, got none", "no_csi")
    n_rx = row.get(N_RX)
    n_rx = 1 if n_rx is None else n_rx
    if type(n_rx) is not int or n_rx < 1 or values.size % n_rx:
        raise FrameError(f"row: expected {values.size} values in {n_rx} antennas, got a rest")
    frame: npt.NDArray[Any] = as_values(values.reshape(1, n_rx, -1) if n_rx > 1 else values[None], "values", where)[0]
    return frame


def _numbers(values: Any, name: str) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"row: expected a list of numbers in {name!r}, got something else") from error
    if array.ndim != 1 or not array.size:
        raise FrameError(f"row: expected a list of numbers in {name!r}, got shape {array.shape}")
    return array


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer Parquet files."""
    return [ParquetDecoder()]
