from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests import captures
from tonescope_server.csi.decoders import adr018, open_recording
from tonescope_server.csi.frames import Frame
from tonescope_server.errors import EmptyRecordingError, RecordingError, UnknownFormatError
from tonescope_server.plugin.host import PluginHost

DECODERS = PluginHost.load().decoders
FRAME = json.dumps({"subcarriers": [1.0, 2.0]}).encode()
VITALS = json.dumps({"type": "vitals", "magic": "0xC5110002"}).encode()


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "recording"
    path.write_bytes(data)
    return path


def test_the_built_in_formats_are_offered():
    assert set(DECODERS) == {
        *("adr018", "esp_csi_csv", "esp32_csi_tool", "ruview_jsonl", "ruview_paired", "rvcsi", "feitcsi"),
        *("intel5300", "atheros", "nexmon", "picoscenes", "numpy", "parquet"),
    }
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


def samples(tmp_path: Path) -> dict[str, bytes]:
    """Return a file of every format that no recording stands for, by the format's name."""
    channel = captures.matrix(56, 2, 2)
    np.savez(tmp_path / "frames.npz", csi=np.ones((3, 64)))
    return {
        "atheros": captures.atheros_file([captures.atheros(channel)] * 3),
        "picoscenes": captures.picoscenes(channel) * 3,
        "rvcsi": captures.rvcsi(channel[:, 0, 0]) + b"\n",
        "numpy": (tmp_path / "frames.npz").read_bytes(),
        "adr018": adr018.encode(np.ones(64)),
        "esp_csi_csv": captures.esp_csi(np.ones(64) + 1j),
        "ruview_paired": b'{"csi": [1.0, 2.0], "csi_shape": [2, 1]}',
    }


def test_exactly_one_format_recognises_each_sample(tmp_path: Path):
    for format, data in samples(tmp_path).items():
        path = write(tmp_path, data)
        assert [name for name, decoder in DECODERS.items() if decoder.recognises(path, data)] == [format]


# File, format, frames, records without one, and the layouts found in it.
REAL = [
    ("ruview/pretrain-1775182186.csi.jsonl", "ruview_jsonl", 5309, 474, {"esp_lltf", "esp128", "esp192_stbc"}),
    ("ruview/rec_1772470567081-20260302_165607.csi.jsonl", "ruview_jsonl", 253, 0, {"ruview56"}),
    ("captures/esp32_csi_tool_example.csv", "esp32_csi_tool", 33, 27, {"esp_lltf"}),
    ("captures/esp32_csiread_example.csv", "esp32_csi_tool", 13, 0, {"esp_lltf_secondary_above"}),
    ("captures/feitcsi_HT20_2452.csi", "feitcsi", 48, 0, {"feitcsi_ht20"}),
    ("captures/feitcsi_HESU20_5500.csi", "feitcsi", 28, 0, {"feitcsi_he20"}),
    ("captures/intel5300_0x1_ap.dat", "intel5300", 540, 0, {"intel5300_ht20"}),
    ("captures/nexmon_example.pcap", "nexmon", 4, 0, {"nexmon_80"}),
]


@pytest.mark.parametrize(("name", "format", "frames", "skipped", "layouts"), REAL)
def test_every_real_recording_is_read_through_one_interface_with_its_tones(
    shared: Path, name: str, format: str, frames: int, skipped: int, layouts: set[str]
):
    path = shared / "real" / name
    head = path.read_bytes()[:65_536]
    assert [each for each, decoder in DECODERS.items() if decoder.recognises(path, head)] == [format]
    if format in ("intel5300", "nexmon"):
        pytest.importorskip("csiread", reason="csiread has no wheel for this machine")
    recording = open_recording(path, DECODERS)
    read = list(recording.labelled())
    got = [item for item in read if isinstance(item, Frame)]
    assert (recording.format, len(got), len(read) - len(got)) == (format, frames, skipped)
    assert {frame.tone_layout for frame in got} == layouts
    for frame in got:
        assert len(frame.tones) == frame.n_tones
        assert all(tone.subcarrier_index is not None for tone in frame.tones)


def test_every_recorded_file_is_among_them(shared: Path):
    files = {*(shared / "real/captures").iterdir(), *(shared / "real/ruview").glob("*.jsonl")}
    assert files == {shared / "real" / name for name, *_ in REAL}


def test_the_esp32_recordings_equal_csiread(shared: Path):
    csiread = pytest.importorskip("csiread", reason="csiread has no wheel for this machine")
    path = shared / "real/captures/esp32_csiread_example.csv"
    theirs = csiread.ESP32(None, if_report=False)
    frames = [item for item in open_recording(path, DECODERS) if isinstance(item, Frame)]
    lines = path.read_text().splitlines()
    assert len(frames) == len(lines) == 13
    for frame, line in zip(frames, lines, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, about how csiread reads text
            assert theirs.pmsg(line) == 0xF200
        assert np.array_equal(frame.values, theirs.csi[0])


def test_a_capture_that_needs_csiread_says_so_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "csiread", None)  # as if it were not installed: importing it fails
    path = write(tmp_path, samples(tmp_path)["atheros"])
    with pytest.raises(RecordingError, match=r"needs csiread: install tonescope\[captures\]"):
        open_recording(path, DECODERS)
    with pytest.raises(RecordingError, match="needs csiread"):
        DECODERS["intel5300"].decode(captures.intel5300(captures.matrix(30, 1, 1)))


def test_a_table_that_needs_pyarrow_says_so_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RecordingError, match=r"need pyarrow: install tonescope\[captures\]"):
        open_recording(write(tmp_path, b"PAR1"), DECODERS)


def test_a_capture_of_another_kind_is_not_recognised(tmp_path: Path):
    with pytest.raises(RecordingError, match="not recognised, expected one of adr018, atheros, esp32_csi_tool"):
        open_recording(write(tmp_path, b"\x7fELF" + bytes(range(256)) * 4), DECODERS)


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_file_is_an_empty_recording(tmp_path: Path, data: bytes):
    with pytest.raises(EmptyRecordingError, match=r"'recording'.*empty file"):
        open_recording(write(tmp_path, data), DECODERS)


def test_a_recording_without_a_usable_frame_says_what_it_has(tmp_path: Path):
    path = write(tmp_path, VITALS + b"\n" + VITALS + b"\nnot json")
    with pytest.raises(EmptyRecordingError, match="expected at least one usable frame, got 1 corrupt, 2 vitals"):
        open_recording(path, DECODERS)


def test_a_recording_without_a_usable_frame_says_what_is_wrong_with_the_first_of_each_kind(tmp_path: Path):
    short = b'{"csi": [1, 2, 3, 4, 5], "csi_shape": [3, 2]}\n'
    long = b'{"csi": [1, 2, 3, 4, 5, 6, 7], "csi_shape": [3, 2]}\n'
    path = tmp_path / "paired.jsonl"
    path.write_bytes(short * 20 + long)
    with pytest.raises(EmptyRecordingError) as caught:
        open_recording(path, DECODERS)
    expected = "paired record: expected 6 numbers for csi_shape [3, 2], got"
    assert str(caught.value) == (
        "recording 'paired.jsonl' (ruview_paired): expected at least one usable frame, got 1 corrupt, 20 short; "
        f"paired.jsonl:1: {expected} 5; paired.jsonl:21: {expected} 7"
    )


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
