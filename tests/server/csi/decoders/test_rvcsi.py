from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders.rvcsi import RvcsiDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ShortFrameError

decoder = RvcsiDecoder()
VALUES = captures.matrix(64, 1, 1)[:, 0, 0]
HEADER = json.dumps({"format": "rvcsi", "version": 1}).encode()


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_parts_are_taken_before_amplitude_and_phase():
    frame = decoder.decode(captures.rvcsi(VALUES, timestamp_ns=17, rssi_dbm=-50, frame_id=3, subcarrier_count=64))
    assert np.array_equal(frame.values, VALUES)
    assert (frame.capture_time_ns, frame.rssi_dbm, frame.sequence) == (17, -50.0, 3)


def test_amplitude_and_phase_serve_where_there_are_no_parts():
    polar = decoder.decode(line(amplitude=np.abs(VALUES).tolist(), phase=np.angle(VALUES).tolist()))
    # Parts up to 120 from a float32 amplitude and phase: seven digits.
    np.testing.assert_allclose(polar.values, VALUES, atol=1e-4)
    plain = decoder.decode(line(amplitude=[1.0, 2.0], i_values=None))
    assert plain.values.dtype == np.float32
    assert plain.values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("fields", "time"),
    [({"timestamp_us": 2}, 2000), ({"timestamp": 1.5}, 1_500_000_000), ({"timestamp_ns": "x"}, None), ({}, None)],
)
def test_time_is_read_in_the_unit_of_its_name(fields: dict, time: int | None):
    assert decoder.decode(line(amplitude=[1], **fields)).capture_time_ns == time


def test_a_file_is_read_line_by_line(tmp_path: Path):
    path = tmp_path / "session.rvcsi"
    path.write_bytes(b"\n".join([HEADER, captures.rvcsi(VALUES), b"{", captures.rvcsi(VALUES)]))
    assert decoder.recognises(path, path.read_bytes())
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in decoder.read(path)]
    assert kinds == ["header", "csi", "corrupt", "csi"]
    assert all(isinstance(item, Frame | Skipped) for item in decoder.read(path))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[1]", "corrupt"),
        (line(i_values=[1, 2], q_values=[1]), "short"),
        (line(amplitude=[1, 2], subcarrier_count=3), "short"),
        (line(i_values=[1]), "corrupt"),
        (line(phase=[1]), "corrupt"),
        (line(amplitude=["1"]), "corrupt"),
        (line(amplitude=[True]), "corrupt"),
        (line(amplitude=[]), "corrupt"),
        (b'{"amplitude": [NaN]}', "non_finite"),
        (b'{"amplitude": [1e39]}', "non_finite"),
        (b'{"amplitude": [' + b"9" * 400 + b"]}", "non_finite"),
    ],
)
def test_a_damaged_line_is_refused_by_kind(data: bytes, kind: str):
    with pytest.raises(FrameError) as refused:
        decoder.decode(data)
    assert refused.value.kind == kind
    assert (kind == "short") == isinstance(refused.value, ShortFrameError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5
)


@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["i_values", "q_values", "amplitude", "phase", "timestamp_ns", "timestamp", "rssi", "node_id"]),
        JSON,
    ).map(lambda record: json.dumps(record).encode())
)
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    with contextlib.suppress(FrameError):
        assert np.isfinite(decoder.decode(data).values).all()
