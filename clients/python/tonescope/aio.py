"""The asyncio client: ``async with tonescope.aio.connect(…) as client``. It mirrors the blocking one, call by call."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from tonescope import calls, decode
from tonescope.aio_live import AsyncLiveStream
from tonescope.channel import checked_address, checked_timeout, open_aio_channel
from tonescope.client import DEFAULT_TIMEOUT_S
from tonescope.connection import OnConnection
from tonescope.errors import ProtocolError, from_rpc
from tonescope.live_state import LiveState
from tonescope.progressive import Stop, Update, progressive_request, reader
from tonescope.request import FrameLike, Statistics, TargetLike, WindowLike, method_parameters, model_ref
from tonescope.results import Explanations, Methods, ModelDetail, ModelInfo
from tonescope.resume import Retry
from tonescope.v1 import (
    attribution_service_pb2,
    attribution_service_pb2_grpc,
    method_service_pb2,
    method_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)

_Response = TypeVar("_Response")


def connect(
    address: str = "localhost:50551",
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    credentials: grpc.ChannelCredentials | None = None,
) -> AsyncClient:
    """Make an asyncio client of the daemon at ``address``; use it in an ``async with`` block.

    Args:
        address: host and port.
        timeout: seconds that a call may take, where the call itself says nothing else. Live streams have no limit.
        credentials: for TLS; None means none.

    Raises:
        ParameterError: no address, or a time that there is not.
    """
    return AsyncClient(address, timeout=timeout, credentials=credentials)


class AsyncClient:
    """A connection to one daemon, for one event loop."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = checked_address(address)
        self.timeout = checked_timeout(timeout)
        self._closed = False
        self._channel = open_aio_channel(address, credentials)
        # The generated stubs are typed for both kinds of channel; at run time they take either.
        channel: Any = self._channel
        self._attribution: Any = attribution_service_pb2_grpc.AttributionServiceStub(channel)
        self._models: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        self._methods: Any = method_service_pb2_grpc.MethodServiceStub(channel)
        self._streams: weakref.WeakSet[AsyncLiveStream] = weakref.WeakSet()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every live stream and the connection."""
        self._closed = True
        for stream in list(self._streams):
            await stream.cancel()
        await self._channel.close(None)

    async def explain(
        self,
        x: calls.Windows,
        *,
        model: str,
        version: str = "",
        method: str = "",
        target: TargetLike = None,
        top_k: int = 0,
        cells: bool = False,
        declared_rows: bool = False,
        parts: bool = False,
        maps: bool = False,
        units: bool = False,
        normalise: str = "",
        statistics: Sequence[Statistics] = (),
        raise_problems: bool = True,
        timeout: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Explanations:
        """Explain a batch of windows: the arguments are those of the blocking client.

        Raises:
            TonescopeError: of the class that says why.
        """
        requests = calls.explain_requests(
            x,
            model=model,
            version=version,
            method=method,
            target=target,
            parameters=method_parameters(parameters, named),
            top_k=top_k,
            cells=cells,
            declared_rows=declared_rows,
            parts=parts,
            maps=maps,
            units=units,
            normalise=normalise,
            statistics=statistics,
        )
        responses = [await self._call(self._attribution.Explain, each, timeout) for each in requests]
        return calls.explanations(responses, x, raise_problems)

    def explain_progressively(
        self,
        x: calls.Windows,
        *,
        model: str,
        stop: Stop | None = None,
        min_interval_s: float | None = None,
        version: str = "",
        method: str = "",
        target: TargetLike = None,
        top_k: int = 0,
        cells: bool = False,
        declared_rows: bool = False,
        parts: bool = False,
        maps: bool = False,
        units: bool = False,
        normalise: str = "",
        statistics: Sequence[Statistics] = (),
        raise_problems: bool = True,
        timeout: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> AsyncGenerator[Update, None]:
        """Explain by a method that gets better with time: the arguments are those of the blocking client.

        ``async for`` over it; where the loop may be left early, hold it in ``contextlib.aclosing``, which ends the work
        there and then.

        Raises:
            TonescopeError: of the class that says why.
        """
        self._check_open()
        request = progressive_request(
            x,
            stop,
            min_interval_s,
            model=model,
            version=version,
            method=method,
            target=target,
            parameters=method_parameters(parameters, named),
            top_k=top_k,
            cells=cells,
            declared_rows=declared_rows,
            parts=parts,
            maps=maps,
            units=units,
            normalise=normalise,
            statistics=statistics,
        )
        limit = self.timeout + request.time_limit_ms / 1e3 if timeout is None else checked_timeout(timeout)
        read = reader(x, raise_problems)
        return self._updates(request, read, limit)

    async def _updates(
        self,
        request: attribution_service_pb2.ExplainProgressivelyRequest,
        read: Callable[[attribution_service_pb2.ExplainProgressivelyResponse], Update],
        timeout: float,
    ) -> AsyncGenerator[Update, None]:
        self._check_open()
        call = self._attribution.ExplainProgressively(request, timeout=timeout)
        try:
            async for response in call:
                yield read(response)
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            call.cancel()

    async def models(self) -> list[ModelInfo]:
        """List the models in the daemon's store."""
        response = await self._call(self._models.ListModels, model_service_pb2.ListModelsRequest())
        return [decode.model_info(each) for each in response.models]

    async def model(self, name: str, version: str = "") -> ModelDetail:
        """Describe one model, by NAME or NAME/VERSION; without a version, the newest."""
        request = model_service_pb2.GetModelRequest(model=model_ref(name, version))
        response = await self._call(self._models.GetModel, request)
        return decode.model_detail(response.model)

    async def load_model(self, name: str, version: str = "") -> ModelInfo:
        """Load, or load again, a model of the daemon's store."""
        request = model_service_pb2.LoadModelRequest(model=model_ref(name, version))
        response = await self._call(self._models.LoadModel, request)
        return decode.model_info(response.model)

    async def unload_model(self, name: str, version: str = "") -> ModelInfo:
        """Unload a model. Streams that use it keep it until they end."""
        request = model_service_pb2.UnloadModelRequest(model=model_ref(name, version))
        response = await self._call(self._models.UnloadModel, request)
        return decode.model_info(response.model)

    async def methods(self) -> Methods:
        """List the daemon's methods, and the plugins that failed to load."""
        response = await self._call(self._methods.ListMethods, method_service_pb2.ListMethodsRequest())
        return decode.methods(response)

    def live(
        self,
        *,
        model: str,
        frames: Iterable[FrameLike] | AsyncIterable[FrameLike] | None = None,
        windows: Iterable[WindowLike] | AsyncIterable[WindowLike] | None = None,
        buffer: int = 4096,
        retry: Retry | None = None,
        on_connection: OnConnection | None = None,
        overload: str = "drop_oldest",
        **opening: Any,
    ) -> AsyncLiveStream:
        """Open a live stream: the arguments are those of the blocking client; iterables may be asynchronous.

        ``on_connection`` is a plain function, called in the event loop.
        """
        self._check_open()
        calls.one_source(frames, windows)
        message = calls.opening(model=model, overload=overload, **opening)
        state = LiveState(message, retry or Retry(), buffer, self.address, on_connection)
        stream = AsyncLiveStream(self._attribution, state, frames, windows, overload == "back_pressure")
        self._streams.add(stream)
        return stream

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Any, timeout: float | None = None) -> Any:
        self._check_open()
        try:
            return await method(request, timeout=self.timeout if timeout is None else checked_timeout(timeout))
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None

    def _check_open(self) -> None:
        if self._closed:
            raise ProtocolError(f"client of {self.address}: expected no call after close()")
