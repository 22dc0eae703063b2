"""From the wire to plain values, and back for the values that are not results (those are in ``explanations``).

Every array is checked here: type, shape and byte length, with an error that says which one disagrees. Whether its
values suit a model is the engine's to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import struct_pb2

from tonescope.v1 import attribution_pb2, csi_pb2, live_pb2, tensor_pb2
from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.frames import Frame
from tonescope_server.csi.tones import RowsAre, ToneKind, ToneTable
from tonescope_server.errors import (
    ByteLengthError,
    DtypeError,
    FrameError,
    InvalidInputError,
    ParameterError,
    ProtocolError,
    ShapeError,
    TargetError,
    TonescopeError,
    UnknownFormatError,
)
from tonescope_server.live.messages import Options, Overload, ReceivedWindow, StatisticsKey, Undecodable, Wanted
from tonescope_server.models.model import Model
from tonescope_server.types import FloatArray, Target

_DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DATA_TYPE_INT8: np.dtype("<i1"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_AXES = 8
# It stands in every line of the log about its stream.
MAX_SOURCE_ID = 200
# Of one parameter: two hundred windows of sixty tones by twenty frames, and a tenth of a second to read.
MAX_PARAMETER_VALUES = 1 << 18
MAX_PARAMETER_BYTES = 4 << 20  # of all of them; a number takes eleven
_NORMALISATIONS: dict[int, str] = {
    csi_pb2.NORMALISATION_NONE: "none",
    csi_pb2.NORMALISATION_MANIFEST: "manifest",
    csi_pb2.NORMALISATION_RECORDING: "recording",
    csi_pb2.NORMALISATION_RUNNING: "running",
}
_OVERLOADS = {
    live_pb2.OVERLOAD_POLICY_UNSPECIFIED: Overload.DROP_OLDEST,
    live_pb2.OVERLOAD_POLICY_DROP_OLDEST: Overload.DROP_OLDEST,
    live_pb2.OVERLOAD_POLICY_BACK_PRESSURE: Overload.BACK_PRESSURE,
}
_KINDS = {
    ToneKind.DATA: csi_pb2.TONE_KIND_DATA,
    ToneKind.PILOT: csi_pb2.TONE_KIND_PILOT,
    ToneKind.NULL: csi_pb2.TONE_KIND_NULL,
    ToneKind.UNKNOWN: csi_pb2.TONE_KIND_UNSPECIFIED,
}
_ROWS_ARE = {RowsAre.TONES: csi_pb2.ROWS_ARE_TONES, RowsAre.FEATURES: csi_pb2.ROWS_ARE_FEATURES}


def array_of(tensor: tensor_pb2.Tensor, what: str) -> npt.NDArray[Any]:
    """Return a tensor's elements, read-only and without a copy.

    Raises:
        DtypeError: a type that is not stated or not known.
        ShapeError: a negative axis, or too many of them.
        ByteLengthError: the bytes are not those of the shape and type.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(str(dtype) for dtype in _DTYPES.values())
        raise DtypeError(f"{what}: expected a dtype among {known}, got code {tensor.dtype}")
    shape, data = tuple(tensor.shape), tensor.data
    if len(shape) > _MAX_AXES or any(size < 0 for size in shape):
        raise ShapeError(f"{what}: expected up to {_MAX_AXES} axes, none negative, got {_short(shape)}")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ByteLengthError(f"{what}: expected {expected} bytes for {shape} {dtype}, got {len(data)}")
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # no elements at all, and other sizes whose product no array can have
        raise ShapeError(f"{what}: expected sizes that an array can have, got {_short(shape)}") from error


def tensor_of(array: npt.NDArray[Any]) -> tensor_pb2.Tensor:
    """Return an array as a tensor; types that the wire has not become float32 or int64."""
    code = _CODES.get(array.dtype)
    if code is None:
        array = array.astype("<i8" if array.dtype.kind in "iub" else "<f4")
        code = _CODES[array.dtype]
    return tensor_pb2.Tensor(dtype=code, shape=array.shape, data=array.tobytes())  # type: ignore[arg-type]


def window_of(message: csi_pb2.Window) -> ReceivedWindow:
    """Read a window; what is wrong with its values goes with it, as it is answered in its turn."""
    try:
        values: npt.NDArray[Any] | TonescopeError = array_of(message.values, "values")
    except InvalidInputError as error:
        values = error
    return ReceivedWindow(
        values,
        message.node_id,
        message.first_sequence if message.HasField("first_sequence") else None,
        message.last_sequence if message.HasField("last_sequence") else None,
        message.capture_time_ns if message.HasField("capture_time_ns") else None,
    )


def frame_of(message: csi_pb2.Frame, decoders: Mapping[str, Decoder], default_format: str = "") -> Frame | Undecodable:
    """Read a frame, or say why it cannot be read."""
    sequence = message.sequence if message.HasField("sequence") else None
    try:
        kind = message.WhichOneof("payload")
        if kind == "raw":
            return _decoded(message, decoder_of(decoders, message.format or default_format), sequence)
        if kind is None:
            raise FrameError("frame: expected raw bytes, I/Q or amplitudes, got no payload", "no_payload")
        values = _complex(array_of(message.iq, "frame I/Q")) if kind == "iq" else _amplitude(message.amplitude)
    except TonescopeError as error:
        # What is not raw comes from the node that it names; of raw bytes, zero means that they were to say which.
        known = message.node_id or message.WhichOneof("payload") != "raw"
        return Undecodable(error, message.node_id if known else None, sequence)
    return Frame(
        values,
        message.node_id,
        message.transmitter,
        sequence,
        message.capture_time_ns if message.HasField("capture_time_ns") else None,
        message.rssi_dbm if message.HasField("rssi_dbm") else None,
        message.noise_floor_dbm if message.HasField("noise_floor_dbm") else None,
        message.agc_gain if message.HasField("agc_gain") else None,
    )


def decoder_of(decoders: Mapping[str, Decoder], name: str) -> Decoder:
    """Look up what decodes raw bytes of a format.

    Raises:
        UnknownFormatError: nothing does.
    """
    decoder = decoders.get(name)
    if decoder is None:
        raise UnknownFormatError(f"frame format {_short(name)}: unknown, expected one of {', '.join(sorted(decoders))}")
    return decoder


def _decoded(message: csi_pb2.Frame, decoder: Decoder, sequence: int | None) -> Frame:
    """Decode raw bytes. What the bytes say of the frame holds; the message fills in what they leave out."""
    frame = decoder.decode(message.raw)
    said: dict[str, Any] = {}
    if not frame.node_id and message.node_id:
        said["node_id"] = message.node_id
    if not frame.transmitter and message.transmitter:
        said["transmitter"] = message.transmitter
    if frame.sequence is None and sequence is not None:
        said["sequence"] = sequence
    if frame.unix_time_ns is None and message.HasField("capture_time_ns"):
        said |= {"capture_time_ns": message.capture_time_ns, "header": {**frame.header, "clock": "unix"}}
    for name in ("rssi_dbm", "noise_floor_dbm", "agc_gain"):
        if getattr(frame, name) is None and message.HasField(name):
            said[name] = getattr(message, name)
    return _with(frame, said) if said else frame


def _with(frame: Frame, said: dict[str, Any]) -> Frame:
    fields = {name: getattr(frame, name) for name in Frame.__dataclass_fields__}
    return Frame(**{**fields, **said})


def _complex(pairs: npt.NDArray[Any]) -> npt.NDArray[np.complex64]:
    if pairs.ndim not in (2, 3) or pairs.shape[-1] != 2 or not pairs.size:
        raise ShapeError(f"frame I/Q: expected (n_tones, 2) or (n_links, n_tones, 2), got {pairs.shape}")
    return np.ascontiguousarray(pairs, dtype=np.float32).view(np.complex64)[..., 0]


def _amplitude(tensor: tensor_pb2.Tensor) -> FloatArray:
    array = array_of(tensor, "frame amplitude")
    if array.ndim not in (1, 2) or (array.ndim == 2 and not array.size):
        raise ShapeError(f"frame amplitude: expected (n_tones,) or (n_links, n_tones), got {array.shape}")
    return array.astype(np.float32, copy=False)


def target_of(message: attribution_pb2.Target) -> Target:
    """Read a target.

    Raises:
        TargetError: a difference without both its sides.
    """
    output, kind = message.output or None, message.WhichOneof("kind")
    if kind == "index":
        return Target.element(message.index, output)
    if kind == "class_name":
        return Target.element(message.class_name, output)
    if kind == "position":
        return Target.element(tuple(message.position.indices), output)
    if kind == "mean":
        return Target.mean(tuple(message.mean.indices) or None, output)
    if kind == "sum":
        return Target.sum(tuple(message.sum.indices) or None, output)
    if kind == "log_probability":
        return Target.log_probability(_label(message.log_probability), output)
    if kind == "negative_log_likelihood":
        return Target.negative_log_likelihood(_label(message.negative_log_likelihood), output)
    if kind == "difference":
        return _difference(message.difference)
    return Target.predicted(output)


def _label(message: attribution_pb2.Target.Label) -> int | str | None:
    kind = message.WhichOneof("label")
    return None if kind is None else getattr(message, kind)


def _difference(message: attribution_pb2.Target.Difference) -> Target:
    for side in ("plus", "minus"):
        if not message.HasField(side):
            raise TargetError(f"target difference: expected both plus and minus, got no {side}")
    return Target.difference(target_of(message.plus), target_of(message.minus))


def check_size(message: struct_pb2.Struct) -> None:
    """Refuse parameters that would take long to read.

    Raises:
        ParameterError: more than ``MAX_PARAMETER_BYTES``.
    """
    if (size := message.ByteSize()) > MAX_PARAMETER_BYTES:
        raise ParameterError(f"parameters: expected at most {MAX_PARAMETER_BYTES} bytes in all, got {size}")


def parameters_of(message: struct_pb2.Struct) -> dict[str, Any]:
    """Return a method's parameters as plain values; numbers are floats, as JSON has them.

    Raises:
        ParameterError: one that holds NaN or infinity, or more than ``MAX_PARAMETER_VALUES``.
    """
    return {name: _parameter(name, value) for name, value in message.fields.items()}


def _parameter(name: str, value: struct_pb2.Value) -> Any:
    left = MAX_PARAMETER_VALUES

    def read(value: struct_pb2.Value) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ParameterError(f"parameter {_short(name)}: expected at most {MAX_PARAMETER_VALUES} values, got more")
        kind = value.WhichOneof("kind")
        if kind == "number_value":
            if not math.isfinite(value.number_value):
                raise ParameterError(f"parameter {_short(name)}: expected finite numbers, got NaN or infinity")
            return value.number_value
        if kind == "list_value":
            return [read(each) for each in value.list_value.values]
        if kind == "struct_value":
            return {key: read(each) for key, each in value.struct_value.fields.items()}
        return None if kind in (None, "null_value") else getattr(value, kind)

    return read(value)


def struct_of(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return resolved parameters as the wire has them: arrays as nested lists."""
    struct = struct_pb2.Struct()
    struct.update({name: _plain(value) for name, value in values.items()})
    return struct


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def options_of(message: live_pb2.Open) -> Options:
    """Read how a stream is to be opened.

    Raises:
        InvalidInputError: a field that contradicts itself; names are looked up later.
    """
    asked = message.options
    if message.overload_policy not in _OVERLOADS:
        raise ProtocolError(f"overload_policy: expected 0, 1 or 2, got {message.overload_policy}")
    budget_ms = message.latency_budget_ms
    if not (math.isfinite(budget_ms) and budget_ms >= 0):
        raise InvalidInputError(f"latency_budget_ms: expected a finite number of at least 0, got {budget_ms}")
    if message.resume_from and not message.source_id:
        raise ProtocolError("resume_from: expected source_id beside it, got none")
    source = message.source_id
    if len(source) > MAX_SOURCE_ID or not source.isprintable():
        raise InvalidInputError(
            f"source_id: expected at most {MAX_SOURCE_ID} printable characters, got {len(source)}: {_short(source)}"
        )
    return Options(
        model=asked.model.name,
        version=asked.model.version,
        target=target_of(asked.target) if asked.HasField("target") else None,
        method=asked.method.name,
        parameters=parameters_of(asked.method.parameters),
        want=Wanted(
            asked.top_k,
            asked.want_cells,
            asked.want_declared_rows,
            asked.want_parts,
            asked.want_maps,
            asked.want_units,
        ),
        window_frames=message.windowing.window_frames,
        hop_frames=message.windowing.hop_frames,
        normalisation=normalisation_of(message.normalisation),
        statistics=statistics_of(message.statistics),
        tone_layout=message.tone_layout,
        source_id=source,
        latency_budget_s=budget_ms / 1e3,
        overload=_OVERLOADS[message.overload_policy],
        queue_windows=message.queue_windows,
        resume_from={position.node_id: position.sequence for position in message.resume_from},
        resume_starts={
            (position.node_id, length): first
            for position in message.resume_from
            for length, first in position.first_by_length.items()
        },
        default_format=message.default_format,
    )


def normalisation_of(code: int) -> str | None:
    """Return a normaliser's name; None where the message leaves it open."""
    if code == csi_pb2.NORMALISATION_UNSPECIFIED:
        return None
    if code not in _NORMALISATIONS:
        raise InvalidInputError(f"normalisation: expected one of 0 to {len(_NORMALISATIONS)}, got {code}")
    return _NORMALISATIONS[code]


def normalisation_code(name: str) -> csi_pb2.Normalisation.ValueType:
    """Return a normaliser's code; unspecified for one that a plugin brought."""
    for code, known in _NORMALISATIONS.items():
        if known == name:
            return csi_pb2.Normalisation.ValueType(code)
    return csi_pb2.NORMALISATION_UNSPECIFIED


def overload_code(overload: Overload) -> live_pb2.OverloadPolicy.ValueType:
    """Return an overload policy's code."""
    if overload is Overload.BACK_PRESSURE:
        return live_pb2.OVERLOAD_POLICY_BACK_PRESSURE
    return live_pb2.OVERLOAD_POLICY_DROP_OLDEST


def statistics_of(
    messages: Iterable[csi_pb2.ToneStatistics],
) -> dict[StatisticsKey, tuple[FloatArray, FloatArray]]:
    """Read the statistics of a recording, by node and frame length; those of every other one are under None."""
    found: dict[StatisticsKey, tuple[FloatArray, FloatArray]] = {}
    for message in messages:
        node = message.node_id if message.HasField("node_id") else None
        length = message.frame_length if message.HasField("frame_length") else None
        mean, std = array_of(message.mean, "statistics mean"), array_of(message.std, "statistics std")
        found[node, length] = (mean.astype(np.float32, copy=False), std.astype(np.float32, copy=False))
    return found


def tone_table_of(table: ToneTable, links: Iterable[str] = (), components: Iterable[str] = ()) -> csi_pb2.ToneTable:
    """Return a tone table as the wire has it, with what a model's windows hold of each tone."""
    return csi_pb2.ToneTable(
        id=table.id,
        tones=[
            csi_pb2.Tone(
                row=tone.row,
                subcarrier_index=tone.subcarrier_index,
                offset_hz=tone.offset_hz,
                kind=_KINDS[tone.kind],
                training_field=tone.training_field,
                frequency_mhz=table.frequency_mhz(tone),
                name=tone.name,
            )
            for tone in table.tones
        ],
        rows_are=_ROWS_ARE[table.rows_are],
        centre_mhz=table.centre_mhz,
        links=links,
        components=components,
    )


def row_table_of(model: Model) -> csi_pb2.ToneTable:
    """Return the table of a model's results as the wire has it."""
    return tone_table_of(model.table, model.cells.links, model.cells.components)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
