"""What the client raises: the daemon's error tree, rebuilt from the stable reasons that travel with every refusal.

The classes mirror the daemon's own by name and by ``reason``; nothing of the daemon is imported. What a reason means is
decided by the daemon; here it only becomes a class. A reason that is not known here (a newer daemon) falls back on the
gRPC status code, and keeps its word in ``error.reason``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from tonescope.v1 import error_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class TonescopeError(Exception):
    """The root of everything the client raises on purpose. ``str(error)`` is one line.

    Attributes:
        reason: the stable word for what went wrong.
        code: the gRPC status code; None for an error found before anything was sent.
    """

    reason: str = "INTERNAL"
    code: grpc.StatusCode | None = None


class InvalidInputError(TonescopeError):
    """The request can never work as it is."""

    reason = "INVALID_INPUT"


class ShapeError(InvalidInputError):
    """An array of the wrong shape."""

    reason = "WRONG_SHAPE"


class DtypeError(InvalidInputError):
    """An array of a type that is not accepted."""

    reason = "WRONG_DTYPE"


class ByteLengthError(InvalidInputError):
    """A buffer whose length disagrees with its shape and dtype."""

    reason = "WRONG_BYTE_LENGTH"


class NonFiniteError(InvalidInputError):
    """NaN or infinity where a finite number is needed."""

    reason = "NON_FINITE"


class TargetError(InvalidInputError):
    """A target that the model does not have."""

    reason = "INVALID_TARGET"


class ParameterError(InvalidInputError):
    """A method parameter that is unknown, of the wrong type or out of range."""

    reason = "INVALID_PARAMETER"


class FrameError(InvalidInputError):
    """A CSI frame that cannot be decoded."""

    reason = "INVALID_FRAME"


class ShortFrameError(FrameError):
    """A frame with fewer bytes than its header announces."""

    reason = "SHORT_FRAME"


class WrongMagicError(FrameError):
    """A packet that is not CSI."""

    reason = "WRONG_MAGIC"


class RecordingError(InvalidInputError):
    """A recording or paired file that cannot be read."""

    reason = "INVALID_RECORDING"


class EmptyRecordingError(RecordingError):
    """A recording without one usable frame."""

    reason = "EMPTY_RECORDING"


class StorePathError(InvalidInputError):
    """A name that would leave the model store."""

    reason = "PATH_LEAVES_STORE"


class ProtocolError(InvalidInputError):
    """A live-stream message, or a call, that is not allowed at that point."""

    reason = "PROTOCOL"


class NotFoundError(TonescopeError):
    """A name that nothing goes by."""

    reason = "NOT_FOUND"


class UnknownModelError(NotFoundError):
    """No model of that name or version."""

    reason = "UNKNOWN_MODEL"


class UnknownMethodError(NotFoundError):
    """No attribution method of that name."""

    reason = "UNKNOWN_METHOD"


class UnknownToneLayoutError(NotFoundError):
    """No tone layout of that id."""

    reason = "UNKNOWN_TONE_LAYOUT"


class UnknownFormatError(NotFoundError):
    """No decoder for that format."""

    reason = "UNKNOWN_FORMAT"


class UnknownTensorError(NotFoundError):
    """No value of that name in the model's graph."""

    reason = "UNKNOWN_TENSOR"


class ModelError(TonescopeError):
    """The model itself cannot serve what was asked."""

    reason = "MODEL"


class NotOnnxError(ModelError):
    """A file that is not an ONNX model."""

    reason = "NOT_ONNX"


class CorruptWeightsError(ModelError):
    """A weights file that is truncated or damaged."""

    reason = "CORRUPT_WEIGHTS"


class MissingWeightsError(ModelError):
    """An ONNX model whose external weight files are not there."""

    reason = "MISSING_WEIGHTS"


class TensorMismatchError(ModelError):
    """Tensors missing, extra or mis-shaped."""

    reason = "TENSOR_MISMATCH"


class ManifestError(ModelError):
    """A manifest that cannot be read, or that contradicts its model."""

    reason = "INVALID_MANIFEST"


class UnsupportedOperatorError(ModelError):
    """An operator without a differentiation rule."""

    reason = "UNSUPPORTED_OPERATOR"


class MethodNotApplicableError(ModelError):
    """A method that cannot explain this model."""

    reason = "METHOD_NOT_APPLICABLE"


class OverloadedError(TonescopeError):
    """A bound on work or memory was reached; try again later."""

    reason = "OVERLOADED"


class DeadlineError(TonescopeError):
    """The deadline passed before the work was done."""

    reason = "DEADLINE"


class UnavailableError(TonescopeError):
    """The daemon is draining or not there."""

    reason = "UNAVAILABLE"


class ConfigurationError(TonescopeError):
    """The daemon cannot do this as it is configured."""

    reason = "CONFIGURATION"


class PluginError(TonescopeError):
    """A plugin of the daemon failed."""

    reason = "PLUGIN"


class PluginTimeoutError(PluginError):
    """A plugin of the daemon hung."""

    reason = "PLUGIN_TIMEOUT"


def _tree(root: type[TonescopeError]) -> Iterator[type[TonescopeError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


REASONS: dict[str, type[TonescopeError]] = {each.reason: each for each in _tree(TonescopeError)}

_BY_CODE: dict[grpc.StatusCode, type[TonescopeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: ModelError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def make_error(reason: str, message: str, code: grpc.StatusCode | None) -> TonescopeError:
    """Build the error of the class that ``reason`` names, or, for an unknown reason, of the class of ``code``."""
    kind = REASONS.get(reason)
    if kind is None:
        kind = _BY_CODE.get(code, TonescopeError) if code is not None else TonescopeError
    error = kind(" ".join(message.split()))
    error.code = code
    if reason:
        error.reason = reason
    return error


def from_problem(problem: error_pb2.Problem) -> TonescopeError:
    """Build the typed error of one window or frame."""
    return make_error(problem.reason, problem.message, _CODES.get(problem.grpc_code))


def from_rpc(error: grpc.RpcError, address: str) -> TonescopeError:
    """Build the typed error of a failed call to ``address``."""
    code, details = error.code(), error.details() or ""
    reason = _reason(error)
    if not reason and code is grpc.StatusCode.UNAVAILABLE:
        details = f"no daemon answers at {address}: {_cause(details)}"
    elif not reason and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"{address} did not answer before the deadline"
    elif not reason and details:
        details = f"{address}: {details}"
    return make_error(reason, details or f"the call to {address} failed with {code.name}", code)


def _cause(details: str) -> str:
    """Take the plain words for a lost or refused connection out of gRPC's own account of it."""
    known = re.search(r"connection refused|connection reset|socket closed|resolution failed", details, re.I)
    return known[0].lower() if known else details.split(";")[0]


def _reason(error: grpc.RpcError) -> str:
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
