"""What stands between a service and the wire: every exception leaves as a status, none as its text.

Errors of ours keep their reason. Anything else is a bug: the caller gets INTERNAL and a request id, and
the log gets the traceback under the same id.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog

from tonescope_server.errors import TonescopeError
from tonescope_server.services.status import code_of, message_of, trailers_of

log = structlog.get_logger("tonescope.services")
_Handler = Callable[[Any, Any], Awaitable[Any]]


if TYPE_CHECKING:  # generic in the stubs alone
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor


class ErrorInterceptor(_Interceptor):
    """Turn exceptions into statuses. Handlers are coroutines that read and write through their context."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not str(method).startswith("/tonescope."):
            return handler
        kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        kind = next(kind for kind in kinds if getattr(handler, kind) is not None)
        return handler._replace(**{kind: _guarded(getattr(handler, kind), str(method))})


def _guarded(inner: _Handler, method: str) -> _Handler:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await inner(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except TonescopeError as error:
            await _abort(context, error)
        except Exception:  # noqa: BLE001  the last line before the wire: anything at all must become a status
            await _abort_unknown(context, method)

    return guarded


async def _abort(context: Any, error: TonescopeError) -> NoReturn:
    code, message = code_of(error), message_of(error)
    await context.abort(code, message, trailers_of(code, error.reason, message))
    raise AssertionError("abort raises")


async def _abort_unknown(context: Any, method: str) -> NoReturn:
    request_id = uuid.uuid4().hex
    log.exception("unexpected error", method=method, request_id=request_id)
    code, message = grpc.StatusCode.INTERNAL, f"internal error; the daemon's log has it as {request_id}"
    await context.abort(code, message, trailers_of(code, TonescopeError.reason, message, request_id))
    raise AssertionError("abort raises")
