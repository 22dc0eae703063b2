"""PicoScenes captures: frames of named, versioned segments; the segment ``CSI`` holds the matrix.

Read for the two cards whose buffers are documented, QCA9300 and Intel 5300; frames of others (AX200, AX210,
software radios) are refused by name. The walk over segments is done here; csiread then unpacks a frame rebuilt
from the two segments that were checked, and lists the subcarrier index of every row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._csiread import csiread
from tonescope_server.csi.decoders._links import by_link
from tonescope_server.csi.decoders._records import Truncated, records
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import layouts_of_length
from tonescope_server.errors import FrameError, ShortFrameError, WrongMagicError
from tonescope_server.marker import hookimpl

NAME = "picoscenes"
MAGIC = 0x2015_0315
QCA9300, IWL5300 = 0x9300, 0x5300
DEVICES = MappingProxyType({QCA9300: "qca9300", IWL5300: "intel5300"})
_OTHER_DEVICES = MappingProxyType(
    {0x2000: "AX200", 0x2100: "AX210", 0x1234: "USRP", 0x1000: "a virtual radio", 0x802: "mac80211"}
)

_FRAME = struct.Struct("<IIHB")  # length without itself, magic, version, segments
_MAC_BYTES = 24
_MOST_SEGMENTS = 64
# Device, packet format, bandwidth, carrier, sampling rate, spacing, tones, streams, antennas, extra streams.
_CSI_HEADERS = MappingProxyType(
    {
        1: struct.Struct("<HbHQQIHBBBBI"),  # …, antenna selection, size of the buffer
        2: struct.Struct("<HbHQQIHBBBBhI"),  # …, and an offset of the indices
        3: struct.Struct("<HbHQQIHBBBHBhI"),  # …, and the number of measurements
    }
)
_BASIC_SIZES = MappingProxyType({1: 26, 2: 28, 3: 32})
# Where in ``RxSBasic`` the noise floor is: RSSI follows, relative to it before version 3.
_NOISE_AT = MappingProxyType({1: 21, 2: 23, 3: 27})
_TONES = MappingProxyType({(QCA9300, 20): 56, (QCA9300, 40): 114, (IWL5300, 20): 30, (IWL5300, 40): 30})
_HT = 1


@dataclass(frozen=True, slots=True)
class _Segment:
    name: str
    version: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Sizes:
    device: int
    bandwidth: int
    carrier_hz: int
    n_tones: int
    n_rx: int
    n_tx: int


def decode(data: bytes) -> Frame:
    """Decode one frame.

    Shapes:
        ``Frame.values`` is ``[n_rx * n_tx, n_tones]``: see ``header["links"]``; extra sounding streams count as
        transmitted ones.

    Raises:
        WrongMagicError: not a frame of PicoScenes.
        ShortFrameError: fewer bytes than a size announces.
        FrameError: a segment missing or damaged, or (of the kind "other_device") a card that is not read.
        RecordingError: csiread is not installed.
    """
    segments, rest = _segments(data)
    csi, basic = segments.get("CSI"), segments.get("RxSBasic")
    if csi is None:
        raise FrameError("PicoScenes frame: expected a segment 'CSI', got none", "no_csi")
    sizes = _sizes(csi)
    raw = _unpacked(csi, sizes)
    values, links = by_link(raw["CSI"])
    indices = tuple(int(k) for k in raw["SubcarrierIndex"])
    header: dict[str, Any] = {
        "chip": DEVICES[sizes.device],
        "bandwidth_mhz": sizes.bandwidth,
        "frequency_mhz": round(sizes.carrier_hz / 1e6),
        "links": links,
        "subcarrier_index": indices,
        "clock": "boot",
    }
    return Frame(
        values,
        transmitter=rest[10:16].hex(":") if len(rest) >= _MAC_BYTES else "",
        format=NAME,
        header=header,
        tone_layout=layout_of_indices(indices),
        **_reception(basic),
    )


class PicoScenesDecoder:
    """Frames of PicoScenes, one by one or in a ``.csi`` file."""

    name = NAME
    summary = "PicoScenes captures of QCA9300 and Intel 5300 cards (.csi)"

    def decode(self, data: bytes) -> Frame:
        """Decode one frame: see ``decode`` of this module."""
        return decode(data)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with the magic number of a frame."""
        return len(head) >= _FRAME.size and _FRAME.unpack_from(head)[1:3] == (MAGIC, 1)

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the frames of a file.

        Raises:
            RecordingError: csiread is not installed.
        """
        csiread()
        for at, record in records(path, 4, lambda prefix: 4 + int.from_bytes(prefix, "little")):
            where = f"{path.name}, byte {at}"
            if isinstance(record, Truncated):
                yield Skipped("short", f"{where}: the file ends within a frame, or its size is impossible")
                return
            try:
                yield decode(record)
            except FrameError as error:
                yield Skipped(error.kind, f"{where}: {error}")


@lru_cache(maxsize=64)
def layout_of_indices(indices: tuple[int, ...]) -> str:
    """Name the layout of training tones whose rows have these subcarrier indices; "" where it is none known."""
    for table in layouts_of_length(len(indices)):
        fields = {tone.training_field for tone in table}
        if fields == {"ht_ltf"} and not table.null_rows and tuple(t.subcarrier_index for t in table) == indices:
            return table.id
    return ""


def _segments(data: bytes) -> tuple[Mapping[str, _Segment], bytes]:
    """Walk over the segments of a frame; return them by name, and the WiFi packet that follows them."""
    if len(data) < _FRAME.size:
        raise ShortFrameError(f"PicoScenes frame: expected a header of {_FRAME.size} bytes, got {len(data)}")
    length, magic, version, count = _FRAME.unpack_from(data)
    if magic != MAGIC or version != 1:
        raise WrongMagicError(
            f"PicoScenes frame: expected magic 0x{MAGIC:08X} and version 1, got 0x{magic:08X} and {version}"
        )
    if len(data) != length + 4:
        error = ShortFrameError if len(data) < length + 4 else FrameError
        raise error(f"PicoScenes frame: expected {length + 4} bytes, got {len(data)}")
    if count > _MOST_SEGMENTS:
        raise FrameError(f"PicoScenes frame: expected at most {_MOST_SEGMENTS} segments, got {count}")
    found: dict[str, _Segment] = {}
    at = _FRAME.size
    for _ in range(count):
        segment, at = _segment(data, at)
        found[segment.name] = segment
    return found, data[at:]


def _segment(data: bytes, at: int) -> tuple[_Segment, int]:
    """Read one segment; return it, and where the next one starts."""
    size = int.from_bytes(data[at : at + 4], "little")
    end = at + 4 + size
    name_bytes = data[at + 4] if at + 4 < len(data) else 0
    body_at = at + 5 + name_bytes + 2
    if end > len(data) or body_at > end:
        raise ShortFrameError(
            f"PicoScenes frame: expected a segment of {size} bytes at byte {at}, got {len(data) - at}"
        )
    name = data[at + 5 : at + 5 + name_bytes].rstrip(b"\0").decode("latin-1")
    return _Segment(name, int.from_bytes(data[body_at - 2 : body_at], "little"), data[body_at:end]), end


def _sizes(csi: _Segment) -> _Sizes:
    """Check the sizes that a segment states against each other."""
    layout = _CSI_HEADERS.get(csi.version)
    if layout is None:
        raise FrameError(
            f"PicoScenes frame: expected segment CSI in version 1 to 3, got {csi.version}", "other_version"
        )
    if len(csi.body) < layout.size:
        raise ShortFrameError(f"PicoScenes frame: expected {layout.size} bytes of CSI header, got {len(csi.body)}")
    device, form, bandwidth, carrier_hz, _, _, n_tones, n_tx, n_rx, *_, size = layout.unpack_from(csi.body)
    if device not in DEVICES:
        known = " or ".join(DEVICES.values())
        got = _OTHER_DEVICES.get(device, f"0x{device:04X}")
        raise FrameError(f"PicoScenes frame: expected a frame of {known}, got one of {got}", "other_device")
    if form != _HT or _TONES.get((device, bandwidth)) != n_tones:
        got = f"format {form}, {bandwidth} MHz, {n_tones} tones"
        raise FrameError(f"PicoScenes frame: expected an HT frame of 20 or 40 MHz, got {got}")
    if len(csi.body) != layout.size + size:
        error = ShortFrameError if len(csi.body) < layout.size + size else FrameError
        raise error(f"PicoScenes frame: expected {size} bytes of values, got {len(csi.body) - layout.size}")
    streams = _streams(device, n_tones, n_rx, size)
    if not 1 <= n_tx <= streams:
        raise FrameError(f"PicoScenes frame: expected 1 to {streams} streams for {size} bytes, got {n_tx}")
    return _Sizes(device, bandwidth, carrier_hz, n_tones, n_rx, streams)


def _streams(device: int, n_tones: int, n_rx: int, size: int) -> int:
    """Work out from the size of the buffer how many streams were measured, extra ones among them."""
    each, more = (n_tones * 20 // 8, 0) if device == QCA9300 else (60, 12)
    streams, rest = divmod(size - more, each * n_rx) if n_rx else (0, 1)
    if rest or not (1 <= n_rx <= 3 and 1 <= streams <= 3):
        raise FrameError(f"PicoScenes frame: expected 1 to 3 antennas at either end, got {n_rx} and {size} bytes")
    return streams


def _unpacked(csi: _Segment, sizes: _Sizes) -> Any:
    name = b"CSI"
    inner = struct.pack("<B", len(name)) + name + struct.pack("<H", csi.version) + csi.body
    segment = struct.pack("<I", len(inner)) + inner
    body = struct.pack("<IHB", MAGIC, 1, 1) + segment + bytes(64)  # an empty WiFi packet
    parser = csiread().Picoscenes(None, {"CSI": [sizes.n_tones, sizes.n_rx, sizes.n_tx]}, if_report=False)
    parser.pmsg(struct.pack("<I", len(body)) + body)
    if parser.raw is None:
        # csiread 1.4 shows what it has unpacked only after the next message that is none.
        parser.pmsg(bytes(16))
    return parser.raw["CSI"][0]


def _reception(basic: _Segment | None) -> dict[str, Any]:
    """Take clock and levels out of segment ``RxSBasic``, where it is there and as long as its version asks."""
    if basic is None or _BASIC_SIZES.get(basic.version) != len(basic.body):
        return {}
    at = _NOISE_AT[basic.version]
    noise, rssi = (int(level) for level in np.frombuffer(basic.body, np.int8, count=2, offset=at))
    clock = int.from_bytes(basic.body[2:10], "little")
    level = rssi if basic.version == 3 else noise + rssi
    return {
        "capture_time_ns": clock * 1000 if clock < 1 << 53 else None,
        "noise_floor_dbm": float(noise) if noise < 0 else None,
        "rssi_dbm": float(level) if level < 0 else None,
    }


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer PicoScenes captures."""
    return [PicoScenesDecoder()]
