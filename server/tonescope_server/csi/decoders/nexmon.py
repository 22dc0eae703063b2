"""Nexmon captures of Broadcom chips: pcap files of UDP datagrams, each one link of one WiFi frame.

csiread unpacks the values of a datagram whose size agrees. Which packing it has depends on the chip; where the
chip's number does not say, the packing is the one under which the band's nulls are weak, and a datagram where
none is, or several are, is refused. Packed floats are scaled by csiread, frame by frame, to ten bits, as
Nexmon's own reader does: their level carries no gain.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._csiread import csiread
from tonescope_server.csi.decoders._pcap import HEADER_BYTES as PCAP_HEADER_BYTES
from tonescope_server.csi.decoders._pcap import datagrams, is_pcap, udp_payload
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import tone_table
from tonescope_server.errors import FrameError, ShortFrameError, WrongMagicError
from tonescope_server.marker import hookimpl

NAME = "nexmon"
MAGIC = b"\x11\x11"

# Magic, then zeros of the magic's second half or RSSI and frame control; sender, sequence, link, channel, chip.
_HEADER = struct.Struct("<2sbB6sHHHH")
HEADER_BYTES = _HEADER.size
_BANDWIDTHS = {64: 20, 128: 40, 256: 80}
_OLD_FORM = b"\x11\x11\x11\x11"
_WEAK = 0.1  # of the median amplitude: in the recording nulls are at 0.01 to 0.03

# The numbers that chips write of themselves; others do not tell the chip.
_CHIPS = MappingProxyType({0x65: "43455c0", 0x6A: "4366c0"})
# Chips of each packing, as csiread names them; the 4339's is the 43455c0's.
_PACKINGS = ("43455c0", "4358", "4366c0")


class NexmonDecoder:
    """Datagrams of nexmon_csi, one by one or in a pcap file."""

    name = NAME
    summary = "Nexmon captures of Broadcom chips (.pcap)"

    def decode(self, data: bytes) -> Frame:
        """Decode the payload of one datagram.

        Shapes:
            ``Frame.values`` is ``[n_tones]``; the transmitter's name ends in ``/core<c>/stream<s>``, since each
            link comes in a datagram of its own.

        Raises:
            WrongMagicError: not a datagram of Nexmon.
            ShortFrameError, FrameError: not 64, 128 or 256 values; or (of the kind "unknown_chip") the chip is not
                known and the values do not tell.
            RecordingError: csiread is not installed.
        """
        return _decoded(data, None)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file is a pcap file whose first packets have Nexmon's magic number."""
        if not is_pcap(head):
            return False
        start = head[PCAP_HEADER_BYTES + 16 : PCAP_HEADER_BYTES + 16 + 2048]
        return (udp_payload(start) or b"").startswith(MAGIC) or b"NEXMON" in head

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the datagrams of a capture; once one has told its chip, the others of that number are its.

        Raises:
            RecordingError: not a pcap file of Ethernet packets, or csiread is not installed.
        """
        csiread()
        told: dict[int, str] = {}
        for packet in datagrams(path):
            where = f"{path.name}, byte {packet.at}"
            if packet.payload is None:
                yield Skipped("not_udp", f"{where}: expected a whole UDP datagram")
                continue
            try:
                frame = _decoded(packet.payload, told)
            except FrameError as error:
                yield Skipped(error.kind, f"{where}: {error}")
                continue
            yield replace(frame, capture_time_ns=packet.time_ns, header={**frame.header, "clock": "unix"})


def _decoded(data: bytes, told: dict[int, str] | None) -> Frame:
    """Decode a datagram; ``told`` remembers the packing of each chip number."""
    if not data.startswith(MAGIC):
        raise WrongMagicError(f"Nexmon datagram: expected magic 0x1111, got 0x{data[:2].hex() or '0'}")
    if len(data) < HEADER_BYTES:
        raise ShortFrameError(f"Nexmon datagram: expected a header of {HEADER_BYTES} bytes, got {len(data)}")
    _, rssi, frame_control, mac, sequence, link, channel, number = _HEADER.unpack_from(data)
    n_tones, rest = divmod(len(data) - HEADER_BYTES, 4)
    if rest or n_tones not in _BANDWIDTHS:
        error = ShortFrameError if n_tones < 64 else FrameError
        raise error(f"Nexmon datagram: expected 64, 128 or 256 values of 4 bytes, got {len(data) - HEADER_BYTES} bytes")
    bandwidth = _BANDWIDTHS[n_tones]
    is_old = data.startswith(_OLD_FORM)
    packing = _CHIPS.get(number) or (told or {}).get(number)
    values = _unpacked(data, packing, bandwidth) if packing else None
    if values is None:
        packing, values = _told_by_nulls(data, bandwidth, number)
        if told is not None:
            told[number] = packing
    core, stream = link & 7, link >> 3 & 7
    header = {
        "chip": f"bcm{packing}",
        "chip_number": number,
        "bandwidth_mhz": bandwidth,
        "channel_specification": channel,
        "links": ((core, stream),),
        "wifi_sequence": sequence,
        "frame_control": None if is_old else frame_control,
    }
    return Frame(
        values,
        transmitter=f"{mac.hex(':')}/core{core}/stream{stream}",
        rssi_dbm=float(rssi) if not is_old and rssi < 0 else None,
        format=NAME,
        header=header,
        tone_layout=f"nexmon_{bandwidth}",
    )


def _unpacked(data: bytes, packing: str, bandwidth: int) -> npt.NDArray[np.complex64]:
    module = csiread()
    form = module.Nexmon if data.startswith(_OLD_FORM) else module.NexmonPull46
    parser = form(None, packing, bandwidth, if_report=False)
    parser.pmsg(data)
    values: npt.NDArray[np.complex64] = parser.csi[0].astype(np.complex64)
    return values


def _told_by_nulls(data: bytes, bandwidth: int, number: int) -> tuple[str, npt.NDArray[np.complex64]]:
    null = tone_table(f"nexmon_{bandwidth}").null_mask
    fitting = []
    for packing in _PACKINGS:
        values = _unpacked(data, packing, bandwidth)
        amplitude = np.abs(values)
        if float(np.median(amplitude[null])) < _WEAK * float(np.median(amplitude[~null])):
            fitting.append((packing, values))
    if len(fitting) == 1:
        return fitting[0]
    got = " or ".join(name for name, _ in fitting) or "none of them"
    raise FrameError(
        f"Nexmon datagram: chip 0x{number:04X} is not known: expected weak nulls under one packing of "
        f"{', '.join(_PACKINGS)}, got {got}",
        "unknown_chip",
    )


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer Nexmon captures."""
    return [NexmonDecoder()]
