from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders.nexmon import NexmonDecoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import tone_table
from tonescope_server.errors import FrameError, RecordingError, ShortFrameError, WrongMagicError

csiread = pytest.importorskip("csiread", reason="csiread has no wheel for this machine")
decoder = NexmonDecoder()
RANDOM = np.random.default_rng(1)


def values(n: int = 256, most: int = 3000) -> np.ndarray:
    """Strong tones and weak nulls."""
    null = tone_table(f"nexmon_{n * 5 // 16}").null_mask
    real, imaginary = RANDOM.integers(most // 2, most, (2, n))
    return np.where(null, 3 + 2j, real - 1j * imaginary)


PACKET = captures.nexmon(values())


@pytest.mark.parametrize(("n", "layout"), [(64, "nexmon_20"), (128, "nexmon_40"), (256, "nexmon_80")])
def test_int16_values_are_read_as_they_are(n: int, layout: str):
    sent = values(n)
    frame = decoder.decode(captures.nexmon(sent, core=1, stream=2))
    assert np.array_equal(frame.values, sent)
    assert frame.tone_layout == layout
    assert frame.transmitter == "00:11:22:33:44:55/core1/stream2"
    assert frame.header["links"] == ((1, 2),)
    assert (frame.header["chip"], frame.header["wifi_sequence"]) == ("bcm43455c0", 16)


def test_the_newer_form_carries_the_signal_strength():
    data = bytearray(PACKET)
    data[2], data[3] = 256 - 51, 0x88
    frame = decoder.decode(bytes(data))
    assert (frame.rssi_dbm, frame.header["frame_control"]) == (-51.0, 0x88)
    assert np.array_equal(frame.values, decoder.decode(PACKET).values)
    assert decoder.decode(PACKET).rssi_dbm is None


def test_a_chip_that_does_not_name_itself_is_told_by_its_weak_nulls():
    frame = decoder.decode(captures.nexmon(values(), chip=0xDEAD))
    assert frame.header["chip"] == "bcm43455c0"


def test_a_chip_that_nothing_tells_is_refused_by_name():
    loud = np.full(256, 3000 + 10j)
    with pytest.raises(FrameError, match=r"chip 0xDEAD is not known: expected weak nulls.*got none of them") as refused:
        decoder.decode(captures.nexmon(loud, chip=0xDEAD))
    assert refused.value.kind == "unknown_chip"


def test_a_chip_that_two_packings_fit_is_refused_by_name():
    # Words whose exponent, as a packed float, is zero too: strong tones and silent nulls either way.
    silent = np.where(tone_table("nexmon_80").null_mask, 0, 8128 + 100j)
    with pytest.raises(FrameError, match="got 43455c0 or 4358") as refused:
        decoder.decode(captures.nexmon(silent, chip=0xDEAD))
    assert refused.value.kind == "unknown_chip"


def test_the_recording_equals_csiread(shared: Path):
    path = shared / "real/captures/nexmon_example.pcap"
    theirs = csiread.Nexmon(str(path), chip="4358", bw=80, if_report=False)
    theirs.read()
    frames = [item for item in decoder.read(path) if isinstance(item, Frame)]
    assert len(frames) == theirs.count == 4
    for i, frame in enumerate(frames):
        assert np.array_equal(frame.values, theirs.csi[i])
        assert frame.header["links"] == ((theirs.core[i], theirs.spatial[i]),)
        assert frame.capture_time_ns == int(theirs.sec[i]) * 1_000_000_000 + int(theirs.usec[i]) * 1000
    assert len({frame.transmitter for frame in frames}) == 4


def test_the_recordings_weak_rows_are_the_nulls_of_the_layout(shared: Path):
    frames = list(decoder.read(shared / "real/captures/nexmon_example.pcap"))
    amplitude = np.mean([frame.amplitude for frame in frames if isinstance(frame, Frame)], axis=0)
    weak = np.flatnonzero(amplitude < 0.1 * np.median(amplitude))
    assert tuple(weak) == tone_table("nexmon_80").null_rows


@pytest.mark.parametrize("endian", ["<", ">"])
def test_a_capture_is_read_in_order_with_its_times(tmp_path: Path, endian: str):
    path = tmp_path / "packets.pcap"
    path.write_bytes(captures.pcap([PACKET, b"hello", PACKET[:100], PACKET], endian=endian) + b"\1\2\3")
    assert decoder.recognises(path, path.read_bytes())
    items = list(decoder.read(path))
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in items]
    assert kinds == ["csi", "unknown_magic", "short", "csi", "not_udp"]
    times = [item.capture_time_ns for item in items if isinstance(item, Frame)]
    assert times == [1_500_000_000_000_000_000, 1_500_000_000_030_000_000]


def test_once_a_packet_has_told_its_chip_the_others_follow(tmp_path: Path):
    path = tmp_path / "packets.pcap"
    loud = captures.nexmon(np.full(256, 3000 + 10j), chip=0xDEAD)
    path.write_bytes(captures.pcap([loud, captures.nexmon(values(), chip=0xDEAD), loud]))
    kinds = [item.kind if isinstance(item, Skipped) else "csi" for item in decoder.read(path)]
    assert kinds == ["unknown_chip", "csi", "csi"]


def test_a_capture_of_another_link_layer_is_refused(tmp_path: Path):
    path = tmp_path / "packets.pcap"
    path.write_bytes(captures.pcap([PACKET], link=113))
    with pytest.raises(RecordingError, match="expected an Ethernet capture, got link type 113"):
        list(decoder.read(path))


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", WrongMagicError), (b"\x11\x11", ShortFrameError), (PACKET[:-1], FrameError), (PACKET + b"1234", FrameError)],
)
def test_a_datagram_of_another_size_is_refused(data: bytes, error: type[FrameError]):
    with pytest.raises(error):
        decoder.decode(data)


@given(
    st.binary(max_size=300)
    | st.binary(min_size=256, max_size=256).map(lambda tail: PACKET[:18] + tail)
    | st.binary(min_size=2, max_size=2).map(lambda chip: PACKET[:16] + chip + PACKET[18:])
)
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    with contextlib.suppress(FrameError):
        assert np.isfinite(decoder.decode(data).values).all()
