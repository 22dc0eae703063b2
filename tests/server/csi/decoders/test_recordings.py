from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonescope_server.csi.decoders.recordings import (
    PairedWindow,
    RuviewJsonLinesDecoder,
    RuviewPairedDecoder,
    paired_cell_order,
    read_paired,
)
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import tone_table
from tonescope_server.csi.windows import Windower
from tonescope_server.errors import FrameError, RecordingError, ShortFrameError

jsonl = RuviewJsonLinesDecoder()
paired = RuviewPairedDecoder()

RAW = {
    "timestamp": 1775182186.5,
    "node_id": 2,
    "magic": "0xC5110001",
    "size": 24,
    "rssi": 1,
    "type": "raw_csi",
    "iq_hex": "05fe807f",
    "subcarriers": 2,
}
AMPLITUDES = {
    "timestamp": 1772470567.5,
    "subcarriers": [0.0, 3.5, 2],
    "rssi": -40.5,
    "noise_floor": 0.0,
    "features": {},
}


def line(record: dict) -> bytes:
    return json.dumps(record).encode()


def read(decoder, tmp_path: Path, *lines: bytes) -> list[Frame | Skipped]:
    path = tmp_path / "recording.jsonl"
    path.write_bytes(b"\n".join(lines))
    return list(decoder.read(path))


def kinds(items: list[Frame | Skipped]) -> list[str]:
    return [item.kind if isinstance(item, Skipped) else "frame" for item in items]


# Recordings


def test_raw_csi_decodes_with_the_imaginary_part_first():
    frame = jsonl.decode(line(RAW))
    assert frame.values.tolist() == [-2 + 5j, 127 - 128j]
    assert (frame.node_id, frame.sequence, frame.format) == (2, None, "ruview_jsonl")
    assert frame.capture_time_ns == 1775182186_500_000_000


def test_amplitudes_decode_as_float32():
    frame = jsonl.decode(line(AMPLITUDES))
    assert frame.values.dtype == np.float32
    assert frame.values.tolist() == [0.0, 3.5, 2.0]
    assert (frame.node_id, frame.rssi_dbm) == (0, -40.5)


def test_levels_that_no_receiver_can_see_are_not_known():
    assert jsonl.decode(line(RAW)).rssi_dbm is None
    assert jsonl.decode(line(AMPLITUDES)).noise_floor_dbm is None


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"type": "vitals", "node_id": 2, "magic": "0xC5110002"}, "vitals"),
        ({"type": "feature", "node_id": 2, "features": []}, "feature"),
        ({"node_id": 2, "magic": "0xC5110005", "size": 104}, "compressed"),
        ({"node_id": 2, "magic": "0xC511A110"}, "sync"),
        ({"node_id": 2, "magic": "0x12345678"}, "unknown_magic"),
        ({"node_id": 2}, "no_type"),
        ({"node_id": 2, "type": "weather"}, "other_type"),
    ],
)
def test_records_of_other_kinds_are_skipped_by_kind(tmp_path: Path, record: dict, kind: str):
    items = read(jsonl, tmp_path, line(record), line(RAW))
    assert kinds(items) == [kind, "frame"]
    assert isinstance(items[0], Skipped)
    assert items[0].node_id == 2
    with pytest.raises(FrameError, match=f"expected CSI, got {kind}"):
        jsonl.decode(line(record))


@pytest.mark.parametrize("bad", [b"{", b"[1]", b"\xff\xfe", b"null", b'{"type":"raw_csi"}', b"[" * 100_000])
def test_a_corrupt_line_is_skipped_and_the_recording_goes_on(tmp_path: Path, bad: bytes):
    items = read(jsonl, tmp_path, line(RAW), bad, line(RAW))
    assert kinds(items) == ["frame", "corrupt", "frame"]
    assert isinstance(items[1], Skipped)
    assert "recording.jsonl:2" in items[1].message


def test_a_line_without_end_is_skipped(tmp_path: Path):
    assert kinds(read(jsonl, tmp_path, line(RAW), b"x" * 3_000_000, line(RAW))) == ["frame", "corrupt", "frame"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e39", "1e400", "9" * 400])
def test_amplitudes_that_are_not_finite_are_refused(tmp_path: Path, number: str):
    bad = b'{"subcarriers": [1.0, %s]}' % number.encode()
    assert kinds(read(jsonl, tmp_path, bad, line(RAW))) == ["non_finite", "frame"]
    with pytest.raises(FrameError, match="finite numbers in 'subcarriers'"):
        jsonl.decode(bad)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"subcarriers": 3}, ShortFrameError, "expected 6 bytes in iq_hex for 3 tones, got 4"),
        ({"subcarriers": 1}, FrameError, "expected 2 bytes in iq_hex for 1 tones, got 4"),
        ({"iq_hex": ""}, ShortFrameError, "got 0"),
        ({"iq_hex": "zz"}, FrameError, "hexadecimal iq_hex"),
        ({"iq_hex": 5}, FrameError, "hexadecimal iq_hex"),
        ({"magic": "CSI"}, FrameError, "hexadecimal magic"),
    ],
)
def test_a_damaged_raw_record_is_refused_with_what_was_expected(change: dict, error: type[FrameError], message: str):
    with pytest.raises(error, match=message) as caught:
        jsonl.decode(line(RAW | change))
    assert type(caught.value) is error


@pytest.mark.parametrize("numbers", [[], [1, "2"], [[1]], [True], [None]])
def test_a_list_that_is_not_of_numbers_is_refused(numbers: list):
    with pytest.raises(FrameError, match="numbers in 'subcarriers'"):
        jsonl.decode(line({"subcarriers": numbers}))


@pytest.mark.parametrize("seconds", ["NaN", "-1", '"noon"', "1e300", "null", "9" * 400])
def test_a_time_that_is_none_is_not_known(seconds: str):
    frame = jsonl.decode(b'{"subcarriers": [1.0], "timestamp": %s, "node_id": -3}' % seconds.encode())
    assert frame.capture_time_ns is None
    assert frame.node_id == 0


@given(
    st.dictionaries(
        st.sampled_from(["type", "magic", "node_id", "iq_hex", "subcarriers", "timestamp", "rssi"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.lists(st.floats(), max_size=3),
    )
    | st.binary(max_size=40)
)
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(garbage):
    with contextlib.suppress(FrameError):
        assert np.isfinite(jsonl.decode(garbage if isinstance(garbage, bytes) else line(garbage)).values).all()


def test_each_format_recognises_its_own_files(tmp_path: Path):
    window = line({"csi": [1.0, 2.0], "csi_shape": [2, 1], "subcarriers": 2})
    vitals = line({"type": "vitals", "magic": "0xC5110002"})
    for head in (line(RAW), line(AMPLITUDES), b"{\n" + vitals):
        assert (jsonl.recognises(tmp_path, head), paired.recognises(tmp_path, head)) == (True, False)
    assert (jsonl.recognises(tmp_path, window), paired.recognises(tmp_path, window)) == (False, True)
    assert not jsonl.recognises(tmp_path, b"CSI_DATA,")
    assert not jsonl.recognises(tmp_path, b'{"hello": 1}')


def test_a_recording_of_two_nodes_is_read_whole(shared: Path):
    counts: Counter = Counter()
    for item in jsonl.read(shared / "real/ruview/pretrain-1775182186.csi.jsonl"):
        counts[item.kind if isinstance(item, Skipped) else (item.node_id, item.n_tones)] += 1
    assert counts == {
        (1, 64): 2133, (1, 128): 503, (1, 192): 23,
        (2, 64): 1994, (2, 128): 631, (2, 192): 25,
        "vitals": 236, "feature": 236, "compressed": 2,
    }  # fmt: skip


def test_a_recording_of_amplitudes_is_read_whole(shared: Path):
    frames = list(jsonl.read(shared / "real/ruview/rec_1772470567081-20260302_165607.csi.jsonl"))
    assert [frame.n_tones for frame in frames] == [56] * 253
    seconds = np.diff([frame.capture_time_ns for frame in frames]) / 1e9
    assert 1 / seconds.mean() == pytest.approx(14, abs=1.5)


# Paired files

N_TONES, N_FRAMES = 56, 20


def physical(seed: int) -> np.ndarray:
    frames = np.random.default_rng(seed).uniform(1, 20, size=(N_FRAMES, N_TONES)).astype(np.float32)
    frames[:, tone_table("ruview56").null_mask] = 0.0
    return frames


def record(seed: int = 0, *, scrambled: bool = True, shape: tuple[int, int] = (N_TONES, N_FRAMES), **more) -> bytes:
    frames = physical(seed)
    flat = (frames if scrambled else frames.T).reshape(-1)
    times = {"ts_start": 1000.0 + seed, "ts_end": 1001.9 + seed}
    return line({"csi": flat.tolist(), "csi_shape": list(shape), "kp": [[0.5, 0.5]] * 17, "conf": 0.9, **times, **more})


def write(tmp_path: Path, *lines: bytes) -> Path:
    path = tmp_path / "paired.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_paired_window_keeps_its_flat_buffer_and_the_rest_of_its_record(tmp_path: Path):
    (window,) = read_paired(write(tmp_path, record(3)))
    assert isinstance(window, PairedWindow)
    assert np.array_equal(window.cells, physical(3).reshape(-1))
    assert (window.n_tones, window.n_frames, window.line) == (N_TONES, N_FRAMES, 1)
    assert window.record["conf"] == 0.9
    assert len(window.record["kp"]) == 17


@pytest.mark.parametrize(("scrambled", "order"), [(True, "frame_tone"), (False, "tone_frame")])
def test_the_zeros_tell_how_a_paired_buffer_is_laid_out(tmp_path: Path, scrambled: bool, order: str):
    path = write(tmp_path, *(record(i, scrambled=scrambled) for i in range(3)))
    windows = [item for item in read_paired(path) if isinstance(item, PairedWindow)]
    assert paired_cell_order(windows) == order
    frames = [item for item in paired.read(path) if isinstance(item, Frame)]
    assert len(frames) == 3 * N_FRAMES
    assert np.array_equal(frames[N_FRAMES + 4].values, physical(1)[4])
    assert (frames[0].header["cell_order"], frames[0].header["cell_order_from"]) == (order, "zeros")


def test_without_zeros_the_declared_order_is_used_and_said_to_be(tmp_path: Path):
    cells = [float(i + 1) for i in range(N_TONES * 2)]
    (first, second) = paired.read(write(tmp_path, line({"csi": cells, "csi_shape": [N_TONES, 2]})))
    assert isinstance(first, Frame)
    assert isinstance(second, Frame)
    assert first.values.tolist() == cells[0::2]
    assert second.values.tolist() == cells[1::2]
    assert first.header["cell_order_from"] == "declared"
    assert paired_cell_order([]) is None


def test_a_single_null_tone_is_enough_to_tell_the_order(tmp_path: Path):
    frames = np.random.default_rng(0).uniform(1, 20, size=(N_FRAMES, 53))
    frames[:, tone_table("c5_53").null_mask] = 0.0
    (window,) = read_paired(write(tmp_path, line({"csi": frames.reshape(-1).tolist(), "csi_shape": [53, N_FRAMES]})))
    assert isinstance(window, PairedWindow)
    assert paired_cell_order([window]) == "frame_tone"


def test_windows_as_long_as_a_record_are_the_records(tmp_path: Path):
    windower = Windower(N_FRAMES, 1, N_TONES)
    frames = paired.read(write(tmp_path, *(record(i) for i in range(4))))
    windows = [window for frame in frames if isinstance(frame, Frame) for window in windower.push(frame)]
    assert len(windows) == 4
    for i, window in enumerate(windows):
        assert np.array_equal(window.frames, physical(i))


def test_the_frames_of_a_paired_window_share_its_time(tmp_path: Path):
    frames = [item for item in paired.read(write(tmp_path, record(0))) if isinstance(item, Frame)]
    assert (frames[0].capture_time_ns, frames[-1].capture_time_ns) == (1000_000_000_000, 1001_900_000_000)


@pytest.mark.parametrize("n_tones", [None, N_TONES])
def test_a_transposed_csi_shape_is_reported_as_such(tmp_path: Path, n_tones: int | None):
    path = write(tmp_path, record(0, shape=(N_FRAMES, N_TONES)))
    message = r"paired\.jsonl:1: csi_shape is transposed: expected \[tones, frames\] = \[56, 20\], got \[20, 56\]"
    with pytest.raises(RecordingError, match=message):
        list(read_paired(path, n_tones))
    with pytest.raises(RecordingError, match=message):
        list(paired.read(path))


def test_a_paired_window_of_other_tones_than_the_models_is_refused(tmp_path: Path):
    with pytest.raises(RecordingError, match=r"expected \[64, frames\], got \[56, 20\]"):
        list(read_paired(write(tmp_path, record(0)), 64))


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (b"{", "corrupt", "JSON"),
        (line({"csi": [1.0]}), "corrupt", "csi_shape"),
        (line({"csi": [1.0], "csi_shape": [1]}), "corrupt", "two sizes"),
        (line({"csi": [1.0], "csi_shape": [0, 1]}), "corrupt", "two sizes"),
        (line({"csi": [1.0], "csi_shape": [56, 20]}), "short", "1120 numbers"),
        (line({"csi": [1.0, 2.0, 3.0], "csi_shape": [2, 1]}), "corrupt", "2 numbers"),
        (b'{"csi": [1.0, NaN], "csi_shape": [2, 1]}', "non_finite", "finite"),
    ],
)
def test_a_damaged_paired_record_is_skipped_and_the_file_goes_on(tmp_path: Path, bad: bytes, kind: str, message: str):
    first, second = read_paired(write(tmp_path, bad, record(0)))
    assert isinstance(first, Skipped)
    assert first.kind == kind
    assert message in first.message
    assert isinstance(second, PairedWindow)


def test_a_paired_file_may_be_one_json_array(tmp_path: Path):
    path = write(tmp_path, b"[" + record(0) + b",\n 5, " + record(1) + b"]")
    assert [type(item) for item in read_paired(path)] == [PairedWindow, Skipped, PairedWindow]
    path.write_bytes(b"[{")
    with pytest.raises(RecordingError, match="damaged JSON"):
        list(read_paired(path))


def test_a_paired_record_is_not_a_frame():
    with pytest.raises(FrameError, match="a file of windows"):
        paired.decode(record(0))
