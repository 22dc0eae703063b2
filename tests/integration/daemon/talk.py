"""Talking to a daemon, and picking from what it says."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tonescope.v1 import attribution_pb2, attribution_service_pb2_grpc

from .messages import Request, Response


def attribution(channel: grpc.Channel) -> attribution_service_pb2_grpc.AttributionServiceStub:
    return attribution_service_pb2_grpc.AttributionServiceStub(channel)


def live(channel: grpc.Channel, *requests: Request, **call: Any) -> list[Response]:
    return list(attribution(channel).Live(iter(requests), **call))


def explained(responses: list[Response]) -> list[attribution_pb2.Explanation]:
    return [each for response in responses for each in response.explanations.explanations]


def of_kind(responses: list[Response], kind: str) -> list[Any]:
    return [getattr(each, kind) for each in responses if each.WhichOneof("message") == kind]


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str]:
    """Return the status, reason and message that a call fails with."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()}: {error.details()} carries no details"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "tonescope"
    assert "\n" not in error.details()
    assert "Traceback" not in error.details()
    return error.code(), info.reason, error.details()


class Conversation:
    """A live stream that a test drives message by message."""

    def __init__(self, channel: grpc.Channel, first: Request) -> None:
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._requests.put(first)
        self.call = attribution(channel).Live(iter(self._requests.get, None))
        self.opened = self.next("opened").opened

    def say(self, request: Request) -> None:
        self._requests.put(request)

    def end(self) -> list[Response]:
        self._requests.put(None)
        return list(self.call)

    def next(self, kind: str) -> Response:
        """Return the next message of a kind, passing over others."""
        return next(each for each in self.call if each.WhichOneof("message") == kind)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
