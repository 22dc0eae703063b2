"""FeitCSI captures of Intel's AX200 and AX210 cards: a 272-byte header, then int16 pairs, real before imaginary.

Source: FeitCSI's "CSI format" page; the clock of microseconds at byte 88 is confirmed by the recordings, where
it and the 320 MHz clock at byte 8 advance together. The rows of pilots are zero in this format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._counters import WrappingCounter
from tonescope_server.csi.decoders._links import MOST_ANTENNAS, by_link
from tonescope_server.csi.decoders._records import MAX_RECORD_BYTES, Truncated, records
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ShortFrameError
from tonescope_server.marker import hookimpl

NAME = "feitcsi"
CHIP = "intel_ax"
HEADER_BYTES = 272
_RATE_FORMATS = ("cck", "legacy", "ht", "vht", "he", "eht")
_BANDWIDTHS_MHZ = (20, 40, 80, 160, 320)
_MOST_TONES = 4096
_T = TypeVar("_T")


def decode(data: bytes) -> Frame:
    """Decode one record: header and values.

    Shapes:
        ``Frame.values`` is ``[n_rx * n_tx, n_tones]``: see ``header["links"]``.

    Raises:
        ShortFrameError: fewer bytes than the header announces.
        FrameError: more, or sizes that contradict each other.
    """
    if len(data) < HEADER_BYTES:
        raise ShortFrameError(f"FeitCSI record: expected a header of {HEADER_BYTES} bytes, got {len(data)}")
    n_rx, n_tx, n_tones = _sizes(data)
    expected = HEADER_BYTES + 4 * n_rx * n_tx * n_tones
    if len(data) != expected:
        error = ShortFrameError if len(data) < expected else FrameError
        raise error(
            f"FeitCSI record: expected {expected} bytes for {n_rx} x {n_tx} links of {n_tones} tones, got {len(data)}"
        )
    parts = np.frombuffer(data, "<i2", offset=HEADER_BYTES).astype(np.float32)
    values, links = by_link(parts.view(np.complex64).reshape(n_rx, n_tx, n_tones).transpose(2, 0, 1))
    (rate,) = struct.unpack_from("<I", data, 92)
    micros, power = int.from_bytes(data[88:92], "little"), struct.unpack_from("<II", data, 60)
    header = {
        "chip": CHIP,
        "bandwidth_mhz": _named(_BANDWIDTHS_MHZ, rate >> 11 & 7),
        "rate_format": _named(_RATE_FORMATS, rate >> 8 & 7),
        "links": links,
        "rate": rate,
        "ftm_clock": int.from_bytes(data[8:12], "little"),
        "clock": "boot",
    }
    return Frame(
        values,
        transmitter=data[68:74].hex(":"),
        capture_time_ns=micros * 1000,
        rssi_dbm=_strongest(power),
        format=NAME,
        header=header,
    )


class FeitCsiDecoder:
    """Records of FeitCSI, one by one or in a file."""

    name = NAME
    summary = "FeitCSI captures of Intel AX200 and AX210 cards"

    def decode(self, data: bytes) -> Frame:
        """Decode one record: see ``decode`` of this module."""
        return decode(data)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with a header whose sizes agree."""
        if len(head) < HEADER_BYTES:
            return False
        try:
            _sizes(head)
        except FrameError:
            return False
        return True

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the records of a file; its clock is carried on over its wraps."""
        clock = WrappingCounter(1 << 32)
        for at, record in records(path, 4, lambda prefix: HEADER_BYTES + int.from_bytes(prefix, "little")):
            where = f"{path.name}, byte {at}"
            if isinstance(record, Truncated):
                yield Skipped("short", f"{where}: the file ends within a record, or its size is impossible")
                return
            try:
                frame = decode(record)
            except FrameError as error:
                yield Skipped(error.kind, f"{where}: {error}")
                continue
            yield replace(frame, capture_time_ns=clock.unwrapped((frame.capture_time_ns or 0) // 1000) * 1000)


def _sizes(header: bytes) -> tuple[int, int, int]:
    (size,), n_rx, n_tx = struct.unpack_from("<I", header), header[46], header[47]
    (n_tones,) = struct.unpack_from("<I", header, 52)
    if not (1 <= n_rx <= MOST_ANTENNAS and 1 <= n_tx <= MOST_ANTENNAS and 1 <= n_tones <= _MOST_TONES):
        raise FrameError(f"FeitCSI record: expected antennas and tones, got {n_rx} x {n_tx} x {n_tones}")
    expected = 4 * n_rx * n_tx * n_tones
    if size != expected or size > MAX_RECORD_BYTES - HEADER_BYTES:
        raise FrameError(f"FeitCSI record: expected {expected} bytes for {n_rx} x {n_tx} x {n_tones}, got {size}")
    return n_rx, n_tx, n_tones


def _named(names: Sequence[_T], index: int) -> _T | None:
    return names[index] if index < len(names) else None


def _strongest(power: tuple[int, ...]) -> float | None:
    """Give the level of the stronger antenna; the card writes levels without their sign, and 0 for none."""
    known = [value for value in power if 0 < value < 128]
    return -float(min(known)) if known else None


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer FeitCSI captures."""
    return [FeitCsiDecoder()]
