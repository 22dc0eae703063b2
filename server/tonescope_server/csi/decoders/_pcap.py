"""UDP payloads in classic pcap files.

Ethernet captures of IPv4 alone; what the payloads hold is not known here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tonescope_server.csi.decoders._records import Truncated, records
from tonescope_server.errors import RecordingError

HEADER_BYTES = 24
_PACKET_HEADER_BYTES = 16
_ETHERNET_BYTES, _UDP_BYTES = 14, 8
_ETHERNET, _IPV4, _UDP = 1, 0x0800, 17

# The magic number tells byte order and the unit of the fraction of a second.
_MAGIC: dict[bytes, tuple[Literal["little", "big"], int]] = {
    b"\xd4\xc3\xb2\xa1": ("little", 1000),
    b"\xa1\xb2\xc3\xd4": ("big", 1000),
    b"\x4d\x3c\xb2\xa1": ("little", 1),
    b"\xa1\xb2\x3c\x4d": ("big", 1),
}


@dataclass(frozen=True, slots=True)
class Datagram:
    """A packet of a capture.

    Attributes:
        at: where in the file it starts.
        time_ns: when it was captured, nanoseconds since the Unix epoch.
        payload: of its UDP datagram; None where it is another kind of packet, or cut short.
    """

    at: int
    time_ns: int
    payload: bytes | None


def is_pcap(head: bytes) -> bool:
    """Say whether a file starts as a pcap file."""
    return head[:4] in _MAGIC


def datagrams(path: Path) -> Iterator[Datagram]:
    """Read the packets of a capture.

    Raises:
        RecordingError: not a pcap file, or one of another link layer than Ethernet.
    """
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES or not is_pcap(head):
        raise RecordingError(f"recording {path.name!r}: expected a pcap file, got another")
    endian, unit_ns = _MAGIC[head[:4]]
    link = int.from_bytes(head[20:24], endian) & 0xFFFF
    if link != _ETHERNET:
        raise RecordingError(f"recording {path.name!r}: expected an Ethernet capture, got link type {link}")
    order = "<" if endian == "little" else ">"
    fields = struct.Struct(f"{order}IIII")

    def size_of(prefix: bytes) -> int:
        return _PACKET_HEADER_BYTES + int(fields.unpack(prefix)[2])

    for at, record in records(path, _PACKET_HEADER_BYTES, size_of, HEADER_BYTES):
        if isinstance(record, Truncated):
            yield Datagram(at, 0, None)
            return
        seconds, fraction, _, _ = fields.unpack_from(record)
        payload = udp_payload(record[_PACKET_HEADER_BYTES:])
        yield Datagram(at, seconds * 1_000_000_000 + fraction * unit_ns, payload)


def udp_payload(packet: bytes) -> bytes | None:
    """Take the payload out of an Ethernet packet; None where it is not whole UDP over IPv4."""
    if len(packet) < _ETHERNET_BYTES + 20 or int.from_bytes(packet[12:14], "big") != _IPV4:
        return None
    header_bytes = 4 * (packet[_ETHERNET_BYTES] & 15)
    at = _ETHERNET_BYTES + header_bytes
    if header_bytes < 20 or packet[_ETHERNET_BYTES + 9] != _UDP or len(packet) < at + _UDP_BYTES:
        return None
    size = int.from_bytes(packet[at + 4 : at + 6], "big")
    if size < _UDP_BYTES or len(packet) < at + size:
        return None
    return packet[at + _UDP_BYTES : at + size]
