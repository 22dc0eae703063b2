from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders.intel5300 import Intel5300Decoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ShortFrameError, WrongMagicError

csiread = pytest.importorskip("csiread", reason="csiread has no wheel for this machine")
decoder = Intel5300Decoder()
PACKET = captures.intel5300(captures.matrix(30, 3, 2))


@pytest.mark.parametrize(("n_rx", "n_tx"), [(1, 1), (2, 1), (3, 1), (3, 2), (3, 3)])
def test_every_link_keeps_a_row_of_its_own(n_rx: int, n_tx: int):
    channel = captures.matrix(30, n_rx, n_tx)
    frame = decoder.decode(captures.intel5300(channel))
    links = [(rx, tx) for rx in range(n_rx) for tx in range(n_tx)]
    assert list(frame.header["links"]) == links
    for row, (rx, tx) in zip(np.atleast_2d(frame.values), links, strict=True):
        assert np.array_equal(row, channel[:, rx, tx])


def test_chains_are_put_back_into_the_order_of_their_antennas():
    channel = captures.matrix(30, 3, 2)
    mixed = decoder.decode(captures.intel5300(channel, order=(2, 0, 1)))
    assert np.array_equal(mixed.values, decoder.decode(captures.intel5300(channel)).values)
    assert mixed.header["antennas_known"]


@pytest.mark.parametrize("order", [(3, 3, 3), (0, 0, 1), (3, 0, 1)])
def test_an_order_that_is_none_leaves_the_chains_as_they_come(order: tuple[int, int, int]):
    data = bytearray(PACKET)
    data[16] = order[0] | order[1] << 2 | order[2] << 4
    frame = decoder.decode(bytes(data))
    assert np.array_equal(frame.values, decoder.decode(PACKET).values)
    assert not frame.header["antennas_known"]


def test_the_header_is_read_field_by_field():
    frame = decoder.decode(captures.intel5300(captures.matrix(30, 1, 1), rssi=(40, 0, 40), noise=-127))
    assert (frame.sequence, frame.capture_time_ns) == (7, 1_000_000_000)
    # Twice 40 dB is 43.01 dB; less 44 and the gain of 40 dB.
    assert frame.rssi_dbm == pytest.approx(-40.99, abs=0.005)
    assert frame.noise_floor_dbm is None
    assert frame.agc_gain == 40.0
    assert frame.header["rssi"] == (40, 0, 40)


@pytest.mark.parametrize(("rate", "layout", "mhz"), [(0x101, "intel5300_ht20", 20), (0x901, "intel5300_ht40", 40)])
def test_the_rate_tells_the_bandwidth_and_so_the_tones(rate: int, layout: str, mhz: int):
    frame = decoder.decode(captures.intel5300(captures.matrix(30, 2, 1), rate=rate))
    assert (frame.tone_layout, frame.header["bandwidth_mhz"]) == (layout, mhz)
    assert len(frame.tones) == 30


def test_the_recording_equals_csiread_without_scaling(shared: Path):
    path = shared / "real/captures/intel5300_0x1_ap.dat"
    theirs = csiread.Intel(str(path), nrxnum=3, ntxnum=2, if_report=False)
    theirs.read()
    frames = list(decoder.read(path))
    assert len(frames) == theirs.count == 540
    for i, frame in enumerate(frames):
        assert isinstance(frame, Frame)
        assert np.array_equal(frame.values.reshape(3, 2, 30), theirs.csi[i].transpose(1, 2, 0))
        assert frame.sequence == theirs.bfee_count[i]
        assert frame.agc_gain == theirs.agc[i]
    rss = np.array([frame.rssi_dbm for frame in frames if isinstance(frame, Frame)])
    np.testing.assert_allclose(rss, theirs.get_total_rss(), atol=1e-9)


def test_clock_and_count_are_carried_on_over_their_wraps(tmp_path: Path):
    path = tmp_path / "wraps.dat"
    channel = captures.matrix(30, 1, 1)
    marks = [((1 << 32) - 5, 65_535), (5, 0), (15, 1)]
    path.write_bytes(captures.intel5300_file([captures.intel5300(channel, clock=c, count=n) for c, n in marks]))
    frames = [item for item in decoder.read(path) if isinstance(item, Frame)]
    assert [frame.sequence for frame in frames] == [65_535, 65_536, 65_537]
    assert np.diff([frame.capture_time_ns or 0 for frame in frames]).tolist() == [10_000, 10_000]


def test_other_records_and_a_cut_are_told(tmp_path: Path):
    path = tmp_path / "mixed.dat"
    records = [PACKET, b"\xc1" + bytes(30), b"\x07abc", PACKET[:40]]
    path.write_bytes(captures.intel5300_file(records) + b"\x01\x89\xbb")
    assert decoder.recognises(path, path.read_bytes())
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in decoder.read(path)]
    assert kinds == ["csi", "payload", "unknown_code", "short", "short"]


@pytest.mark.parametrize("size", [0, 1, 20, 21, len(PACKET) - 1])
def test_a_packet_cut_short_is_refused(size: int):
    with pytest.raises((ShortFrameError, WrongMagicError)):
        decoder.decode(PACKET[:size])


@pytest.mark.parametrize(
    ("at", "value", "message"), [(9, 4, "1 to 3 antennas"), (10, 0, "1 to 3"), (17, 1, "matrix of")]
)
def test_sizes_that_contradict_each_other_are_refused(at: int, value: int, message: str):
    data = bytearray(PACKET)
    data[at] = value
    with pytest.raises(FrameError, match=message):
        decoder.decode(bytes(data))


@given(st.binary(max_size=500) | st.binary(max_size=450).map(lambda tail: PACKET[: 460 - len(tail)] + tail))
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    with contextlib.suppress(FrameError):
        assert np.isfinite(decoder.decode(data).values).all()
