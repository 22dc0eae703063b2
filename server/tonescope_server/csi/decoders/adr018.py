"""ADR-018: the CSI packets that ESP32 nodes send over UDP, and the other packets that share their port.

A packet: a 20-byte little-endian header, then two int8 for each tone of each antenna, imaginary before real.
``packet_kind`` names every packet known on the port; only CSI is decoded. Reading sockets does not belong
here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, RecordingError, ShortFrameError, WrongMagicError
from tonescope_server.marker import hookimpl

NAME = "adr018"
CSI_MAGIC = 0xC511_0001
CSI_KIND = "csi"
UNKNOWN_KIND = "unknown_magic"
HEADER_BYTES = 20

# Kind and size in bytes of everything else on the port; None where the size varies or is not documented.
OTHER_PACKETS: Mapping[int, tuple[str, int | None]] = MappingProxyType(
    {
        0xC511_0002: ("vitals", 32),
        0xC511_0003: ("feature", 48),
        0xC511_0004: ("fused_vitals", 48),
        0xC511_0005: ("compressed", None),
        0xC511_0006: ("feature_state", 60),
        0xC511_0007: ("adr018_0007", None),
        0xC511_A110: ("sync", 32),
        0xC511_8100: ("mesh", None),
    }
)

_HEADER = struct.Struct("<IBBHIIbbBB")
_PPDU = {0: "ht_or_legacy", 1: "he_su", 2: "he_mu", 3: "he_tb", 255: "unknown"}
_FLAG_40_MHZ, _FLAG_STBC, _FLAG_LDPC, _FLAG_SYNCED = 1, 2, 4, 16


def kind_of_magic(magic: int) -> str:
    """Name the packet kind of a magic number: ``"csi"``, ``"vitals"``, …, or ``"unknown_magic"``."""
    if magic == CSI_MAGIC:
        return CSI_KIND
    kind, _ = OTHER_PACKETS.get(magic, (UNKNOWN_KIND, None))
    return kind


def packet_kind(data: bytes) -> str:
    """Name the kind of a packet: as ``kind_of_magic``, or ``"short"`` for less than a magic number."""
    return kind_of_magic(int.from_bytes(data[:4], "little")) if len(data) >= 4 else "short"


def channel_values(pairs: npt.NDArray[np.generic]) -> npt.NDArray[np.complex64]:
    """Turn a flat buffer of (imaginary, real) integers, as Espressif chips write it, into complex64 values.

    Shapes:
        pairs: ``[2 n]`` → ``[n]``.

    Source: Espressif's Wi-Fi guide: the first of the two bytes of a tone is the imaginary part.
    """
    values = np.empty(pairs.shape[0] // 2, dtype=np.complex64)
    values.imag = pairs[0::2]
    values.real = pairs[1::2]
    return values


def decode(data: bytes) -> Frame:
    """Decode one CSI packet.

    Shapes:
        ``Frame.values`` is ``[n_tones]``, or ``[n_antennas, n_tones]`` for more than one antenna.

    Raises:
        WrongMagicError: another kind of packet, named where it is known.
        ShortFrameError: fewer bytes than the header announces.
        FrameError: more bytes than that, or no tones.
    """
    _check_magic(data)
    if len(data) < HEADER_BYTES:
        raise ShortFrameError(f"ADR-018 packet: expected a header of {HEADER_BYTES} bytes, got {len(data)}")
    _, node, antennas, tones, mhz, sequence, rssi, noise, ppdu, flags = _HEADER.unpack_from(data)
    if antennas == 0 or tones == 0:
        raise FrameError(
            f"ADR-018 packet of node {node}: expected at least one antenna and tone, got {antennas} x {tones}"
        )
    expected = HEADER_BYTES + 2 * antennas * tones
    if len(data) != expected:
        error = ShortFrameError if len(data) < expected else FrameError
        raise error(
            f"ADR-018 packet of node {node}: expected {expected} bytes for {antennas} x {tones} tones, got {len(data)}"
        )
    values = channel_values(np.frombuffer(data, np.int8, offset=HEADER_BYTES))
    if antennas > 1:
        values = values.reshape(antennas, tones)
    header = {
        "frequency_mhz": mhz,
        "ppdu": _PPDU.get(ppdu, "unknown"),
        "bandwidth_mhz": 40 if flags & _FLAG_40_MHZ else 20,
        "stbc": bool(flags & _FLAG_STBC),
        "ldpc": bool(flags & _FLAG_LDPC),
        "synced": bool(flags & _FLAG_SYNCED),
    }
    return Frame(
        values,
        node_id=node,
        sequence=sequence,
        rssi_dbm=_dbm(rssi),
        noise_floor_dbm=_dbm(noise),
        format=NAME,
        header=header,
    )


def encode(
    values: npt.NDArray[np.generic],
    *,
    node_id: int = 0,
    sequence: int = 0,
    frequency_mhz: int = 2437,
    rssi_dbm: int = 0,
    noise_floor_dbm: int = 0,
    ppdu: int = 0,
    flags: int = 0,
) -> bytes:
    """Encode one CSI packet: the inverse of ``decode``. Parts are rounded to whole numbers.

    Shapes:
        values: complex or real, ``[n_tones]`` or ``[n_antennas, n_tones]``.

    Raises:
        FrameError: a part outside −128 … 127 or not finite, another shape, or a field out of range.
    """
    channel = np.atleast_2d(np.asarray(values, dtype=np.complex64))
    if channel.ndim != 2 or not 1 <= channel.shape[0] <= 255 or not 1 <= channel.shape[1] <= 65_535:
        raise FrameError(f"ADR-018 packet: expected (antennas, tones) values, got shape {channel.shape}")
    parts = np.rint(np.stack([channel.imag, channel.real], axis=-1))
    if not ((parts >= -128) & (parts <= 127)).all():
        raise FrameError("ADR-018 packet: expected finite parts in -128 … 127, got others")
    antennas, tones = channel.shape
    fields = (node_id, antennas, tones, frequency_mhz, sequence, rssi_dbm, noise_floor_dbm, ppdu, flags)
    try:
        header = _HEADER.pack(CSI_MAGIC, *fields)
    except struct.error as error:
        raise FrameError(f"ADR-018 packet: header field out of range: {error}") from error
    return header + parts.astype(np.int8).tobytes()


def _check_magic(data: bytes) -> None:
    if len(data) < 4:
        raise ShortFrameError(f"ADR-018 packet: expected a header of {HEADER_BYTES} bytes, got {len(data)}")
    magic = int.from_bytes(data[:4], "little")
    if magic == CSI_MAGIC:
        return
    kind, size = OTHER_PACKETS.get(magic, (UNKNOWN_KIND, None))
    oddity = f" of {len(data)} bytes where {size} are usual" if size not in (None, len(data)) else ""
    what = "an unknown packet" if kind == UNKNOWN_KIND else kind
    raise WrongMagicError(
        f"ADR-018 packet: expected CSI (magic 0x{CSI_MAGIC:08X}), got {what} (magic 0x{magic:08X}){oddity}", kind
    )


def _dbm(value: int) -> float | None:
    """Nodes write zero, or a positive number, where they know no level: no received level is that high."""
    return float(value) if value < 0 else None


class Adr018Decoder:
    """ADR-018 packets, one by one or back to back in a file."""

    name = NAME
    summary = "ADR-018 UDP packets of ESP32 nodes"

    def decode(self, data: bytes) -> Frame:
        """Decode one packet: see ``decode`` of this module."""
        return decode(data)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with a packet known on the port."""
        return packet_kind(head) not in (UNKNOWN_KIND, "short")

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read packets that lie back to back.

        Raises:
            RecordingError: bytes from which the next packet cannot be found.
        """
        data = path.read_bytes()
        at = 0
        while at < len(data):
            size = _packet_bytes(data, at)
            if size is None:
                raise RecordingError(f"recording {path.name!r}: expected an ADR-018 packet at byte {at}")
            packet = data[at : at + size]
            at += size
            try:
                yield decode(packet)
            except FrameError as error:
                yield Skipped(error.kind, str(error))


def _packet_bytes(data: bytes, at: int) -> int | None:
    """Give the size of the packet at ``at``; None where nothing says it."""
    magic = int.from_bytes(data[at : at + 4], "little")
    if magic != CSI_MAGIC:
        return OTHER_PACKETS.get(magic, ("", None))[1]
    if len(data) - at < HEADER_BYTES:
        return len(data) - at
    _, _, antennas, tones, *_ = _HEADER.unpack_from(data, at)
    return HEADER_BYTES + 2 * int(antennas) * int(tones)


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer ADR-018."""
    return [Adr018Decoder()]
