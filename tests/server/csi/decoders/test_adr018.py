from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonescope_server.csi.decoders.adr018 import OTHER_PACKETS, Adr018Decoder, encode, packet_kind
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, RecordingError, ShortFrameError, WrongMagicError

decoder = Adr018Decoder()
DOCUMENTED = bytes.fromhex(
    "010011c5"  # magic 0xC5110001
    "07"  # node 7
    "01"  # one antenna
    "0200"  # two tones
    "85090000"  # 2437 MHz
    "01020304"  # sequence 0x04030201
    "c9"  # rssi −55
    "a1"  # noise floor −95
    "01"  # HE-SU
    "13"  # 40 MHz, STBC, synced
    "05fe80 7f".replace(" ", "")  # (imaginary 5, real −2), (imaginary −128, real 127)
)


def test_a_packet_decodes_byte_by_byte_as_documented():
    frame = decoder.decode(DOCUMENTED)
    assert frame.values.dtype == np.complex64
    assert frame.values.tolist() == [-2 + 5j, 127 - 128j]
    assert (frame.node_id, frame.sequence) == (7, 0x04030201)
    assert (frame.rssi_dbm, frame.noise_floor_dbm) == (-55.0, -95.0)
    assert frame.format == "adr018"
    assert frame.header == {
        "frequency_mhz": 2437,
        "ppdu": "he_su",
        "bandwidth_mhz": 40,
        "stbc": True,
        "ldpc": False,
        "synced": True,
    }


def test_encode_writes_the_documented_bytes():
    values = np.array([-2 + 5j, 127 - 128j])
    fields = {"node_id": 7, "sequence": 0x04030201, "rssi_dbm": -55, "noise_floor_dbm": -95, "ppdu": 1, "flags": 0x13}
    assert encode(values, **fields) == DOCUMENTED


def test_several_antennas_keep_rows_of_their_own():
    values = np.arange(6).reshape(2, 3) - 1j
    frame = decoder.decode(encode(values))
    assert np.array_equal(frame.values, values)
    assert frame.n_tones == 3


def test_levels_that_no_receiver_can_see_are_not_known():
    frame = decoder.decode(encode(np.ones(4), rssi_dbm=1, noise_floor_dbm=0))
    assert frame.rssi_dbm is None
    assert frame.noise_floor_dbm is None


@pytest.mark.parametrize(("magic", "kind"), [(magic, kind) for magic, (kind, _) in OTHER_PACKETS.items()])
def test_other_packets_on_the_port_are_named_by_kind(magic: int, kind: str):
    data = struct.pack("<I", magic) + bytes(28)
    assert packet_kind(data) == kind
    with pytest.raises(
        WrongMagicError, match=rf"expected CSI \(magic 0xC5110001\), got {kind} \(magic 0x{magic:08X}\)"
    ):
        decoder.decode(data)


def test_other_packets_of_an_odd_size_are_said_to_be_odd():
    with pytest.raises(WrongMagicError, match=r"vitals.*of 10 bytes where 32 are usual"):
        decoder.decode(struct.pack("<I", 0xC5110002) + bytes(6))


def test_an_unknown_magic_is_refused_as_unknown():
    with pytest.raises(WrongMagicError, match=r"got an unknown packet \(magic 0xDEADBEEF\)"):
        decoder.decode(struct.pack("<I", 0xDEADBEEF) + bytes(200))


@pytest.mark.parametrize("size", [0, 3, 4, 19, 20, len(DOCUMENTED) - 1])
def test_a_packet_cut_short_is_refused(size: int):
    with pytest.raises(ShortFrameError, match=f"got {size}"):
        decoder.decode(DOCUMENTED[:size])


def test_trailing_bytes_are_refused():
    with pytest.raises(FrameError, match="expected 24 bytes for 1 x 2 tones, got 25"):
        decoder.decode(DOCUMENTED + b"\0")


@pytest.mark.parametrize("at", [5, 6])
def test_a_packet_without_tones_is_refused(at: int):
    with pytest.raises(FrameError, match="at least one antenna and tone"):
        decoder.decode(DOCUMENTED[:at] + b"\0" + DOCUMENTED[at + 1 : 20])


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: DOCUMENTED[:4] + tail))
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    with contextlib.suppress(FrameError):
        assert np.isfinite(decoder.decode(data).values).all()


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        (np.array([200.0]), {}),
        (np.array([np.nan]), {}),
        (np.zeros((1, 1, 1)), {}),
        (np.zeros(0), {}),
        (np.ones(1), {"node_id": 300}),
        (np.ones(1), {"sequence": -1}),
    ],
)
def test_what_does_not_fit_a_packet_cannot_be_encoded(values: np.ndarray, fields: dict):
    with pytest.raises(FrameError, match="ADR-018"):
        encode(values, **fields)


def test_packets_back_to_back_are_read_in_order(tmp_path: Path):
    path = tmp_path / "packets.bin"
    vitals = struct.pack("<I", 0xC5110002) + bytes(28)
    path.write_bytes(encode(np.ones(4), sequence=1) + vitals + encode(np.ones(8), sequence=2) + DOCUMENTED[:22])
    assert decoder.recognises(path, path.read_bytes())
    items = list(decoder.read(path))
    assert [item.sequence if isinstance(item, Frame) else item.kind for item in items] == [1, "vitals", 2, "short"]


def test_bytes_that_lead_to_no_packet_end_the_reading(tmp_path: Path):
    path = tmp_path / "packets.bin"
    path.write_bytes(DOCUMENTED + b"garbage")
    with pytest.raises(RecordingError, match=r"packets\.bin.*at byte 24"):
        list(decoder.read(path))


def test_text_is_not_taken_for_packets(tmp_path: Path):
    assert not decoder.recognises(tmp_path, b'{"type": "raw_csi"}')


def test_a_packet_without_tones_in_a_file_is_skipped(tmp_path: Path):
    path = tmp_path / "packets.bin"
    path.write_bytes(DOCUMENTED[:6] + b"\0\0" + DOCUMENTED[8:20] + DOCUMENTED)
    items = list(decoder.read(path))
    assert isinstance(items[0], Skipped)
    assert items[0].kind == "corrupt"
    assert isinstance(items[1], Frame)
