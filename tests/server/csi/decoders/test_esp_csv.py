from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonescope_server.csi.decoders.esp_csv import (
    Esp32CsiToolDecoder,
    EspCsiCsvDecoder,
    GainCorrection,
    gain_factor,
)
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ParameterError, ShortFrameError

esp_csi = EspCsiCsvDecoder()
csi_tool = Esp32CsiToolDecoder()

ESP32_HEADER = (
    "type,id,mac,rssi,rate,sig_mode,mcs,bandwidth,smoothing,not_sounding,aggregation,stbc,fec_coding,sgi,noise_floor,"
    "ampdu_cnt,channel,secondary_channel,local_timestamp,ant,sig_len,rx_state,len,first_word,data"
)
C5_HEADER = (
    "type,id,mac,rssi,rate,noise_floor,fft_gain,agc_gain,channel,local_timestamp,sig_len,rx_state,len,first_word,data"
)


def esp32(numbers: str = "1,2,-3,4", n: int = 4, seq: int = 17, micros: int = 5_000_000) -> str:
    return f'CSI_DATA,{seq},1a:00:00:00:00:00,-41,11,1,0,1,1,1,0,0,0,0,-93,0,6,1,{micros},0,101,0,{n},1,"[{numbers}]"'


def c5(agc: int = 30, fft: int = -4, numbers: str = "1,2,-3,4") -> str:
    return f'CSI_DATA,18,1a:00:00:00:00:00,-50,11,-97,{fft},{agc},6,5000000,101,0,4,0,"[{numbers}]"'


def tool(numbers: str = "1 2 -3 4 ", n: int = 4) -> str:
    return (
        f"CSI_DATA,AP,3C:71:BF:6D:2A:78,-73,11,1,0,1,1,1,0,0,0,0,-93,0,1,1,80272146,0,101,0,0,80.363225,{n},[{numbers}]"
    )


def read(decoder, tmp_path: Path, *lines: str) -> list[Frame | Skipped]:
    path = tmp_path / "capture.csv"
    path.write_text("\n".join(lines))
    return list(decoder.read(path))


def test_a_line_of_esp_csi_decodes_with_the_imaginary_part_first():
    frame = esp_csi.decode(esp32().encode())
    assert frame.values.tolist() == [2 + 1j, 4 - 3j]
    assert (frame.sequence, frame.transmitter) == (17, "1a:00:00:00:00:00")
    assert (frame.rssi_dbm, frame.noise_floor_dbm, frame.agc_gain) == (-41.0, -93.0, None)
    assert frame.capture_time_ns == 5_000_000_000
    assert (frame.header["channel"], frame.header["secondary_channel"], frame.header["bandwidth"]) == (6, 1, 1)
    assert frame.header["first_word_invalid"] is True
    assert frame.header["clock"] == "boot"


def test_a_line_of_the_c5_form_carries_its_gains():
    frame = esp_csi.decode(c5().encode())
    assert frame.values.tolist() == [2 + 1j, 4 - 3j]
    assert (frame.agc_gain, frame.header["fft_gain"], frame.noise_floor_dbm) == (30.0, -4, -97.0)
    assert frame.header["first_word_invalid"] is False


def test_a_line_of_the_csi_tool_decodes_with_its_own_clock():
    frame = csi_tool.decode(tool().encode())
    assert frame.values.tolist() == [2 + 1j, 4 - 3j]
    assert frame.capture_time_ns == 80_363_225_000
    assert frame.sequence is None
    assert frame.header["role"] == "AP"


@pytest.mark.parametrize(("header", "line"), [(ESP32_HEADER, esp32()), (C5_HEADER, c5())])
def test_a_header_line_names_the_fields(tmp_path: Path, header: str, line: str):
    (frame,) = read(esp_csi, tmp_path, header, line)
    assert isinstance(frame, Frame)
    assert frame.rssi_dbm in (-41.0, -50.0)


def test_a_header_in_another_order_is_followed(tmp_path: Path):
    (frame,) = read(esp_csi, tmp_path, "type,seq,rssi,mac,len,data", 'CSI_DATA,5,-33,aa,4,"[1,2,3,4]"')
    assert isinstance(frame, Frame)
    assert (frame.sequence, frame.rssi_dbm, frame.transmitter) == (5, -33.0, "aa")


def test_boot_messages_and_damaged_lines_are_skipped_and_the_rest_is_read(tmp_path: Path):
    items = read(
        esp_csi,
        tmp_path,
        "I (23) boot: ESP-IDF",
        esp32(),
        esp32(numbers="1,2,x,4"),
        esp32(numbers="1,2", n=4),
        esp32()[:-4],
        esp32(seq=18),
    )
    kinds = [item.kind if isinstance(item, Skipped) else item.sequence for item in items]
    assert kinds == ["not_csi", 17, "corrupt", "short", "short", 18]
    assert isinstance(items[2], Skipped)
    assert "capture.csv:3" in items[2].message


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        (esp32(numbers="1,2"), ShortFrameError, "expected 4 integers, got 2"),
        (esp32(numbers="1,2,3,4,5,6"), FrameError, "expected 4 integers, got 6"),
        (esp32(numbers="1,2,3", n=3), ShortFrameError, "pairs"),
        (esp32(numbers="", n=0), ShortFrameError, "pairs"),
        (esp32(numbers="1,2,3,nan"), FrameError, "integers in the list"),
        (esp32(numbers="1,2,3,99999"), FrameError, "16-bit"),
        (esp32().replace("-41", "x"), FrameError, "'rssi', got 'x'"),
        (esp32().replace("-41", "9" * 400), FrameError, "smaller number in field 'rssi'"),
        (esp32().replace("-41,", ""), FrameError, "expected 24 or 14 fields before the list, got 23"),
        (esp32().replace("]", ""), ShortFrameError, "cut short"),
        ("CSI_DATA,1,2", FrameError, "list in brackets"),
        ("hello", FrameError, "CSI_DATA"),
        (esp32().replace("CSI_DATA", "RSSI_DATA"), FrameError, "got another line"),
        (esp32(numbers="1,2,3,4.5"), FrameError, "integers in the list"),
        ("CSI_DATA,é[1,2]", FrameError, "ASCII"),
    ],
)
def test_a_damaged_line_is_refused_with_what_was_expected(line: str, error: type[FrameError], message: str):
    with pytest.raises(error, match=message) as caught:
        esp_csi.decode(line.encode())
    assert type(caught.value) is error


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300", "soon"])
def test_a_time_that_is_none_is_refused(seconds: str):
    with pytest.raises(FrameError, match="'real_timestamp'"):
        csi_tool.decode(tool().replace("80.363225", seconds).encode())


def test_the_csi_tool_may_print_only_the_first_128_integers():
    frame = csi_tool.decode(tool(" ".join(["1"] * 128), n=384).encode())
    assert frame.n_tones == 64
    assert frame.header["len"] == 384
    with pytest.raises(ShortFrameError, match="expected 384 integers, got 126"):
        csi_tool.decode(tool(" ".join(["1"] * 126), n=384).encode())


@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda text: (esp32()[:-12] + text).encode()))
def test_garbage_is_refused_with_a_frame_error_and_nothing_else(data: bytes):
    for decoder in (esp_csi, csi_tool):
        with contextlib.suppress(FrameError):
            assert np.isfinite(decoder.decode(data).values).all()


def test_the_boards_clock_is_carried_on_when_it_starts_again(tmp_path: Path):
    top = (1 << 32) - 1000
    items = read(esp_csi, tmp_path, *(esp32(micros=micros) for micros in (top, top + 500, 200, 700)))
    times = [item.capture_time_ns for item in items if isinstance(item, Frame)]
    assert np.diff(times).tolist() == [500_000, 700_000, 500_000]


def test_each_format_recognises_its_own_files(tmp_path: Path):
    for line in (esp32(), c5()):
        head = f"boot\n{line}".encode()
        assert (esp_csi.recognises(tmp_path, head), csi_tool.recognises(tmp_path, head)) == (True, False)
    head = tool().encode()
    assert (esp_csi.recognises(tmp_path, head), csi_tool.recognises(tmp_path, head)) == (False, True)
    assert not esp_csi.recognises(tmp_path, b"{}")


def test_microseconds_are_read_without_their_leading_zeros():
    frame = csi_tool.decode(tool().replace("80.363225", "15.42801").encode())
    assert frame.capture_time_ns == 15_042_801_000


def test_a_reception_printed_twice_is_read_once(tmp_path: Path):
    other = tool(numbers="1 2 3 4 ")
    kinds = [
        item.kind if isinstance(item, Skipped) else "frame" for item in read(csi_tool, tmp_path, tool(), tool(), other)
    ]
    assert kinds == ["frame", "duplicate", "frame"]


# Gain


def test_more_gain_than_the_reference_is_divided_out():
    assert gain_factor(agc=26, fft=0, agc_reference=20, fft_reference=0) == pytest.approx(10 ** (-6 / 20))
    assert gain_factor(agc=20, fft=24, agc_reference=20, fft_reference=0) == pytest.approx(10 ** (-6 / 20))
    assert gain_factor(agc=20, fft=4, agc_reference=21, fft_reference=0) == 1.0


def test_frames_are_brought_to_the_gain_of_the_first():
    correction = GainCorrection()
    first = correction.apply(esp_csi.decode(c5(agc=30, fft=-4).encode()))
    second = correction.apply(esp_csi.decode(c5(agc=50, fft=-4).encode()))
    assert np.array_equal(first.values, [2 + 1j, 4 - 3j])
    np.testing.assert_allclose(second.values, first.values / 10, rtol=1e-6)
    assert second.values.dtype == np.complex64
    assert second.header["gain_factor"] == pytest.approx(0.1)


def test_a_given_reference_is_used():
    frame = GainCorrection(agc=10, fft=-4).apply(esp_csi.decode(c5(agc=30, fft=-4).encode()))
    np.testing.assert_allclose(frame.values, np.array([2 + 1j, 4 - 3j]) / 10, rtol=1e-6)


def test_frames_without_gains_cannot_be_corrected():
    with pytest.raises(FrameError, match="agc_gain and fft_gain"):
        GainCorrection().apply(esp_csi.decode(esp32().encode()))


def test_half_a_gain_reference_is_refused():
    with pytest.raises(ParameterError, match="both agc and fft"):
        GainCorrection(agc=10)


def test_no_gain_is_taken_out_unasked():
    frame = esp_csi.decode(c5(agc=60).encode())
    assert np.array_equal(frame.values, [2 + 1j, 4 - 3j])


# Captures


@pytest.mark.parametrize(
    ("name", "n", "repeated", "transmitter"),
    [
        ("esp32_csi_tool_example.csv", 60, 27, "D0:6E:DE:27:6B:63"),
        ("esp32_csiread_example.csv", 13, 0, "3C:71:BF:6D:2A:78"),
    ],
)
def test_a_capture_is_read_with_or_without_a_header_line(
    shared: Path, name: str, n: int, repeated: int, transmitter: str
):
    path = shared / "real/captures" / name
    assert csi_tool.recognises(path, path.read_bytes())
    items = list(csi_tool.read(path))
    frames = [item for item in items if isinstance(item, Frame)]
    assert [item.kind for item in items if isinstance(item, Skipped)] == ["duplicate"] * repeated
    assert [frame.n_tones for frame in frames] == [64] * (n - repeated)
    assert {frame.transmitter for frame in frames} == {transmitter}
    times = np.array([frame.capture_time_ns for frame in frames])
    assert (np.diff(times) > 0).all()
    # Both clocks tick alike, up to what passes between a reception and its printing.
    board = np.array([frame.header["local_timestamp"] * 1000 for frame in frames])
    assert np.ptp(times - board) < 50e6


def test_the_first_words_of_a_capture_are_marked_invalid_and_are_constant(shared: Path):
    items = csi_tool.read(shared / "real/captures/esp32_csi_tool_example.csv")
    frames = [item for item in items if isinstance(item, Frame)]
    assert all(frame.header["first_word_invalid"] for frame in frames)
    assert {complex(frame.values[0]) for frame in frames} == {38 + 18j}
    assert {complex(frame.values[1]) for frame in frames} == {97j}
