"""How an error of ours becomes a gRPC status: one table, looked up along the class's bases.

Here is the table and the ``google.rpc`` details that let a client rebuild the same class. Deciding when a
call fails belongs to the services, catching what they raise to ``interceptors``.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from tonescope.v1 import error_pb2
from tonescope_server import errors

DOMAIN = "tonescope"
DETAILS_KEY = "grpc-status-details-bin"
# A status travels in HTTP/2 trailers, which peers bound at 8 KiB or so, and it says its message twice.
MAX_MESSAGE_CHARS = 1500

STATUS: dict[type[errors.TonescopeError], grpc.StatusCode] = {
    errors.TonescopeError: grpc.StatusCode.INTERNAL,
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnsupportedOperatorError: grpc.StatusCode.UNIMPLEMENTED,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.ConfigurationError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PluginError: grpc.StatusCode.INTERNAL,
}


def code_of(error: errors.TonescopeError) -> grpc.StatusCode:
    """Return the status code of an error: the table's entry for its nearest base."""
    return next(STATUS[base] for base in type(error).__mro__ if base in STATUS)


def message_of(error: BaseException) -> str:
    """Return an error's message as one bounded line."""
    line = " ".join(str(error).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"


def problem_of(error: errors.TonescopeError) -> error_pb2.Problem:
    """Return an error as the status of one window or frame, for a stream that goes on."""
    code: int = code_of(error).value[0]
    return error_pb2.Problem(reason=error.reason, message=message_of(error), grpc_code=code)


def trailers_of(
    code: grpc.StatusCode, reason: str, message: str, request_id: str = ""
) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata of a failed call: ``google.rpc.Status`` with an ``ErrorInfo`` in it."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    if request_id:
        info.metadata["request_id"] = request_id
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    return ((DETAILS_KEY, status.SerializeToString()),)
