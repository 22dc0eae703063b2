from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tonescope_server.csi.decoders import Decoder, adr018, esp_csv, open_recording, recordings
from tonescope_server.csi.frames import Frame
from tonescope_server.errors import EmptyRecordingError, RecordingError, UnknownFormatError

DECODERS: dict[str, Decoder] = {
    decoder.name: decoder for module in (adr018, esp_csv, recordings) for decoder in module.tonescope_decoders()
}
FRAME = json.dumps({"subcarriers": [1.0, 2.0]}).encode()
VITALS = json.dumps({"type": "vitals", "magic": "0xC5110002"}).encode()


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "recording"
    path.write_bytes(data)
    return path


def test_the_built_in_formats_are_offered():
    assert set(DECODERS) == {"adr018", "esp_csi_csv", "esp32_csi_tool", "ruview_jsonl", "ruview_paired"}
    assert all(decoder.summary for decoder in DECODERS.values())


def test_a_recording_can_be_read_twice(tmp_path: Path):
    recording = open_recording(write(tmp_path, VITALS + b"\n" + FRAME), DECODERS)
    assert (recording.name, recording.format) == ("recording", "ruview_jsonl")
    assert [type(item).__name__ for item in recording] == ["Skipped", "Frame"]
    assert len(list(recording)) == 2


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (adr018.encode(np.ones(4)), "adr018"),
        (b'CSI_DATA,5,aa,-50,11,-97,0,30,6,5000000,101,0,4,0,"[1,2,3,4]"', "esp_csi_csv"),
        (b'{"csi": [1.0, 2.0], "csi_shape": [2, 1]}', "ruview_paired"),
    ],
)
def test_the_format_is_found_by_looking(tmp_path: Path, data: bytes, format: str):
    assert open_recording(write(tmp_path, data), DECODERS).format == format


def test_exactly_one_format_recognises_each_real_recording(shared: Path):
    paths = [*(shared / "real/ruview").glob("*.jsonl"), *(shared / "real/captures").glob("*.csv")]
    assert len(paths) == 4
    for path in paths:
        head = path.read_bytes()[:65_536]
        assert sum(decoder.recognises(path, head) for decoder in DECODERS.values()) == 1
        assert any(isinstance(item, Frame) for item in open_recording(path, DECODERS))


@pytest.mark.parametrize("name", ["feitcsi_HT20_2452.csi", "intel5300_0x1_ap.dat", "nexmon_example.pcap"])
def test_a_capture_of_another_kind_is_not_recognised(shared: Path, name: str):
    with pytest.raises(RecordingError, match="not recognised, expected one of adr018, esp32_csi_tool"):
        open_recording(shared / "real/captures" / name, DECODERS)


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_file_is_an_empty_recording(tmp_path: Path, data: bytes):
    with pytest.raises(EmptyRecordingError, match=r"'recording'.*empty file"):
        open_recording(write(tmp_path, data), DECODERS)


def test_a_recording_without_a_usable_frame_says_what_it_has(tmp_path: Path):
    path = write(tmp_path, VITALS + b"\n" + VITALS + b"\nnot json")
    with pytest.raises(EmptyRecordingError, match="expected at least one usable frame, got 1 corrupt, 2 vitals"):
        open_recording(path, DECODERS)


def test_a_file_that_is_not_there_is_reported_by_name(tmp_path: Path):
    with pytest.raises(RecordingError, match="'missing': cannot be read: No such file"):
        open_recording(tmp_path / "missing", DECODERS)
    with pytest.raises(RecordingError, match="Is a directory"):
        open_recording(tmp_path, DECODERS)


def test_a_file_that_goes_away_later_is_reported_too(tmp_path: Path):
    path = write(tmp_path, FRAME)
    recording = open_recording(path, DECODERS)
    path.unlink()
    with pytest.raises(RecordingError, match="cannot be read"):
        list(recording)


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path):
    with pytest.raises(UnknownFormatError, match=r"'pcap'.*adr018, .*ruview_paired"):
        open_recording(write(tmp_path, FRAME), DECODERS, "pcap")


def test_a_named_format_is_used_without_looking(tmp_path: Path):
    path = write(tmp_path, b"boot\n" * 10)
    with pytest.raises(EmptyRecordingError, match=r"esp_csi_csv.*10 not_csi"):
        open_recording(path, DECODERS, "esp_csi_csv")
