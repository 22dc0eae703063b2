"""Intel 5300 captures of the Linux 802.11n CSI Tool: records of a length, a code and a packet.

csiread unpacks the matrix of a packet whose sizes agree. The matrix is as the card reports it: scaling to
absolute units, and undoing the card's spatial mapping, are not done here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._counters import WrappingCounter
from tonescope_server.csi.decoders._csiread import csiread
from tonescope_server.csi.decoders._links import by_link
from tonescope_server.csi.decoders._records import Truncated, records
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import detect_layout
from tonescope_server.errors import FrameError, ShortFrameError, WrongMagicError
from tonescope_server.marker import hookimpl

NAME = "intel5300"
CHIP = "intel5300"
CSI_CODE, PAYLOAD_CODE = 0xBB, 0xC1
N_TONES = 30

# After the code: clock, count, reserved, antennas, three RSSI, noise, AGC, antenna selection, length, rate.
_HEADER = struct.Struct("<IHHBBBBBbBBHH")
_MATRIX_AT = 1 + _HEADER.size
_ANTENNAS_AT = 16
_IN_ORDER = 0b10_01_00
_RATE_40_MHZ = 0x800
_NO_NOISE = -127
_RSSI_OFFSET_DB = 44


def decode(data: bytes) -> Frame:
    """Decode one packet: a record of a file without its length, starting with the code.

    Shapes:
        ``Frame.values`` is ``[n_rx * n_tx, 30]``: see ``header["links"]``.

    Raises:
        WrongMagicError: a record of another code.
        ShortFrameError: fewer bytes than the header announces.
        FrameError: sizes that contradict each other.
        RecordingError: csiread is not installed.
    """
    if not data or data[0] != CSI_CODE:
        got = f"0x{data[0]:02X}" if data else "nothing"
        raise WrongMagicError(
            f"Intel 5300 packet: expected code 0x{CSI_CODE:02X}, got {got}",
            "payload" if data[:1] == bytes([PAYLOAD_CODE]) else "unknown_code",
        )
    if len(data) < _MATRIX_AT:
        raise ShortFrameError(f"Intel 5300 packet: expected a header of {_MATRIX_AT} bytes, got {len(data)}")
    clock, count, _, n_rx, n_tx, *rssi, noise, agc, selected, length, rate = _HEADER.unpack_from(data, 1)
    _check_sizes(n_rx, n_tx, length, len(data) - _MATRIX_AT)
    antennas = [selected >> 2 * i & 3 for i in range(n_rx)]
    # A card with an antenna missing reports an order that is none: then the rows stay as they come.
    in_order = sorted(antennas) == list(range(n_rx))
    if not in_order:
        data = data[:_ANTENNAS_AT] + bytes([_IN_ORDER]) + data[_ANTENNAS_AT + 1 :]
    parser = csiread().Intel(None, nrxnum=n_rx, ntxnum=n_tx, if_report=False)
    parser.pmsg(data)
    values, links = by_link(parser.csi[0])
    bandwidth = 40 if rate & _RATE_40_MHZ else 20
    header = {
        "chip": CHIP,
        "bandwidth_mhz": bandwidth,
        "links": links,
        "rssi": tuple(rssi),
        "rate": rate,
        "antennas_known": in_order,
        "clock": "boot",
    }
    return Frame(
        values,
        sequence=count,
        capture_time_ns=clock * 1000,
        rssi_dbm=_total_rss(rssi, agc),
        noise_floor_dbm=None if noise == _NO_NOISE else float(noise),
        agc_gain=float(agc),
        format=NAME,
        header=header,
        tone_layout=detect_layout(N_TONES, CHIP, bandwidth_mhz=bandwidth),
    )


class Intel5300Decoder:
    """Records of the Linux 802.11n CSI Tool, one by one or in a ``.dat`` file."""

    name = NAME
    summary = "Intel 5300 captures of the Linux 802.11n CSI Tool (.dat)"

    def decode(self, data: bytes) -> Frame:
        """Decode one packet: see ``decode`` of this module."""
        return decode(data)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with a record whose code and sizes agree."""
        if len(head) < 2 + _MATRIX_AT:
            return False
        size, code = struct.unpack_from(">HB", head)
        if code == PAYLOAD_CODE:
            return size + 4 < len(head) and head[size + 4] in (CSI_CODE, PAYLOAD_CODE)
        _, _, _, n_rx, n_tx, *_, length, _ = _HEADER.unpack_from(head, 3)
        return bool(code == CSI_CODE and size == _MATRIX_AT + length and length == _matrix_bytes(n_rx, n_tx))

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the records of a file; its clock and its count are carried on over their wraps.

        Raises:
            RecordingError: csiread is not installed.
        """
        csiread()
        clock, count = WrappingCounter(1 << 32), WrappingCounter(1 << 16)
        for at, record in records(path, 2, lambda prefix: 2 + int.from_bytes(prefix, "big")):
            where = f"{path.name}, byte {at}"
            if isinstance(record, Truncated):
                yield Skipped("short", f"{where}: the file ends within a record")
                return
            try:
                frame = decode(record[2:])
            except FrameError as error:
                yield Skipped(error.kind, f"{where}: {error}")
                continue
            micros = clock.unwrapped((frame.capture_time_ns or 0) // 1000)
            yield replace(frame, capture_time_ns=micros * 1000, sequence=count.unwrapped(frame.sequence or 0))


def _matrix_bytes(n_rx: int, n_tx: int) -> int:
    """30 times three bits, then two bytes a link."""
    return (N_TONES * (3 + 16 * n_rx * n_tx) + 7) // 8


def _check_sizes(n_rx: int, n_tx: int, length: int, got: int) -> None:
    if not (1 <= n_rx <= 3 and 1 <= n_tx <= 3):
        raise FrameError(f"Intel 5300 packet: expected 1 to 3 antennas at either end, got {n_rx} x {n_tx}")
    expected = _matrix_bytes(n_rx, n_tx)
    if length != expected:
        raise FrameError(f"Intel 5300 packet: expected a matrix of {expected} bytes for {n_rx} x {n_tx}, got {length}")
    if got != expected:
        error = ShortFrameError if got < expected else FrameError
        raise error(f"Intel 5300 packet: expected {expected} bytes after the header, got {got}")


def _total_rss(rssi: list[int], agc: int) -> float | None:
    """Add up the power of the antennas.

    Source: the CSI Tool's FAQ: a value is in dB over an internal reference, and 0 means no antenna.
    """
    power = sum(10 ** (value / 10) for value in rssi if value)
    return 10 * math.log10(power) - _RSSI_OFFSET_DB - agc if power else None


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer Intel 5300 captures."""
    return [Intel5300Decoder()]
