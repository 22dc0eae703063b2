"""What is recorded is read back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tonescope_server.csi.decoders import open_recording
from tonescope_server.csi.decoders.adr018 import decode, encode
from tonescope_server.csi.decoders.recordings import RuviewJsonLinesDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import ConfigurationError
from tonescope_server.ingest.recorder import Recorder
from tonescope_server.ingest.traffic import Traffic
from tonescope_server.ingest.udp import Packet

START_NS = 1_760_000_000_123_456_000
DECODERS = {"ruview_jsonl": RuviewJsonLinesDecoder()}


def packets(*datas: bytes) -> list[Packet]:
    return [Packet(data, START_NS + 50_000_000 * i, "10.0.0.2") for i, data in enumerate(datas)]


def record(path: Path, *datas: bytes) -> None:
    traffic = Traffic()
    with Recorder(path) as recorder:
        for packet in packets(*datas):
            recorder.write(packet, traffic.take(packet))


def read(path: Path) -> list[Frame | Skipped]:
    return list(open_recording(path, DECODERS))


def random_values(*shape: int) -> np.ndarray:
    parts = np.random.default_rng(11).integers(-128, 128, (2, *shape))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def test_frames_come_back_with_all_that_a_packet_says(tmp_path: Path) -> None:
    sent = [
        encode(random_values(64), node_id=3, sequence=77, rssi_dbm=-51, noise_floor_dbm=-92),
        encode(random_values(128), node_id=0, sequence=(1 << 32) - 1),
        encode(random_values(3, 56), node_id=255, sequence=0, rssi_dbm=-1),
    ]
    record(tmp_path / "r.csi.jsonl", *sent)
    found = read(tmp_path / "r.csi.jsonl")
    for packet, data, frame in zip(packets(*sent), sent, found, strict=True):
        expected = decode(data)
        assert isinstance(frame, Frame)
        np.testing.assert_array_equal(frame.values, expected.values)
        for name in ("node_id", "sequence", "rssi_dbm", "noise_floor_dbm"):
            assert getattr(frame, name) == getattr(expected, name), name
        # Seconds since 1970 as a double are good to a quarter of a microsecond.
        assert frame.capture_time_ns is not None
        assert abs(frame.capture_time_ns - packet.time_ns) < 1000


def test_other_packets_are_kept_by_kind_and_garbage_is_not(tmp_path: Path) -> None:
    vitals = (0xC511_0002).to_bytes(4, "little") + bytes(range(28))
    damaged = encode(random_values(64))[:-3]
    record(tmp_path / "r.csi.jsonl", vitals, b"garbage!", b"", damaged, encode(random_values(64)))
    first, frame = read(tmp_path / "r.csi.jsonl")
    assert isinstance(first, Skipped)
    assert first.kind == "vitals"
    assert isinstance(frame, Frame)
    line = json.loads((tmp_path / "r.csi.jsonl").read_text().splitlines()[0])
    assert bytes.fromhex(line["payload_hex"]) == vitals[4:]


def test_a_recording_is_continued_and_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "r.csi.jsonl"
    record(path, *(encode(random_values(64), sequence=i) for i in range(3)))
    path.write_bytes(path.read_bytes()[:-40])
    record(path, encode(random_values(64), sequence=9))
    found = read(path)
    assert [each.sequence if isinstance(each, Frame) else each.kind for each in found] == [0, 1, "corrupt", 9]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--record .*: cannot be written: is a directory$"):
        Recorder(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line() -> None:
    recorder = Recorder(Path("/dev/full"))
    traffic = Traffic()
    (packet,) = packets(encode(random_values(64)))
    with pytest.raises(ConfigurationError, match="no space left on device"):  # noqa: PT012 - whichever write fails
        for _ in range(200):
            recorder.write(packet, traffic.take(packet))
    with pytest.raises(ConfigurationError, match="no space left on device"):
        recorder.close()
