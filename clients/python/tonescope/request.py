"""What a caller asks, as plain values, and the contract's messages built from it. Sending them is not done here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format, struct_pb2

from tonescope.errors import FrameError, InvalidInputError, ParameterError, ShapeError, TargetError
from tonescope.fields import built
from tonescope.tensors import to_tensor
from tonescope.v1 import attribution_pb2, csi_pb2, model_pb2


@dataclass(frozen=True)
class Frame:
    """One CSI frame, with exactly one payload.

    Attributes:
        amplitude: amplitudes, shape (n_tones), or (n_links, n_tones) for several antennas.
        iq: complex gains, of the same shapes; or real and imaginary parts, with a last axis of 2, also as int8.
        raw: bytes as they came from the radio, in the format that ``format`` names ("adr018", …).
        sequence: the frame's number at its source. The client numbers, per node, the frames that have none, unless
            they are raw: those carry their numbers inside.
    """

    amplitude: npt.ArrayLike | None = None
    iq: npt.ArrayLike | None = None
    raw: bytes | None = None
    format: str = ""
    node_id: int = 0
    transmitter: str = ""
    sequence: int | None = None
    capture_time_ns: int | None = None
    rssi_dbm: float | None = None
    noise_floor_dbm: float | None = None
    agc_gain: float | None = None


@dataclass(frozen=True)
class Window:
    """One window, in the model input's shape without the batch axis, and who captured it when."""

    values: npt.ArrayLike
    node_id: int = 0
    first_sequence: int | None = None
    last_sequence: int | None = None
    capture_time_ns: int | None = None


@dataclass(frozen=True)
class Target:
    """The scalar that is explained; build one with the class methods. ``output`` empty is the model's first output."""

    kind: str = "predicted"
    value: Any = None
    output: str = ""
    minus: Target | None = field(default=None)

    @classmethod
    def predicted(cls, output: str = "") -> Target:
        """The largest class score."""
        return cls("predicted", None, output)

    @classmethod
    def element(cls, index: int | str | Sequence[int], output: str = "") -> Target:
        """A class by index or name, or an element by its position."""
        return cls("element", index, output)

    @classmethod
    def mean(cls, indices: Sequence[int] = (), output: str = "") -> Target:
        """The mean of several elements, by flat index; of all where ``indices`` is empty."""
        return cls("mean", indices, output)

    @classmethod
    def sum(cls, indices: Sequence[int] = (), output: str = "") -> Target:
        """The sum of several elements, by flat index; of all where ``indices`` is empty."""
        return cls("sum", indices, output)

    @classmethod
    def log_probability(cls, label: int | str | None = None, output: str = "") -> Target:
        """The log-probability of a label; of the predicted class where ``label`` is None."""
        return cls("log_probability", label, output)

    @classmethod
    def negative_log_likelihood(cls, label: int | str | None = None, output: str = "") -> Target:
        """The negative log-likelihood of a label; of the predicted class where ``label`` is None."""
        return cls("negative_log_likelihood", label, output)

    @classmethod
    def difference(cls, plus: Target, minus: Target) -> Target:
        """``plus − minus``."""
        return cls("difference", plus, "", minus)


TargetLike = Target | int | str | tuple[int, ...] | None
"""None is the model's own default: the predicted class, or the mean of a regression's output."""
FrameLike = Frame | npt.NDArray[Any] | bytes
WindowLike = Window | npt.NDArray[Any]
Statistics = (
    tuple[npt.ArrayLike, npt.ArrayLike]
    | tuple[npt.ArrayLike, npt.ArrayLike, int]
    | tuple[npt.ArrayLike, npt.ArrayLike, int, int]
)
"""Mean and standard deviation per tone, of which node, and of frames of how many tones."""

# Of lists in each other: more axes than an array of the contract may have, and fewer than its encoding can nest.
MAX_DEPTH = 16
NORMALISATIONS = {
    "": csi_pb2.NORMALISATION_UNSPECIFIED,
    "none": csi_pb2.NORMALISATION_NONE,
    "manifest": csi_pb2.NORMALISATION_MANIFEST,
    "recording": csi_pb2.NORMALISATION_RECORDING,
    "running": csi_pb2.NORMALISATION_RUNNING,
}


def normalisation(name: str) -> csi_pb2.Normalisation.ValueType:
    """Look up a normalisation by its name."""
    if name not in NORMALISATIONS:
        known = ", ".join(each for each in NORMALISATIONS if each)
        raise InvalidInputError(f"normalisation: expected one of {known}, got {name!r}")
    return NORMALISATIONS[name]


def target_message(target: Target | int | str | tuple[int, ...]) -> attribution_pb2.Target:
    """Build the target's message from a Target, a class index or name, or a position."""
    if not isinstance(target, Target):
        target = Target.element(target)
    message = attribution_pb2.Target(output=target.output)
    try:
        _fill(message, target)
    except (TypeError, ValueError) as error:
        raise TargetError(
            f"target {target.kind}: expected indices, class names or labels, got {target.value!r}"
        ) from error
    return message


def _fill(message: attribution_pb2.Target, target: Target) -> None:
    kind, value = target.kind, target.value
    if kind == "predicted":
        message.predicted.SetInParent()
    elif kind == "element":
        _element(message, value)
    elif kind in ("mean", "sum"):
        elements: attribution_pb2.Target.Elements = getattr(message, kind)
        elements.SetInParent()
        elements.indices.extend(int(each) for each in value)
    elif kind in ("log_probability", "negative_log_likelihood"):
        _label(getattr(message, kind), value)
    elif kind == "difference":
        message.difference.plus.CopyFrom(target_message(value))
        message.difference.minus.CopyFrom(target_message(target.minus or Target.predicted()))
    else:
        raise TargetError(f"target: no such kind as {kind!r}")


def _element(message: attribution_pb2.Target, value: Any) -> None:
    if isinstance(value, str):
        message.class_name = value
    elif isinstance(value, (int, np.integer)):
        message.index = int(value)
    elif isinstance(value, Sequence) and all(isinstance(each, (int, np.integer)) for each in value):
        message.position.indices.extend(int(each) for each in value)
        message.position.SetInParent()
    else:
        raise TargetError(f"target: expected a class index, a class name or a position, got {value!r}")


def _label(message: attribution_pb2.Target.Label, value: int | str | None) -> None:
    message.SetInParent()
    if isinstance(value, str):
        message.class_name = value
    elif value is not None:
        message.index = int(value)


def method_parameters(given: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """Put a method's parameters together: those given as a mapping, and those given as keywords.

    Raises:
        ParameterError: no mapping, or one parameter given twice.
    """
    if given is None:
        return dict(named)
    if not isinstance(given, Mapping):
        raise ParameterError(f"parameters: expected a mapping from names to values, got {type(given).__name__}")
    for name in given:
        if name in named:
            raise ParameterError(f"parameter {name!r}: expected once, got it in parameters and as a keyword")
    return {**given, **named}


def method_call(name: str, parameters: Mapping[str, Any]) -> attribution_pb2.MethodCall:
    """Build a method call. Arrays become nested lists.

    Raises:
        ParameterError: a value that cannot travel, or that holds NaN or infinity.
    """
    struct = struct_pb2.Struct()
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise ParameterError(f"parameters: expected names as text, got {key!r}")
        try:
            json_format.ParseDict({key: _plain(value)}, parsed := struct_pb2.Struct())
        except (json_format.ParseError, ArithmeticError, TypeError, ValueError, RecursionError) as error:
            got = str(error) if isinstance(error, _UnfitError) else type(value).__name__
            raise ParameterError(
                f"parameter {key!r}: expected finite numbers, text, lists or arrays, got {got}"
            ) from error
        struct.MergeFrom(parsed)
    return built(attribution_pb2.MethodCall, ParameterError, "method ", name=name, parameters=struct)


class _UnfitError(ValueError):
    """What of a parameter's value cannot travel, in words."""


def _plain(value: Any, depth: int = 0) -> Any:
    """Turn arrays, wherever they stand, into nested lists."""
    if depth > MAX_DEPTH:
        raise _UnfitError(f"more than {MAX_DEPTH} lists in each other")
    if isinstance(value, np.ndarray | np.generic):
        if np.iscomplexobj(value):
            what = f"array of shape {value.shape}" if value.ndim else "number"
            raise _UnfitError(f"a complex {what}")
        return _plain(value.tolist(), depth)
    if isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each, depth + 1) for name, each in value.items()}
    if isinstance(value, complex):
        raise _UnfitError("a complex number")
    if isinstance(value, float) and not math.isfinite(value):
        raise _UnfitError("NaN or infinity")
    return value


def model_ref(name: str, version: str = "") -> model_pb2.ModelRef:
    """Build a reference to a model from its name and version, or from both in one: NAME/VERSION.

    Raises:
        ParameterError: no name, one of them is no text, or they name two versions.
    """
    if not isinstance(name, str) or not name:
        raise ParameterError(f"model: expected a name, or NAME/VERSION, got {name!r}")
    plain, slash, behind = name.partition("/")
    if not plain:  # a path: the daemon says what is wrong with it
        plain, slash, behind = name, "", ""
    if slash and version not in ("", behind):
        raise ParameterError(f"model version: expected {behind!r} as in {name!r}, got {version!r} beside it")
    return built(model_pb2.ModelRef, ParameterError, "model ", name=plain, version=behind if slash else version)


def options(
    model: str,
    version: str,
    target: TargetLike,
    method: str,
    parameters: Mapping[str, Any],
    top_k: int,
    cells: bool,
    declared_rows: bool = False,
    parts: bool = False,
    maps: bool = False,
    units: bool = False,
) -> attribution_pb2.ExplainOptions:
    """Build what single calls and streams have in common.

    Raises:
        ParameterError: one of them of the wrong type or out of range.
    """
    return built(
        attribution_pb2.ExplainOptions,
        ParameterError,
        model=model_ref(model, version),
        target=None if target is None else target_message(target),
        method=method_call(method, parameters),
        top_k=top_k,
        want_cells=cells,
        want_declared_rows=declared_rows,
        want_parts=parts,
        want_maps=maps,
        want_units=units,
    )


def statistics_messages(statistics: Sequence[Statistics]) -> list[csi_pb2.ToneStatistics]:
    """Build per-tone statistics from (mean, std), (mean, std, node_id) or (mean, std, node_id, frame_length)."""
    messages = []
    if not isinstance(statistics, Sequence):
        raise ParameterError(f"statistics: expected a list of tuples, got {type(statistics).__name__}")
    for each in statistics:
        try:
            mean, std = (np.asarray(part, dtype=np.float32) for part in each[:2])
        except (TypeError, ValueError) as error:
            raise ParameterError("statistics: expected (mean, std[, node_id[, frame_length]]) of numbers") from error
        message = csi_pb2.ToneStatistics(mean=to_tensor(mean), std=to_tensor(std))
        of = dict(zip(("node_id", "frame_length"), each[2:], strict=False))
        message.MergeFrom(built(csi_pb2.ToneStatistics, ParameterError, "statistics: ", **of))
        messages.append(message)
    return messages


def frame_message(frame: FrameLike) -> csi_pb2.Frame:
    """Build a frame: a real array is amplitudes, a complex one gains, bytes are raw.

    Raises:
        FrameError: no frame at all, or a value that does not fit.
        InvalidInputError: not exactly one payload.
        ShapeError: gains of a shape that there is not.
    """
    if isinstance(frame, bytes):
        frame = Frame(raw=frame)
    elif isinstance(frame, np.ndarray):
        frame = Frame(iq=frame) if np.iscomplexobj(frame) else Frame(amplitude=frame)
    elif not isinstance(frame, Frame):
        raise FrameError(f"frame: expected a Frame, an array or bytes, got {type(frame).__name__}")
    message = built(
        csi_pb2.Frame,
        FrameError,
        "frame: ",
        format=frame.format,
        node_id=frame.node_id,
        transmitter=frame.transmitter,
        sequence=frame.sequence,
        capture_time_ns=frame.capture_time_ns,
        rssi_dbm=frame.rssi_dbm,
        noise_floor_dbm=frame.noise_floor_dbm,
        agc_gain=frame.agc_gain,
    )
    if sum(payload is not None for payload in (frame.amplitude, frame.iq, frame.raw)) != 1:
        raise InvalidInputError("frame: expected exactly one of amplitude, iq and raw")
    try:
        if frame.raw is not None:
            message.raw = frame.raw
        elif frame.iq is not None:
            message.iq.CopyFrom(to_tensor(_pairs(np.asarray(frame.iq))))
        else:
            message.amplitude.CopyFrom(to_tensor(np.asarray(frame.amplitude, dtype=np.float32)))
    except (TypeError, ValueError) as error:
        raise FrameError("frame: expected an array of numbers as amplitude or iq, or bytes as raw") from error
    return message


def _pairs(iq: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring complex gains into real and imaginary parts: (n_tones, 2), or (n_links, n_tones, 2)."""
    if np.iscomplexobj(iq):
        iq = np.stack([iq.real, iq.imag], axis=-1).astype(np.float32)
    if iq.ndim not in (2, 3) or iq.shape[-1] != 2:
        raise ShapeError(f"frame: expected complex (n_tones) or real (n_tones, 2), or with links first, got {iq.shape}")
    return iq


def window_message(window: WindowLike) -> csi_pb2.Window:
    """Build a window from a Window or a bare array."""
    if not isinstance(window, Window):
        window = Window(window)
    return built(
        csi_pb2.Window,
        InvalidInputError,
        "window: ",
        values=to_tensor(window.values),
        node_id=window.node_id,
        first_sequence=window.first_sequence,
        last_sequence=window.last_sequence,
        capture_time_ns=window.capture_time_ns,
    )
