"""Mutated packets through every packet decoder: no crash, no hang, no growth of memory, every refusal typed.

``python -m tests.fuzz`` runs a million, in a process of its own: a crash of compiled code is then a failure that
nothing hides. Tests run fewer through the same functions.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests import captures
from tonescope_server.csi.decoders import Decoder, adr018
from tonescope_server.csi.frames import Frame
from tonescope_server.errors import FrameError
from tonescope_server.plugin.host import PluginHost

# Formats whose files hold many frames have no packets.
FILES_ALONE = frozenset({"numpy", "parquet", "ruview_paired"})
STALLED_S = 120
MOST_GROWTH_BYTES = 16 << 20
ROUND = 2000
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)

Random = np.random.Generator


def samples() -> dict[str, list[bytes]]:
    """Sound packets of every format, by the decoder's name."""
    channel = captures.matrix(56, 2, 2)
    esp = np.conj(captures.matrix(64, 1, 1)[:, 0, 0])
    tool = "CSI_DATA,AP,3C:71,-73,11,1,0,1,1,1,0,0,0,0,-93,0,1,1,80272146,0,101,0,0,80.363225,8,[101 -48 5 0 0 0 3 4]"
    vitals = b'{"type": "vitals", "magic": "0xC5110002"}'
    nexmon = [captures.nexmon(np.repeat(captures.matrix(n, 1, 1)[:, 0, 0], 1), chip=c) for n, c in _NEXMON]
    return {
        "adr018": [adr018.encode(esp, sequence=3), adr018.encode(channel[:, :, 0].T), b"\x02\x00\x11\xc5" + bytes(28)],
        "esp_csi_csv": [captures.esp_csi(esp)],
        "esp32_csi_tool": [tool.encode()],
        "ruview_jsonl": [b'{"type": "raw_csi", "iq_hex": "' + b"01ff" * 64 + b'", "subcarriers": 64}', vitals],
        "rvcsi": [captures.rvcsi(esp, timestamp_ns=17, rssi_dbm=-50)],
        "feitcsi": [captures.feitcsi(channel), captures.feitcsi(captures.matrix(242, 2, 1))],
        "intel5300": [captures.intel5300(captures.matrix(30, rx, tx)) for rx, tx in ((3, 3), (3, 2), (1, 1))],
        "atheros": [captures.atheros(channel), captures.atheros(captures.matrix(114, 1, 1), endian=">")],
        "nexmon": nexmon,
        "picoscenes": [
            captures.picoscenes(channel),
            captures.picoscenes(captures.matrix(30, 3, 2), device=0x5300, version=1),
            captures.picoscenes(captures.matrix(114, 1, 1), bandwidth=40, version=2),
        ],
    }


_NEXMON = ((256, 0x65), (256, 0x6A), (128, 0x65), (64, 0xDEAD))


def flipped(random: Random, data: bytearray) -> bytes:
    """Change a few bytes, most of them in the first hundred."""
    for _ in range(random.integers(1, 9)):
        data[_place(random, len(data))] = random.integers(256)
    return bytes(data)


def extreme(random: Random, data: bytearray) -> bytes:
    """Put an extreme number in place of one to four bytes."""
    size = int(random.integers(1, 5))
    value = int(random.choice(_EXTREMES)) % (1 << 8 * size)
    at = _place(random, len(data))
    data[at : at + size] = value.to_bytes(size, "little" if random.integers(2) else "big")
    return bytes(data)


def cut(random: Random, data: bytearray) -> bytes:
    """Leave the end off."""
    return bytes(data[: random.integers(len(data))])


def extended(random: Random, data: bytearray) -> bytes:
    """Add random bytes."""
    return bytes(data) + random.bytes(int(random.integers(1, 64)))


def repeated(random: Random, data: bytearray) -> bytes:
    """Repeat a piece in the middle."""
    at, size = int(random.integers(len(data))), int(random.integers(1, 64))
    return bytes(data[:at] + data[at : at + size] * 2 + data[at + size :])


def random_bytes(random: Random, data: bytearray) -> bytes:
    """Keep a few bytes and fill the rest."""
    keep = int(random.integers(0, min(len(data), 64)))
    return bytes(data[:keep]) + random.bytes(len(data) - keep)


MUTATIONS: Sequence[Callable[[Random, bytearray], bytes]] = (
    flipped,
    flipped,
    extreme,
    cut,
    extended,
    repeated,
    random_bytes,
)


def _place(random: Random, size: int) -> int:
    return int(random.integers(min(size, 100) if random.integers(2) else size))


def mutated(sound: Sequence[bytes], n: int, random: Random) -> Iterator[bytes]:
    """Give ``n`` packets, each mutated once or twice."""
    for _ in range(n):
        data = sound[random.integers(len(sound))]
        for _ in range(random.integers(1, 3)):
            data = MUTATIONS[random.integers(len(MUTATIONS))](random, bytearray(data or b"\0"))
        yield data


@dataclass
class Outcome:
    """What became of the packets of one decoder: frames read, refusals by kind, and the slowest packet."""

    frames: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    @property
    def total(self) -> int:
        return self.frames + self.refused.total()


def put_through(decoder: Decoder, packets: Iterator[bytes], outcome: Outcome) -> None:
    """Decode packets; anything but a frame or a frame error is raised."""
    for data in packets:
        start = time.perf_counter()
        try:
            frame = decoder.decode(data)
        except FrameError as error:
            check_refusal(error)
            outcome.refused[error.kind] += 1
        else:
            check(frame, data)
            outcome.frames += 1
        outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - start)


def check_refusal(error: FrameError) -> None:
    """Hold a refusal against what every refusal is: one line, and counted under a kind."""
    assert error.kind, f"a refusal without a kind: {error}"
    assert len(str(error).splitlines()) == 1, f"a refusal of several lines: {error!r}"


def check(frame: Frame, data: bytes) -> None:
    """Hold a frame against what every frame is: finite values of one or two axes, and a table of as many rows."""
    assert frame.values.ndim in (1, 2), data
    assert frame.values.size, data
    assert np.isfinite(frame.values).all(), data
    assert len(frame.tones) == frame.n_tones, data
    links = frame.header.get("links")
    assert links is None or len(links) == np.atleast_2d(frame.values).shape[0], data


def resident_bytes() -> int:
    """Return the memory that the process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/self/status: expected VmRSS")


def run(name: str, decoder: Decoder, n: int, seed: int) -> tuple[Outcome, int]:
    """Put ``n`` mutated packets through a decoder; return the outcome and the growth after the first tenth."""
    random, outcome, sound = np.random.default_rng(seed), Outcome(), samples()[name]
    before = 0
    while outcome.total < n:
        faulthandler.dump_traceback_later(STALLED_S, exit=True)  # a hang ends the process, with where it hangs
        put_through(decoder, mutated(sound, min(ROUND, n - outcome.total), random), outcome)
        if not before and outcome.total >= n / 10:
            gc.collect()
            before = resident_bytes()
    faulthandler.cancel_dump_traceback_later()
    gc.collect()
    return outcome, resident_bytes() - before


def main() -> int:
    """Run all decoders, print a table, and fail where memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=1_000_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", default="", help="this one alone")
    asked = parser.parse_args()
    faulthandler.enable()
    decoders = {name: each for name, each in PluginHost.load().decoders.items() if name not in FILES_ALONE}
    chosen = {name: each for name, each in decoders.items() if asked.decoder in ("", name)}
    grew = False
    print(f"{'decoder':<16}{'packets':>9}{'frames':>9}{'per s':>9}{'slowest':>10}{'growth':>10}  refused as")
    for name, decoder in chosen.items():
        start = time.perf_counter()
        outcome, growth = run(name, decoder, -(-asked.packets // len(chosen)), asked.seed)
        rate = outcome.total / (time.perf_counter() - start)
        kinds = ", ".join(f"{kind} {count}" for kind, count in outcome.refused.most_common())
        print(
            f"{name:<16}{outcome.total:>9}{outcome.frames:>9}{rate:>9.0f}{outcome.slowest_s * 1e3:>8.1f}ms"
            f"{growth >> 10:>7} KiB  {kinds}",
            flush=True,
        )
        grew |= growth > MOST_GROWTH_BYTES
    if grew:
        print(f"memory grew by more than {MOST_GROWTH_BYTES >> 20} MiB", file=sys.stderr)
    return int(grew)


if __name__ == "__main__":
    sys.exit(main())
