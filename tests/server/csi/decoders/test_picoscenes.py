from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders.picoscenes import PicoScenesDecoder, layout_of_indices
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import tone_table
from tonescope_server.errors import FrameError, ShortFrameError, WrongMagicError

csiread = pytest.importorskip("csiread", reason="csiread has no wheel for this machine")
decoder = PicoScenesDecoder()
FRAME = captures.picoscenes(captures.matrix(56, 3, 2, most=500))
CASES = [
    (0x9300, 20, 56, 3, 2, "ht20_56"),
    (0x9300, 40, 114, 2, 1, "ht40_114"),
    (0x5300, 20, 30, 3, 2, "intel5300_ht20"),
    (0x5300, 40, 30, 1, 1, "intel5300_ht40"),
]


@pytest.mark.parametrize(("device", "mhz", "n_tones", "n_rx", "n_tx", "layout"), CASES)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_link_keeps_a_row_of_its_own_and_every_row_its_tone(
    device: int, mhz: int, n_tones: int, n_rx: int, n_tx: int, layout: str, version: int
):
    channel = captures.matrix(n_tones, n_rx, n_tx)
    frame = decoder.decode(captures.picoscenes(channel, device=device, bandwidth=mhz, version=version))
    links = [(rx, tx) for rx in range(n_rx) for tx in range(n_tx)]
    assert list(frame.header["links"]) == links
    for row, (rx, tx) in zip(np.atleast_2d(frame.values), links, strict=True):
        assert np.array_equal(row, channel[:, rx, tx])
    assert frame.tone_layout == layout
    assert frame.header["bandwidth_mhz"] == mhz
    assert frame.header["subcarrier_index"] == tuple(tone.subcarrier_index for tone in tone_table(layout))


def test_a_file_equals_what_csiread_makes_of_it(tmp_path: Path):
    path = tmp_path / "frames.csi"
    channels = [captures.matrix(56, 3, 2, seed, most=500) for seed in range(4)]
    path.write_bytes(b"".join(map(captures.picoscenes, channels)))
    assert decoder.recognises(path, path.read_bytes())
    theirs = csiread.Picoscenes(str(path), {"CSI": [56, 3, 2], "MPDU": 64}, if_report=False)
    theirs.read()
    frames = [item for item in decoder.read(path) if isinstance(item, Frame)]
    assert len(frames) == len(theirs.raw) == 4
    for frame, other in zip(frames, theirs.raw, strict=True):
        assert np.array_equal(frame.values.reshape(3, 2, 56), other["CSI"]["CSI"].transpose(1, 2, 0))
        assert frame.header["subcarrier_index"] == tuple(other["CSI"]["SubcarrierIndex"])
        assert frame.rssi_dbm == other["RxSBasic"]["RSSI"]
        assert frame.noise_floor_dbm == other["RxSBasic"]["NoiseFloor"]
        assert frame.capture_time_ns == int(other["RxSBasic"]["Timestamp"]) * 1000


@pytest.mark.parametrize(("version", "rssi"), [(1, 55), (2, 55), (3, -40)])
def test_levels_are_over_the_noise_floor_in_older_versions(version: int, rssi: int):
    basic = captures.picoscenes_basic(version, noise=-95, rssi=rssi)
    csi = captures.picoscenes_csi(captures.matrix(56, 1, 1))
    frame = decoder.decode(captures.picoscenes_frame(basic, csi))
    assert (frame.rssi_dbm, frame.noise_floor_dbm) == (-40.0, -95.0)
    assert frame.capture_time_ns == 123_456_000
    assert frame.transmitter == "00:11:22:33:44:55"


def test_a_frame_of_values_alone_is_read():
    frame = decoder.decode(captures.picoscenes_frame(captures.picoscenes_csi(captures.matrix(56, 1, 1)), mpdu=b""))
    assert (frame.transmitter, frame.capture_time_ns, frame.rssi_dbm) == ("", None, None)


@pytest.mark.parametrize(("device", "name"), [(0x2000, "AX200"), (0x1234, "USRP"), (0x7777, "0x7777")])
def test_frames_of_other_cards_are_refused_by_name(device: int, name: str):
    with pytest.raises(FrameError, match=f"expected a frame of qca9300 or intel5300, got one of {name}") as refused:
        decoder.decode(captures.picoscenes(captures.matrix(56, 1, 1), device=device))
    assert refused.value.kind == "other_device"


def test_indices_that_no_layout_has_are_no_layout():
    assert layout_of_indices(tuple(range(56))) == ""
    assert layout_of_indices(()) == ""


def test_what_is_missing_or_cut_is_told(tmp_path: Path):
    path = tmp_path / "frames.csi"
    without = captures.picoscenes_frame(captures.picoscenes_basic())
    path.write_bytes(FRAME + without + FRAME + FRAME[:50])
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in decoder.read(path)]
    assert kinds == ["csi", "no_csi", "csi", "short"]


def test_a_segment_whose_name_reaches_beyond_it_is_refused():
    csi = captures.picoscenes_csi(captures.matrix(56, 1, 1))
    with pytest.raises(ShortFrameError, match="expected a segment of 2 bytes"):
        decoder.decode(captures.picoscenes_frame(b"\2\0\0\0\x09a", csi))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", ShortFrameError),
        (FRAME[:-1], ShortFrameError),
        (FRAME + b"\0", FrameError),
        (FRAME[:4] + b"\0" + FRAME[5:], WrongMagicError),
        (FRAME[:10] + b"\xff" + FRAME[11:], FrameError),
        (FRAME[:10] + b"\x3f" + FRAME[11:], ShortFrameError),
    ],
)
def test_damaged_frames_are_refused(data: bytes, error: type[FrameError]):
    with pytest.raises(error):
        decoder.decode(data)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda body: captures.picoscenes_frame(captures.picoscenes_segment("CSI", 3, body)))
    | st.tuples(st.integers(0, 130), st.integers(0, 255)).map(
        lambda change: FRAME[: change[0]] + bytes([change[1]]) + FRAME[change[0] + 1 :]
    )
)
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    with contextlib.suppress(FrameError):
        assert np.isfinite(decoder.decode(data).values).all()
