from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tonescope_server.csi.decoders.numpy_arrays import NumpyDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, RecordingError

decoder = NumpyDecoder()
RANDOM = np.random.default_rng(0)
AMPLITUDES = RANDOM.uniform(1, 9, (4, 64))


def read(path: Path) -> list[Frame]:
    return [item for item in decoder.read(path) if isinstance(item, Frame)]


@pytest.mark.parametrize("shape", [(4, 64), (4, 3, 64)])
@pytest.mark.parametrize("dtype", [np.complex128, np.complex64, np.float64, np.float32, np.int16])
def test_the_values_of_a_file_are_its_frames(tmp_path: Path, shape: tuple[int, ...], dtype: type):
    values = (RANDOM.uniform(1, 90, shape) * (1 + 1j if np.issubdtype(dtype, np.complexfloating) else 1)).astype(dtype)
    np.save(tmp_path / "frames.npy", values)
    frames = read(tmp_path / "frames.npy")
    kept = np.complex64 if np.iscomplexobj(values) else np.float32
    assert np.array_equal(np.stack([frame.values for frame in frames]), values.astype(kept))


def test_what_lies_beside_the_values_is_said_of_each_frame(tmp_path: Path):
    path = tmp_path / "frames.npz"
    np.savez(
        path,
        csi=AMPLITUDES,
        time=[0.5, 1.0, 1.5, np.nan],
        rssi=[-40, -41, -42, -43],
        node=7,
        transmitter=["a", "b", "a", "b"],
        sequence=[1, 2, 3, -4],
        labels=[0, 1, 0, 1],
    )
    assert decoder.recognises(path, path.read_bytes())
    frames = read(path)
    assert [frame.capture_time_ns for frame in frames] == [500_000_000, 1_000_000_000, 1_500_000_000, None]
    assert [frame.rssi_dbm for frame in frames] == [-40.0, -41.0, -42.0, -43.0]
    assert {frame.node_id for frame in frames} == {7}
    assert [frame.transmitter for frame in frames] == ["a", "b", "a", "b"]
    assert [frame.sequence for frame in frames] == [1, 2, 3, None]


def test_whole_nanoseconds_keep_every_digit(tmp_path: Path):
    np.savez(tmp_path / "frames.npz", csi=AMPLITUDES, time_ns=1_700_000_000_123_456_789 + np.arange(4))
    assert [f.capture_time_ns for f in read(tmp_path / "frames.npz")] == [
        1_700_000_000_123_456_789 + i for i in range(4)
    ]


def test_frames_with_nan_are_passed_over(tmp_path: Path):
    values = AMPLITUDES.copy()
    values[1, 3], values[2, 0] = np.nan, 1e300
    np.save(tmp_path / "frames.npy", values)
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in decoder.read(tmp_path / "frames.npy")]
    assert kinds == ["csi", "non_finite", "non_finite", "csi"]


def test_windows_are_not_taken_for_frames(tmp_path: Path):
    path = tmp_path / "windows.npz"
    np.savez(path, windows=np.ones((2, 64, 20)))
    assert not decoder.recognises(path, path.read_bytes())
    np.save(tmp_path / "windows.npy", np.ones((2, 64, 20)))
    assert not decoder.recognises(tmp_path / "windows.npy", (tmp_path / "windows.npy").read_bytes())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"csi": np.ones(4)}, r"expected \(frames, tones\).*got \(4,\)"),
        ({"csi": np.ones((2, 0))}, "expected"),
        ({"csi": np.array([["a"]])}, "expected numbers"),
        ({"other": np.ones((2, 2))}, "expected an array csi or frames, got other"),
        ({"csi": np.ones((2, 2)), "rssi": np.ones(3)}, "rssi_dbm: expected 2 numbers"),
    ],
)
def test_arrays_that_are_no_frames_are_refused(tmp_path: Path, arrays: dict, message: str):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(RecordingError, match=message):
        list(decoder.read(tmp_path / "bad.npz"))


def test_objects_are_never_unpickled(tmp_path: Path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RecordingError, match="damaged or another"):
        list(decoder.read(tmp_path / "objects.npy"))


def test_one_frame_is_not_a_file():
    with pytest.raises(FrameError, match="file of frames"):
        decoder.decode(b"")


def archive() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, csi=AMPLITUDES, rssi=np.arange(4))
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, AMPLITUDES)
    return file.getvalue()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.sampled_from([archive(), array()]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    st.data(),
)
def test_damaged_files_are_refused_with_a_recording_error_and_nothing_else(
    tmp_path: Path, data: bytes, changes: list, more
):
    damaged = bytearray(data)
    for where, value in changes:
        # Headers and the directory at the end matter most.
        at = int(where * 200) if value % 2 else -1 - int(where * 200)
        damaged[at] = value
    path = tmp_path / "damaged"
    path.write_bytes(bytes(damaged)[: more.draw(st.integers(0, len(damaged)))] if more.draw(st.booleans()) else damaged)
    decoder.recognises(path, bytes(damaged))
    with contextlib.suppress(RecordingError):
        list(decoder.read(path))
