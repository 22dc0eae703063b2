from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders.parquet import ParquetDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, RecordingError

arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
decoder = ParquetDecoder()
CHANNEL = captures.matrix(64, 3, 1, seed=4)[:, :, 0].T


def write(path: Path, **columns: list) -> Path:
    parquet.write_table(arrow.table(columns), path)
    return path


def test_a_row_is_a_frame_with_what_its_columns_say(tmp_path: Path):
    path = write(
        tmp_path / "frames.parquet",
        csi_real=CHANNEL.real.tolist(),
        csi_imag=CHANNEL.imag.tolist(),
        time_ns=[1_700_000_000_123_456_789, 2, None],
        node=[1, 2, 1],
        transmitter=["a", None, "b"],
        rssi_dbm=[-40.0, None, -42.0],
        sequence=[5, 6, 7],
    )
    assert decoder.recognises(path, path.read_bytes())
    frames = list(decoder.read(path))
    assert all(isinstance(frame, Frame) for frame in frames)
    assert np.array_equal(np.stack([frame.values for frame in frames]), CHANNEL)
    assert [frame.capture_time_ns for frame in frames] == [1_700_000_000_123_456_789, 2, None]
    assert [frame.node_id for frame in frames] == [1, 2, 1]
    assert [frame.transmitter for frame in frames] == ["a", "", "b"]
    assert [frame.rssi_dbm for frame in frames] == [-40.0, None, -42.0]
    assert [frame.sequence for frame in frames] == [5, 6, 7]


def test_amplitudes_and_several_antennas_are_read(tmp_path: Path):
    both = [np.abs(CHANNEL).reshape(-1).tolist()] * 2
    first, second = decoder.read(write(tmp_path / "frames.parquet", amplitude=both, n_rx=[3, 1]))
    assert isinstance(first, Frame)
    assert np.array_equal(first.values, np.abs(CHANNEL).astype(np.float32))
    assert isinstance(second, Frame)
    assert second.values.shape == (192,)


def test_rows_of_other_lengths_keep_their_place_and_bad_ones_are_told(tmp_path: Path):
    lists = [[1.0] * 64, [1.0] * 128, None, [], [float("nan")], [1.0, 2.0, 3.0]]
    path = write(tmp_path / "frames.parquet", amplitude=lists, n_rx=[1, 1, 1, 1, 1, 2])
    items = list(decoder.read(path))
    kinds = [item.kind if isinstance(item, Skipped) else item.n_tones for item in items]
    assert kinds == [64, 128, "no_csi", "corrupt", "non_finite", "corrupt"]


def test_more_rows_than_a_batch_are_read_in_order(tmp_path: Path):
    n = 3000
    path = write(tmp_path / "frames.parquet", amplitude=[[float(i + 1)] for i in range(n)], sequence=list(range(n)))
    read = [(item.sequence, item.values[0]) for item in decoder.read(path) if isinstance(item, Frame)]
    assert read == [(i, i + 1) for i in range(n)]


def test_a_file_without_values_is_refused(tmp_path: Path):
    with pytest.raises(RecordingError, match="expected columns csi_real and csi_imag, or amplitude, got labels"):
        list(decoder.read(write(tmp_path / "labels.parquet", labels=[1, 2])))


def test_columns_of_another_type_are_told_row_by_row(tmp_path: Path):
    items = list(decoder.read(write(tmp_path / "words.parquet", amplitude=["one", "two"])))
    assert [item.kind for item in items if isinstance(item, Skipped)] == ["corrupt", "corrupt"]


def test_one_frame_is_not_a_file():
    with pytest.raises(FrameError, match="file of frames"):
        decoder.decode(b"")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5), st.integers(0, 40))
def test_damaged_files_are_refused_with_a_recording_error_and_nothing_else(tmp_path: Path, changes: list, cut: int):
    path = write(tmp_path / "frames.parquet", amplitude=np.abs(CHANNEL).tolist(), rssi=[1, 2, 3])
    data = bytearray(path.read_bytes())
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    path.write_bytes(bytes(data)[: len(data) - cut])
    with contextlib.suppress(RecordingError):
        list(decoder.read(path))
