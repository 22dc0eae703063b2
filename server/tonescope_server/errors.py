"""The one error tree. Everything the daemon says "no" with is a class here, and nothing else is.

Each class carries a stable ``reason``: the word that travels in ``google.rpc.ErrorInfo`` and from which both
clients rebuild the same class. ``services/status.py`` maps classes to gRPC status codes; this file knows no gRPC.

    TonescopeError
    ├── InvalidInputError           the request can never work as it is
    │   ├── ShapeError              a window, baseline or tensor of the wrong shape
    │   ├── DtypeError
    │   ├── ByteLengthError         a buffer whose length disagrees with its shape and dtype
    │   ├── NonFiniteError          NaN or infinity in an input
    │   ├── TargetError             a target the model does not have
    │   ├── ParameterError          an unknown or out-of-range method parameter
    │   ├── FrameError              a frame that cannot be decoded
    │   │   ├── ShortFrameError
    │   │   └── WrongMagicError
    │   ├── RecordingError          a recording, or paired file, that cannot be read
    │   │   └── EmptyRecordingError
    │   ├── StorePathError          a name that would leave the model store
    │   └── ProtocolError           a live stream message out of order
    ├── NotFoundError
    │   ├── UnknownModelError  UnknownMethodError  UnknownToneLayoutError  UnknownFormatError
    │   └── UnknownTensorError      no value of that name in the graph
    ├── ModelError                  the model itself cannot serve this
    │   ├── NotOnnxError  CorruptWeightsError  MissingWeightsError
    │   ├── TensorMismatchError     a tensor missing, extra or mis-shaped
    │   ├── ManifestError
    │   ├── UnsupportedOperatorError
    │   └── MethodNotApplicableError
    ├── OverloadedError             a bound was reached; try again later
    ├── DeadlineError
    ├── UnavailableError            the daemon is draining
    ├── ConfigurationError          the daemon cannot start as configured
    └── PluginError                 a plugin failed
        └── PluginTimeoutError      it hangs
"""

from __future__ import annotations

from typing import ClassVar


class TonescopeError(Exception):
    """The root. ``str(error)`` is one line: what, where, what was expected, what was got."""

    reason: ClassVar[str] = "INTERNAL"


class InvalidInputError(TonescopeError):
    """The request can never work as it is."""

    reason = "INVALID_INPUT"


class ShapeError(InvalidInputError):
    """An array of the wrong shape."""

    reason = "WRONG_SHAPE"


class DtypeError(InvalidInputError):
    """An array of a type that is not accepted here."""

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
    """A CSI frame that cannot be decoded.

    Args:
        message: as for every error.
        kind: the word that such frames are counted under, one of few: what a packet is where it is not CSI
            (``"vitals"``), else what is wrong with it; "" means the class's own.
    """

    reason = "INVALID_FRAME"
    _kind: ClassVar[str] = "corrupt"

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind or self._kind


class ShortFrameError(FrameError):
    """A frame with fewer bytes than its header announces."""

    reason = "SHORT_FRAME"
    _kind = "short"


class WrongMagicError(FrameError):
    """A packet that is not CSI; the message names its kind where the kind is known."""

    reason = "WRONG_MAGIC"
    _kind = "unknown_magic"


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
    """A live-stream message that is not allowed at this point."""

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
    """An ONNX model whose external weight files are not there; the message names them."""

    reason = "MISSING_WEIGHTS"


class TensorMismatchError(ModelError):
    """Tensors missing, extra or mis-shaped; the message names them."""

    reason = "TENSOR_MISMATCH"


class ManifestError(ModelError):
    """A ``model.toml`` that cannot be read, or that contradicts its model."""

    reason = "INVALID_MANIFEST"


class UnsupportedOperatorError(ModelError):
    """An operator without a differentiation rule; the message names op, node, rule set and what still works."""

    reason = "UNSUPPORTED_OPERATOR"


class MethodNotApplicableError(ModelError):
    """A method that cannot explain this model (for example: no tone axis to speak of)."""

    reason = "METHOD_NOT_APPLICABLE"


class OverloadedError(TonescopeError):
    """A bound on work or memory was reached."""

    reason = "OVERLOADED"


class DeadlineError(TonescopeError):
    """The caller's deadline passed before the work was done."""

    reason = "DEADLINE"


class UnavailableError(TonescopeError):
    """The daemon is draining or not there."""

    reason = "UNAVAILABLE"


class ConfigurationError(TonescopeError):
    """The daemon cannot start as configured."""

    reason = "CONFIGURATION"


class PluginError(TonescopeError):
    """A plugin failed to load, or raised something that is not a TonescopeError."""

    reason = "PLUGIN"


class PluginTimeoutError(PluginError):
    """A plugin's code did not come back within the time limit between two model evaluations."""

    reason = "PLUGIN_TIMEOUT"
