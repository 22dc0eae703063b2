"""Encoders of captures: bytes as the tools write them, from values that a test knows.

Written from the tools' descriptions of their formats, and by other means than the decoders: bits are laid out
one by one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.complex128]

MAC = bytes.fromhex("001122334455")


def matrix(n_tones: int, n_rx: int, n_tx: int, seed: int = 0, most: int = 120) -> Matrix:
    """Whole values that fit eight bits: ``[n_tones, n_rx, n_tx]``."""
    random = np.random.default_rng(seed)
    real, imaginary = random.integers(-most, most + 1, (2, n_tones, n_rx, n_tx))
    return np.asarray(real + 1j * imaginary)


class _Bits:
    """Bits from the lowest of the first byte on."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def put(self, value: int, n: int) -> None:
        self.bits += [value >> i & 1 for i in range(n)]

    def pack(self) -> bytes:
        return np.packbits(np.array(self.bits, dtype=np.uint8), bitorder="little").tobytes()


def intel5300(
    channel: Matrix,
    *,
    order: Sequence[int] = (0, 1, 2),
    count: int = 7,
    clock: int = 1_000_000,
    rssi: Sequence[int] = (30, 31, 32),
    noise: int = -92,
    agc: int = 40,
    rate: int = 0x101,
) -> bytes:
    """A record of the Linux 802.11n CSI Tool, without its length; ``order`` is the antenna of each chain."""
    n_tones, n_rx, n_tx = channel.shape
    bits = _Bits()
    for tone in range(n_tones):
        bits.put(0, 3)
        for chain in range(n_rx):
            for tx in range(n_tx):
                value = channel[tone, order[chain] if order[chain] < n_rx else chain, tx]
                bits.put(int(value.real) & 0xFF, 8)
                bits.put(int(value.imag) & 0xFF, 8)
    payload = bits.pack()
    selected = order[0] | order[1] << 2 | order[2] << 4
    head = struct.pack(
        "<BIHHBBBBBbBBHH", 0xBB, clock, count, 0, n_rx, n_tx, *rssi, noise, agc, selected, len(payload), rate
    )
    return head + payload


def intel5300_file(packets: Sequence[bytes]) -> bytes:
    """A ``.dat`` file."""
    return b"".join(struct.pack(">H", len(packet)) + packet for packet in packets)


def ten_bits(channel: Matrix, *, rx_varies_first: bool) -> bytes:
    """Values of ten bits a part, imaginary first, tone by tone."""
    n_tones, n_rx, n_tx = channel.shape
    links = [(rx, tx) for tx in range(n_tx) for rx in range(n_rx)]
    if not rx_varies_first:
        links = [(rx, tx) for rx in range(n_rx) for tx in range(n_tx)]
    bits = _Bits()
    for tone in range(n_tones):
        for rx, tx in links:
            bits.put(int(channel[tone, rx, tx].imag) & 0x3FF, 10)
            bits.put(int(channel[tone, rx, tx].real) & 0x3FF, 10)
    return bits.pack()


def atheros(channel: Matrix, *, endian: str = "<", payload: bytes = b"payload", clock: int = 5_000) -> bytes:
    """A record of the Atheros CSI Tool, without its length."""
    n_tones, n_rx, n_tx = channel.shape
    packed = ten_bits(channel, rx_varies_first=False)
    wide = int(n_tones == 114)
    levels = (40, 41, 42, 43)
    fields = (clock, len(packed), 2437, 0, 0, 140, wide, n_tones, n_rx, n_tx, *levels, len(payload))
    return struct.pack(f"{endian}QHHBBBBBBBBBBBH", *fields) + packed + payload


def atheros_file(records: Sequence[bytes], endian: str = "<") -> bytes:
    """A file of such records."""
    return b"".join(struct.pack(f"{endian}H", len(record)) + record for record in records)


def nexmon(values: npt.NDArray[np.complex128], *, chip: int = 0x65, core: int = 0, stream: int = 0) -> bytes:
    """A datagram of nexmon_csi with int16 pairs, as the chips 4339 and 43455c0 write them."""
    head = struct.pack("<I6sHHHH", 0x1111_1111, MAC, 0x10, core | stream << 3, 0xE02A, chip)
    return head + np.stack([values.real, values.imag], axis=-1).astype("<i2").tobytes()


def pcap(payloads: Sequence[bytes], *, endian: str = "<", link: int = 1, seconds: int = 1_500_000_000) -> bytes:
    """A capture of UDP datagrams, ten milliseconds apart."""
    parts = [struct.pack(f"{endian}IHHiIII", 0xA1B2_C3D4, 2, 4, 0, 0, 1 << 18, link)]
    for i, payload in enumerate(payloads):
        packet = ethernet(payload)
        parts.append(struct.pack(f"{endian}IIII", seconds, 10_000 * i, len(packet), len(packet)) + packet)
    return b"".join(parts)


def ethernet(payload: bytes, protocol: int = 17) -> bytes:
    """An Ethernet packet with an IPv4 datagram in it."""
    udp = struct.pack(">HHHH", 5500, 5500, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(udp), 1, 0, 1, protocol, 0, 0x0A0A0A0A, 0xFFFFFFFF)
    return b"\xff" * 6 + b"NEXMON" + b"\x08\x00" + ip + udp


def feitcsi(
    channel: Matrix, *, micros: int = 1000, levels: tuple[int, int] = (41, 39), rate: int = 2 << 8, mac: bytes = MAC
) -> bytes:
    """A record of FeitCSI."""
    n_tones, n_rx, n_tx = channel.shape
    by_link = channel.transpose(1, 2, 0).reshape(-1)
    body = np.stack([by_link.real, by_link.imag], axis=-1).astype("<i2").tobytes()
    head = bytearray(272)
    struct.pack_into("<I", head, 0, len(body))
    head[46:48] = bytes([n_rx, n_tx])
    struct.pack_into("<I", head, 52, n_tones)
    struct.pack_into("<II", head, 60, *levels)
    head[68:74] = mac
    struct.pack_into("<II", head, 88, micros, rate)
    return bytes(head) + body


def picoscenes_segment(name: str, version: int, body: bytes) -> bytes:
    """A segment of a PicoScenes frame."""
    inner = struct.pack("<B", len(name)) + name.encode() + struct.pack("<H", version) + body
    return struct.pack("<I", len(inner)) + inner


def picoscenes_frame(*segments: bytes, mpdu: bytes = b"\xd0\0\0\0" + b"\xff" * 6 + MAC + bytes(8)) -> bytes:
    """A PicoScenes frame of segments, and the WiFi packet that was received."""
    inner = struct.pack("<IHB", 0x2015_0315, 1, len(segments)) + b"".join(segments) + mpdu
    return struct.pack("<I", len(inner)) + inner


def picoscenes_csi(channel: Matrix, *, device: int = 0x9300, version: int = 3, bandwidth: int = 20) -> bytes:
    """The segment with the matrix."""
    n_tones, n_rx, n_tx = channel.shape
    payload = intel5300(channel)[21:] if device == 0x5300 else ten_bits(channel, rx_varies_first=True)
    common = (device, 1, bandwidth, 2_437_000_000, 20_000_000, 312_500, n_tones, n_tx, n_rx, 0)
    last = {1: (0,), 2: (0, 0), 3: (1, 0, 0)}[version]
    layout = {1: "<HbHQQIHBBBBI", 2: "<HbHQQIHBBBBhI", 3: "<HbHQQIHBBBHBhI"}[version]
    return picoscenes_segment("CSI", version, struct.pack(layout, *common, *last, len(payload)) + payload)


def picoscenes_basic(version: int = 3, *, noise: int = -95, rssi: int = -40, clock: int = 123_456) -> bytes:
    """The segment with clock and levels."""
    levels = (noise, rssi, rssi, rssi, rssi)
    if version == 3:
        body = struct.pack("<HQhhHBHHBBBBBBbbbbb", 0x9300, clock, 2437, 2437, 20, 1, 20, 800, 3, 2, 0, 3, 1, 0, *levels)
    else:
        users = (1, 0) if version == 2 else ()
        layout = f"<HQhBHHBBBB{'BB' if users else ''}bbbbb"
        body = struct.pack(layout, 0x9300, clock, 2437, 1, 20, 800, 3, 2, 0, 3, *users, *levels)
    return picoscenes_segment("RxSBasic", version, body)


def picoscenes(channel: Matrix, **csi: int) -> bytes:
    """A whole PicoScenes frame."""
    return picoscenes_frame(picoscenes_basic(), picoscenes_csi(channel, **csi))


def rvcsi(values: npt.NDArray[np.complex128], **fields: object) -> bytes:
    """A line of a ``.rvcsi`` file."""
    record = {
        "i_values": values.real.tolist(),
        "q_values": values.imag.tolist(),
        "amplitude": np.abs(values).tolist(),
        "phase": np.angle(values).tolist(),
        **fields,
    }
    return json.dumps(record).encode()


def esp_csi(values: npt.NDArray[np.complex128], sequence: int = 5) -> bytes:
    """A line of Espressif's esp-csi, in the form of the C5 and C6."""
    pairs = np.stack([values.imag, values.real], axis=-1).astype(int).reshape(-1)
    numbers = ",".join(map(str, pairs))
    return f'CSI_DATA,{sequence},aa:bb,-50,11,-97,0,30,6,5000000,101,0,{pairs.size},0,"[{numbers}]"'.encode()
