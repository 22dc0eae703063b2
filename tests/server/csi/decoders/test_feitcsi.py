from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders import Recording
from tonescope_server.csi.decoders.feitcsi import FeitCsiDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import ToneKind
from tonescope_server.errors import FrameError, ShortFrameError

decoder = FeitCsiDecoder()
RECORD = captures.feitcsi(captures.matrix(56, 2, 1))


@pytest.mark.parametrize(("n_rx", "n_tx"), [(1, 1), (2, 1), (2, 2)])
def test_every_link_keeps_a_row_of_its_own(n_rx: int, n_tx: int):
    channel = captures.matrix(56, n_rx, n_tx, most=30_000)
    frame = decoder.decode(captures.feitcsi(channel))
    links = [(rx, tx) for rx in range(n_rx) for tx in range(n_tx)]
    assert list(frame.header["links"]) == links
    for row, (rx, tx) in zip(np.atleast_2d(frame.values), links, strict=True):
        assert np.array_equal(row, channel[:, rx, tx])


def test_the_header_is_read_field_by_field():
    # A VHT frame of 80 MHz: formats from bit 8 on, bandwidths from bit 11 on.
    frame = decoder.decode(captures.feitcsi(captures.matrix(4, 1, 1), levels=(0, 39), rate=3 << 8 | 2 << 11))
    assert (frame.transmitter, frame.capture_time_ns, frame.rssi_dbm) == ("00:11:22:33:44:55", 1_000_000, -39.0)
    assert (frame.header["rate_format"], frame.header["bandwidth_mhz"]) == ("vht", 80)


@pytest.mark.parametrize(
    ("name", "frames", "layout", "pilots"),
    [
        ("feitcsi_HT20_2452.csi", 48, "feitcsi_ht20", {-21, -7, 7, 21}),
        ("feitcsi_HESU20_5500.csi", 28, "feitcsi_he20", {-116, -90, -48, -22, 22, 48, 90, 116}),
    ],
)
def test_the_recordings_zeros_are_the_pilots_of_their_layout(
    shared: Path, name: str, frames: int, layout: str, pilots: set[int]
):
    recording = Recording(shared / "real/captures" / name, "feitcsi", decoder)
    read = [item for item in recording.labelled() if isinstance(item, Frame)]
    assert len(read) == len(list(recording)) == frames
    assert {frame.tone_layout for frame in read} == {layout}
    zero = np.all([frame.values == 0 for frame in read], axis=(0, 1))
    assert {tone.subcarrier_index for tone in read[0].tones if zero[tone.row]} == pilots
    assert {tone.subcarrier_index for tone in read[0].tones if tone.kind is ToneKind.NULL} == pilots


def test_the_clock_of_microseconds_advances_with_that_of_320_mhz(shared: Path):
    frames = [f for f in decoder.read(shared / "real/captures/feitcsi_HT20_2452.csi") if isinstance(f, Frame)]
    ticks = np.diff([frame.header["ftm_clock"] for frame in frames]) % (1 << 32)
    micros = np.diff([frame.capture_time_ns or 0 for frame in frames]) / 1000
    near = micros < 13e6  # beyond, the faster clock has gone round
    # Either clock is read to its own tick, and the slower one is read in whole microseconds.
    np.testing.assert_allclose(ticks[near] / 320, micros[near], atol=2)


def test_a_file_goes_on_after_a_damaged_record_and_tells_a_cut(tmp_path: Path):
    path = tmp_path / "records.csi"
    damaged = bytearray(RECORD)
    damaged[52] = 57
    path.write_bytes(RECORD + bytes(damaged) + RECORD + RECORD[:100])
    assert decoder.recognises(path, path.read_bytes())
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in decoder.read(path)]
    assert kinds == ["csi", "corrupt", "csi", "short"]


def test_a_size_no_record_has_ends_the_reading(tmp_path: Path):
    path = tmp_path / "records.csi"
    path.write_bytes(RECORD + b"\xff" * 3000)
    assert [type(item) for item in decoder.read(path)] == [Frame, Skipped]


@pytest.mark.parametrize("size", [0, 271, len(RECORD) - 1])
def test_a_record_cut_short_is_refused(size: int):
    with pytest.raises(ShortFrameError):
        decoder.decode(RECORD[:size])


@given(st.binary(max_size=300) | st.binary(max_size=400).map(lambda tail: RECORD[: len(RECORD) - len(tail)] + tail))
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    with contextlib.suppress(FrameError):
        assert np.isfinite(decoder.decode(data).values).all()
