from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders.atheros import AtherosDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ShortFrameError

csiread = pytest.importorskip("csiread", reason="csiread has no wheel for this machine")
decoder = AtherosDecoder()
RECORD = captures.atheros(captures.matrix(56, 3, 2, most=500))


@pytest.mark.parametrize(("n_tones", "n_rx", "n_tx"), [(56, 1, 1), (56, 3, 2), (114, 1, 1), (114, 3, 3)])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_every_link_keeps_a_row_of_its_own_in_either_byte_order(n_tones: int, n_rx: int, n_tx: int, endian: str):
    channel = captures.matrix(n_tones, n_rx, n_tx, most=511)
    frame = decoder.decode(captures.atheros(channel, endian=endian))
    links = [(rx, tx) for rx in range(n_rx) for tx in range(n_tx)]
    assert list(frame.header["links"]) == links
    for row, (rx, tx) in zip(np.atleast_2d(frame.values), links, strict=True):
        assert np.array_equal(row, channel[:, rx, tx])
    assert frame.header["bandwidth_mhz"] == (40 if n_tones == 114 else 20)
    assert (frame.header["frequency_mhz"], frame.capture_time_ns) == (2437, 5_000_000)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_a_file_equals_what_csiread_makes_of_it(tmp_path: Path, endian: str):
    path = tmp_path / "records.dat"
    channels = [captures.matrix(56, 3, 2, seed, most=500) for seed in range(5)]
    path.write_bytes(captures.atheros_file([captures.atheros(each, endian=endian) for each in channels], endian))
    assert decoder.recognises(path, path.read_bytes())
    theirs = csiread.Atheros(str(path), nrxnum=3, ntxnum=2, tones=56, if_report=False)
    theirs.read("little" if endian == "<" else "big")
    frames = [item for item in decoder.read(path) if isinstance(item, Frame)]
    assert len(frames) == theirs.count == 5
    for frame, other in zip(frames, theirs.csi, strict=True):
        assert np.array_equal(frame.values.reshape(3, 2, 56), other.transpose(1, 2, 0))


def test_the_order_of_the_rows_is_not_guessed():
    assert decoder.decode(RECORD).tone_layout == ""
    assert decoder.decode(RECORD).tones.id == "unknown_56"


def test_records_without_a_matrix_and_a_cut_are_told(tmp_path: Path):
    path = tmp_path / "mixed.dat"
    empty = bytearray(captures.atheros(captures.matrix(56, 1, 1)))[:25]
    empty[8:10] = empty[23:25] = b"\0\0"
    path.write_bytes(captures.atheros_file([RECORD, bytes(empty), RECORD[:-3]]) + b"\x99\x01")
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in decoder.read(path)]
    assert kinds == ["csi", "no_csi", "short", "short"]


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(16, 57, "56 or 114 tones"), (17, 4, "1 to 3 antennas"), (18, 1, "a matrix of 420 bytes")],
)
def test_sizes_that_contradict_each_other_are_refused(at: int, value: int, message: str):
    data = bytearray(RECORD)
    data[at] = value
    with pytest.raises(FrameError, match=message):
        decoder.decode(bytes(data))


@pytest.mark.parametrize("size", [0, 24, len(RECORD) - 1])
def test_a_record_cut_short_is_refused(size: int):
    with pytest.raises(ShortFrameError):
        decoder.decode(RECORD[:size])


@given(st.binary(max_size=500) | st.binary(max_size=800).map(lambda tail: RECORD[: len(RECORD) - len(tail)] + tail))
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    with contextlib.suppress(FrameError):
        assert np.isfinite(decoder.decode(data).values).all()
