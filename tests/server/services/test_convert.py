from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonescope.v1 import attribution_pb2, csi_pb2, live_pb2, tensor_pb2
from tonescope_server.csi.frames import Frame
from tonescope_server.csi.tones import tone_table
from tonescope_server.errors import (
    ByteLengthError,
    DtypeError,
    InvalidInputError,
    ProtocolError,
    ShapeError,
    TargetError,
    TonescopeError,
)
from tonescope_server.live.messages import Overload, Undecodable
from tonescope_server.plugin.host import PluginHost
from tonescope_server.services.convert import (
    array_of,
    frame_of,
    options_of,
    parameters_of,
    struct_of,
    target_of,
    tensor_of,
    tone_table_of,
    window_of,
)
from tonescope_server.types import Target

HOST = PluginHost.load()


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", "<i1", "<i8"])
def test_arrays_survive_the_wire(dtype: str) -> None:
    array = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    back = array_of(tensor_pb2.Tensor.FromString(tensor_of(array).SerializeToString()), "x")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_tensor_is_read_without_a_copy_and_cannot_be_written() -> None:
    array = array_of(tensor_of(np.ones(4, np.float32)), "x")
    assert not array.flags.writeable
    assert not array.flags.owndata


def tensor(dtype: int, shape: list[int], size: int) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, data=bytes(size))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        (tensor(0, [2], 8), DtypeError, "got code 0"),
        (tensor(99, [2], 8), DtypeError, "got code 99"),
        (tensor(1, [2, 3], 23), ByteLengthError, "expected 24 bytes for (2, 3) float32, got 23"),
        (tensor(1, [2, 3], 25), ByteLengthError, "got 25"),
        (tensor(1, [], 0), ByteLengthError, "expected 4 bytes"),
        (tensor(1, [-1, 4], 16), ShapeError, "none negative"),
        (tensor(1, [1] * 9, 4), ShapeError, "up to 8 axes"),
        (tensor(1, [1 << 40, 1 << 40], 8), ByteLengthError, "got 8"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(
    message: tensor_pb2.Tensor, error: type[TonescopeError], says: str
) -> None:
    with pytest.raises(error) as raised:
        array_of(message, "window")
    assert says in str(raised.value)
    assert "window" in str(raised.value)
    assert "\n" not in str(raised.value)


@given(
    dtype=st.integers(0, 6),
    shape=st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 4), max_size=10),
    data=st.binary(max_size=64),
)
def test_whatever_a_tensor_holds_it_is_read_or_refused(dtype: int, shape: list[int], data: bytes) -> None:
    message = tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data)  # type: ignore[arg-type]
    try:
        array = array_of(message, "x")
    except InvalidInputError:
        return
    assert array.shape == tuple(shape)
    assert array.nbytes == len(data)


def test_a_bad_window_keeps_what_identifies_it() -> None:
    bad = csi_pb2.Window(values=tensor(1, [2], 7), node_id=4, last_sequence=9)
    window = window_of(bad)
    assert isinstance(window.values, ByteLengthError)
    assert (window.node_id, window.first_sequence, window.last_sequence) == (4, None, 9)


def test_a_frame_may_be_iq_of_any_real_type() -> None:
    pairs = np.array([[3, 4], [-5, 12]], np.int8)
    frame = frame_of(csi_pb2.Frame(iq=tensor_of(pairs), node_id=2, sequence=0), {})
    assert isinstance(frame, Frame)
    assert frame.values.tolist() == [3 + 4j, -5 + 12j]
    assert frame.amplitude.tolist() == pytest.approx([5, 13])
    assert (frame.node_id, frame.sequence, frame.rssi_dbm) == (2, 0, None)


def adr018(node: int, sequence: int, tones: int = 4) -> bytes:
    header = (0xC5110001).to_bytes(4, "little") + bytes([node, 1]) + tones.to_bytes(2, "little")
    header += (2437).to_bytes(4, "little") + sequence.to_bytes(4, "little") + bytes([200, 160, 0, 0])
    return header + bytes(range(1, 2 * tones + 1))


def test_raw_bytes_say_more_than_the_message_around_them() -> None:
    message = csi_pb2.Frame(raw=adr018(7, 42), node_id=1, sequence=5, format="adr018", capture_time_ns=11)
    frame = frame_of(message, HOST.decoders)
    assert isinstance(frame, Frame)
    assert (frame.node_id, frame.sequence, frame.capture_time_ns) == (7, 42, 11)
    assert frame.n_tones == 4


def test_the_streams_format_holds_where_a_frame_names_none() -> None:
    assert isinstance(frame_of(csi_pb2.Frame(raw=adr018(1, 1)), HOST.decoders, "adr018"), Frame)


def test_frames_of_several_antennas_are_read_link_by_link() -> None:
    iq = np.arange(12, dtype=np.int8).reshape(2, 3, 2)
    for message in (csi_pb2.Frame(iq=tensor_of(iq)), csi_pb2.Frame(iq=tensor_of(iq.astype(np.float32)))):
        frame = frame_of(message, HOST.decoders)
        assert isinstance(frame, Frame)
        assert frame.values.tolist() == (iq[..., 0] + 1j * iq[..., 1]).tolist()
    frame = frame_of(csi_pb2.Frame(amplitude=tensor_of(np.ones((2, 3), np.float32))), HOST.decoders)
    assert isinstance(frame, Frame)
    assert frame.values.shape == (2, 3)


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        (csi_pb2.Frame(), "INVALID_FRAME", "got no payload"),
        (csi_pb2.Frame(raw=b"x", format="pcap"), "UNKNOWN_FORMAT", "adr018"),
        (csi_pb2.Frame(raw=b"x"), "UNKNOWN_FORMAT", "''"),
        (csi_pb2.Frame(raw=b"\x01\x00", format="adr018"), "SHORT_FRAME", ""),
        (csi_pb2.Frame(raw=adr018(1, 1)[:-1], format="adr018"), "SHORT_FRAME", ""),
        (csi_pb2.Frame(raw=b"\x02\x00\x11\xc5" + bytes(28), format="adr018"), "WRONG_MAGIC", "vitals"),
        (csi_pb2.Frame(raw=b"garbage that is long enough", format="adr018"), "WRONG_MAGIC", ""),
        (csi_pb2.Frame(raw=b"{garbage", format="ruview_jsonl"), "INVALID_FRAME", ""),
        (csi_pb2.Frame(iq=tensor_of(np.ones((3, 3), np.float32))), "WRONG_SHAPE", "(n_tones, 2)"),
        (csi_pb2.Frame(iq=tensor_of(np.ones((0, 3, 2), np.float32))), "WRONG_SHAPE", "(n_links, n_tones, 2)"),
        (csi_pb2.Frame(amplitude=tensor_of(np.ones((3, 3, 3), np.float32))), "WRONG_SHAPE", "(n_tones,)"),
        (csi_pb2.Frame(amplitude=tensor(1, [3], 11)), "WRONG_BYTE_LENGTH", "12 bytes"),
    ],
)
def test_a_frame_that_cannot_be_read_says_why(message: csi_pb2.Frame, reason: str, says: str) -> None:
    message.node_id, message.sequence = 3, 8
    frame = frame_of(message, HOST.decoders)
    assert isinstance(frame, Undecodable)
    assert frame.error.reason == reason
    assert says in str(frame.error)
    assert (frame.node_id, frame.sequence) == (3, 8)


@pytest.mark.parametrize(
    ("message", "node"),
    [
        (csi_pb2.Frame(raw=b"x", format="adr018"), None),
        (csi_pb2.Frame(raw=b"x", format="adr018", node_id=3), 3),
        (csi_pb2.Frame(amplitude=tensor_of(np.ones((2, 2, 2), np.float32))), 0),
    ],
)
def test_the_node_of_a_packet_that_cannot_be_read_is_known_only_where_the_message_names_it(
    message: csi_pb2.Frame, node: int | None
) -> None:
    frame = frame_of(message, HOST.decoders)
    assert isinstance(frame, Undecodable)
    assert frame.node_id == node


CSI_LINE = b'CSI_DATA,5,aa:bb:cc:dd:ee:ff,-40,11,-90,0,0,6,123456,100,0,4,0,"[1,2,3,4]"'


def test_a_line_with_a_clock_that_counts_from_power_up_takes_its_time_from_the_message_or_has_none() -> None:
    line = csi_pb2.Frame(raw=CSI_LINE, format="esp_csi_csv")
    silent = frame_of(line, HOST.decoders)
    line.capture_time_ns = 1_760_000_000 * 10**9
    told = frame_of(line, HOST.decoders)
    assert isinstance(silent, Frame)
    assert isinstance(told, Frame)
    assert (silent.capture_time_ns, silent.unix_time_ns) == (123_456_000, None)
    assert told.unix_time_ns == 1_760_000_000 * 10**9


@given(raw=st.binary(max_size=200), format=st.sampled_from(sorted(HOST.decoders)))
def test_no_bytes_break_a_decoder(raw: bytes, format: str) -> None:
    assert isinstance(frame_of(csi_pb2.Frame(raw=raw, format=format), HOST.decoders), Frame | Undecodable)


PB = attribution_pb2.Target


@pytest.mark.parametrize(
    ("message", "target"),
    [
        (PB(), Target.predicted()),
        (PB(output="o", predicted=PB.Predicted()), Target.predicted("o")),
        (PB(index=0), Target.element(0)),
        (PB(class_name="one"), Target.element("one")),
        (PB(position=PB.Position(indices=[3, 1])), Target.element((3, 1))),
        (PB(mean=PB.Elements(indices=[1, 2])), Target.mean((1, 2))),
        (PB(mean=PB.Elements()), Target.mean(None)),
        (PB(sum=PB.Elements(indices=[0])), Target.sum((0,))),
        (PB(log_probability=PB.Label()), Target.log_probability(None)),
        (PB(log_probability=PB.Label(index=0)), Target.log_probability(0)),
        (PB(negative_log_likelihood=PB.Label(class_name="two")), Target.negative_log_likelihood("two")),
        (
            PB(difference=PB.Difference(plus=PB(index=1), minus=PB(index=0))),
            Target.difference(Target.element(1), Target.element(0)),
        ),
    ],
)
def test_every_kind_of_target_is_read(message: attribution_pb2.Target, target: Target) -> None:
    assert target_of(message) == target


def test_a_difference_needs_both_its_sides() -> None:
    with pytest.raises(TargetError, match="no minus"):
        target_of(PB(difference=PB.Difference(plus=PB(index=1))))


def test_parameters_survive_the_wire() -> None:
    values: dict[str, Any] = {"n": 3, "name": "x", "on": True, "none": None, "rows": [[1.5, 2.0], [3.0, 4.0]]}
    assert parameters_of(struct_of(values)) == values
    array = struct_of({"baseline": np.eye(2, dtype=np.float32), "axes": (1, 2), "k": np.int64(3)})
    assert parameters_of(array) == {"baseline": [[1.0, 0.0], [0.0, 1.0]], "axes": [1.0, 2.0], "k": 3.0}


def test_options_are_read_with_their_units() -> None:
    opening = live_pb2.Open(
        latency_budget_ms=250, source_id="s", overload_policy=live_pb2.OVERLOAD_POLICY_BACK_PRESSURE
    )
    opening.resume_from.add(node_id=2, sequence=77)
    opening.options.model.name = "m"
    options = options_of(opening)
    assert options.latency_budget_s == 0.25
    assert options.resume_from == {2: 77}
    assert options.overload is Overload.BACK_PRESSURE
    assert (options.model, options.target, options.normalisation) == ("m", None, None)


@pytest.mark.parametrize(
    ("opening", "error"),
    [
        (live_pb2.Open(latency_budget_ms=float("nan")), InvalidInputError),
        (live_pb2.Open(latency_budget_ms=-1), InvalidInputError),
        (live_pb2.Open(overload_policy=9), ProtocolError),  # type: ignore[arg-type]
        (live_pb2.Open(normalisation=9), InvalidInputError),  # type: ignore[arg-type]
        (live_pb2.Open(resume_from=[live_pb2.NodeSequence(node_id=1, sequence=1)]), ProtocolError),
    ],
)
def test_an_opening_that_contradicts_itself_is_refused(opening: live_pb2.Open, error: type[TonescopeError]) -> None:
    with pytest.raises(error):
        options_of(opening)


def test_a_tone_table_says_nothing_about_what_is_not_known() -> None:
    known, unknown = tone_table_of(tone_table("ruview56")), tone_table_of(tone_table("unknown_3"))
    assert (known.tones[1].subcarrier_index, known.tones[1].offset_hz) == (1, 312_500.0)
    assert known.tones[0].HasField("subcarrier_index")
    assert known.tones[27].kind == csi_pb2.TONE_KIND_NULL
    assert known.tones[7].kind == csi_pb2.TONE_KIND_PILOT
    assert not unknown.tones[0].HasField("subcarrier_index")
    assert unknown.tones[0].kind == csi_pb2.TONE_KIND_UNSPECIFIED
