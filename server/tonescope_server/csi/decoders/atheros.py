"""Captures of the Atheros CSI Tool: records of a length, a 25-byte header, a packed matrix and the payload.

csiread unpacks the matrix of a record whose sizes agree. The tool writes the byte order of the machine it runs
on; the sizes of a record tell which. No recording of a known channel confirms the order of the rows, so the
tone layout stays unknown until a manifest declares one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._csiread import csiread
from tonescope_server.csi.decoders._links import by_link
from tonescope_server.csi.decoders._records import Truncated, records
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ShortFrameError
from tonescope_server.marker import hookimpl

NAME = "atheros"

Endian = Literal["little", "big"]

# Clock, size of the matrix, frequency, error, noise, rate, bandwidth, tones, antennas, RSSI, size of the payload.
_FIELDS = "QHHBBBBBBBBBBBH"
_HEADER: dict[Endian, struct.Struct] = {"little": struct.Struct(f"<{_FIELDS}"), "big": struct.Struct(f">{_FIELDS}")}
HEADER_BYTES = 25
_BANDWIDTHS = {56: 20, 114: 40}
_PADDING = bytes(4)  # the unpacker takes 16 bits at a time


def decode(data: bytes, endian: Endian | None = None) -> Frame:
    """Decode one record of a file, without its length; the byte order is found by its sizes where not given.

    Shapes:
        ``Frame.values`` is ``[n_rx * n_tx, n_tones]``: see ``header["links"]``.

    Raises:
        ShortFrameError: fewer bytes than the header announces.
        FrameError: sizes that contradict each other, or (of the kind "no_csi") a record without a matrix.
        RecordingError: csiread is not installed.
    """
    if len(data) < HEADER_BYTES:
        raise ShortFrameError(f"Atheros record: expected a header of {HEADER_BYTES} bytes, got {len(data)}")
    order = endian or byte_order(data)
    clock, size, mhz, error, _, rate, wide, tones, n_rx, n_tx, *rssi, payload = _HEADER[order].unpack_from(data)
    expected = HEADER_BYTES + size + payload
    if len(data) != expected:
        kind = ShortFrameError if len(data) < expected else FrameError
        raise kind(f"Atheros record: expected {expected} bytes for the sizes in its header, got {len(data)}")
    if not size:
        raise FrameError("Atheros record: expected a matrix, got none", "no_csi")
    _check_sizes(tones, n_rx, n_tx, size)
    parser = csiread().Atheros(None, nrxnum=n_rx, ntxnum=n_tx, tones=tones, if_report=False)
    parser.pmsg(data + _PADDING, order)
    values, links = by_link(parser.csi[0])
    header = {
        "chip": "atheros",
        "bandwidth_mhz": 40 if wide else 20,
        "frequency_mhz": mhz,
        "links": links,
        "rssi": tuple(rssi),  # over the noise floor, which the tool does not report
        "rate": rate,
        "phy_error": error,
        "clock": "boot",
    }
    return Frame(values, capture_time_ns=clock * 1000 if clock < 1 << 53 else None, format=NAME, header=header)


def byte_order(data: bytes) -> Endian:
    """Tell the byte order of a record by its sizes; little-endian where neither fits."""
    for endian, layout in _HEADER.items():
        _, size, *_, payload = layout.unpack_from(data)
        if HEADER_BYTES + size + payload == len(data):
            return endian
    return "little"


class AtherosDecoder:
    """Records of the Atheros CSI Tool, one by one or in a file."""

    name = NAME
    summary = "Captures of the Atheros CSI Tool (.dat), in either byte order"

    def decode(self, data: bytes) -> Frame:
        """Decode one record: see ``decode`` of this module."""
        return decode(data)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with a record whose sizes agree."""
        return _order_of_file(head) is not None

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the records of a file.

        Raises:
            RecordingError: csiread is not installed.
        """
        csiread()
        with path.open("rb") as file:
            endian = _order_of_file(file.read(1 << 16)) or "little"
        for at, record in records(path, 2, lambda prefix: 2 + int.from_bytes(prefix, endian)):
            where = f"{path.name}, byte {at}"
            if isinstance(record, Truncated):
                yield Skipped("short", f"{where}: the file ends within a record")
                return
            try:
                yield decode(record[2:], endian)
            except FrameError as error:
                yield Skipped(error.kind, f"{where}: {error}")


def _order_of_file(head: bytes) -> Endian | None:
    if len(head) < 2 + HEADER_BYTES:
        return None
    for endian, layout in _HEADER.items():
        length = int.from_bytes(head[:2], endian)
        _, size, *_, tones, n_rx, n_tx, _, _, _, _, payload = cast(tuple[int, ...], layout.unpack_from(head, 2))
        if length != HEADER_BYTES + size + payload:
            continue
        if size and _is_matrix(tones, n_rx, n_tx, size):
            return endian
    return None


def _is_matrix(tones: int, n_rx: int, n_tx: int, size: int) -> bool:
    return tones in _BANDWIDTHS and 1 <= n_rx <= 3 and 1 <= n_tx <= 3 and size == _matrix_bytes(tones, n_rx, n_tx)


def _matrix_bytes(tones: int, n_rx: int, n_tx: int) -> int:
    """Ten bits for either part of a value."""
    return (20 * tones * n_rx * n_tx + 7) // 8


def _check_sizes(tones: int, n_rx: int, n_tx: int, size: int) -> None:
    if _is_matrix(tones, n_rx, n_tx, size):
        return
    if tones not in _BANDWIDTHS:
        raise FrameError(f"Atheros record: expected 56 or 114 tones, got {tones}")
    if not (1 <= n_rx <= 3 and 1 <= n_tx <= 3):
        raise FrameError(f"Atheros record: expected 1 to 3 antennas at either end, got {n_rx} x {n_tx}")
    expected = _matrix_bytes(tones, n_rx, n_tx)
    raise FrameError(f"Atheros record: expected a matrix of {expected} bytes for {n_rx} x {n_tx} x {tones}, got {size}")


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer Atheros captures."""
    return [AtherosDecoder()]
