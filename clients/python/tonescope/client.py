"""The blocking client. ``aio`` is its asyncio twin; what both send and read is built in ``calls`` and ``decode``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from tonescope import calls, decode
from tonescope.channel import checked_address, checked_timeout, open_channel
from tonescope.connection import OnConnection
from tonescope.errors import ProtocolError, UnavailableError, from_rpc
from tonescope.live import LiveStream
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

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
DEFAULT_TIMEOUT_S = 30.0


def connect(
    address: str = "localhost:50551",
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    credentials: grpc.ChannelCredentials | None = None,
) -> Client:
    """Make a client of the daemon at ``address``; use it in a ``with`` block. Nothing is sent before the first call.

    Args:
        address: host and port.
        timeout: seconds that a call may take, where the call itself says nothing else. Live streams have no limit.
        credentials: for TLS; None means none.

    Raises:
        ParameterError: no address, or a time that there is not.
    """
    return Client(address, timeout=timeout, credentials=credentials)


class Client:
    """A connection to one daemon. Calls may come from several threads."""

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
        self._channel = open_channel(address, credentials)
        self._attribution = attribution_service_pb2_grpc.AttributionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._methods = method_service_pb2_grpc.MethodServiceStub(self._channel)
        self._streams: weakref.WeakSet[LiveStream] = weakref.WeakSet()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every live stream and the connection."""
        self._closed = True
        for stream in list(self._streams):
            stream.cancel()
        self._channel.close()

    def wait_until_ready(self, timeout: float = 10.0) -> None:
        """Wait until the daemon accepts connections.

        Raises:
            ParameterError: no such time.
            UnavailableError: it did not within ``timeout`` seconds.
            ProtocolError: the client was closed.
        """
        self._check_open()
        timeout = checked_timeout(timeout)
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout=timeout)
        except grpc.FutureTimeoutError as error:
            ready.cancel()
            raise UnavailableError(f"no daemon answers at {self.address} within {timeout:g} s") from error

    def explain(
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
        """Explain a batch of windows.

        Args:
            x: an array (batch, …input shape), or a list of arrays or ``Window``.
            model: the model's name in the daemon's store, or NAME/VERSION.
            version: empty means the newest.
            method: the method's name; empty means input × gradient.
            target: None (the predicted class), a class index or name, a position, or a ``Target``.
            top_k: how many tones ``top`` lists; zero means 8.
            cells: whether to bring the attribution per input cell as well.
            declared_rows: whether to bring that per row of the axis that the model calls its tones as well.
            parts: whether to bring that per antenna link and component as well.
            maps: whether to bring what else the method has to show as well.
            units: whether to bring the attribution per group of cells as well.
            normalise: "", "none", "manifest", "recording" or "running"; empty takes the windows as they are.
            statistics: (mean, std), (mean, std, node_id) or (mean, std, node_id, frame_length) for "recording".
            raise_problems: whether a window that cannot be explained raises, or is answered by its ``problem``.
            timeout: seconds for the whole batch.
            parameters: the method's own parameters, by name.
            **named: the same, as keywords; where a name is also an argument here, ``parameters`` takes it.

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
        responses = (self._call(self._attribution.Explain, each, timeout) for each in requests)
        return calls.explanations(responses, x, raise_problems)

    def explain_progressively(  # noqa: D417  most of its arguments are those of ``explain``
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
    ) -> Generator[Update, None, None]:
        """Explain one window or a few by a method that gets better with time, and yield each update as it comes.

        Who has seen enough leaves the loop, or closes the iterator: that cancels the call, and the work stops. Nothing
        is sent before the first update is asked for. Of what is found while nobody asks, only the newest is kept.

        Args:
            x: as for ``explain``; 1 to 32 windows, which take turns.
            model: and those that follow, as for ``explain``.
            stop: when a window is good enough, or has cost enough; None leaves it to the method's own parameters.
            min_interval_s: the smallest time between two updates of a window; None is the daemon's own, zero is none.
            timeout: seconds for the whole call, after which ``DeadlineError`` is raised; None means the client's own,
                and the time limit on top of it.
            parameters: the method's own, by name.
            **named: the same, as keywords.

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

    def _updates(
        self,
        request: attribution_service_pb2.ExplainProgressivelyRequest,
        read: Callable[[attribution_service_pb2.ExplainProgressivelyResponse], Update],
        timeout: float,
    ) -> Generator[Update, None, None]:
        self._check_open()
        call: Any = self._attribution.ExplainProgressively(request, timeout=timeout)
        try:
            for response in call:
                yield read(response)
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            call.cancel()

    def models(self) -> list[ModelInfo]:
        """List the models in the daemon's store."""
        response = self._call(self._models.ListModels, model_service_pb2.ListModelsRequest())
        return [decode.model_info(each) for each in response.models]

    def model(self, name: str, version: str = "") -> ModelDetail:
        """Describe one model, by NAME or NAME/VERSION; without a version, the newest."""
        request = model_service_pb2.GetModelRequest(model=model_ref(name, version))
        return decode.model_detail(self._call(self._models.GetModel, request).model)

    def load_model(self, name: str, version: str = "") -> ModelInfo:
        """Load, or load again, a model of the daemon's store."""
        request = model_service_pb2.LoadModelRequest(model=model_ref(name, version))
        return decode.model_info(self._call(self._models.LoadModel, request).model)

    def unload_model(self, name: str, version: str = "") -> ModelInfo:
        """Unload a model. Streams that use it keep it until they end."""
        request = model_service_pb2.UnloadModelRequest(model=model_ref(name, version))
        return decode.model_info(self._call(self._models.UnloadModel, request).model)

    def methods(self) -> Methods:
        """List the daemon's methods, and the plugins that failed to load."""
        return decode.methods(self._call(self._methods.ListMethods, method_service_pb2.ListMethodsRequest()))

    def live(
        self,
        *,
        model: str,
        frames: Iterable[FrameLike] | None = None,
        windows: Iterable[WindowLike] | None = None,
        buffer: int = 4096,
        retry: Retry | None = None,
        on_connection: OnConnection | None = None,
        overload: str = "drop_oldest",
        **opening: Any,
    ) -> LiveStream:
        """Open a live stream.

        ``for explanation in client.live(model="m", frames=iterable)`` takes frames from an iterable; without one, the
        stream is a handle: ``send()``, iterate, ``close()``.

        Args:
            model: the model's name, or NAME/VERSION.
            frames: ``Frame`` objects, arrays (real: amplitudes, complex: gains) or bytes (raw, ``default_format``).
            windows: ``Window`` objects or arrays.
            buffer: the most frames or windows held here, waiting or unanswered; what is lost beyond it is counted.
            retry: when to connect again, and when to give up.
            on_connection: called with a ``Disconnected`` when the daemon is gone, and with a ``Reconnected`` when it is
                back. The stream waits for it (it is called from the stream's own thread), and fails where it raises.
            overload: "drop_oldest" or "back_pressure": then the daemon drops nothing and ``send`` waits.
            **opening: further options, as in ``calls.opening``: version, method, target, parameters, top_k, cells,
                declared_rows, parts, maps, units, window_frames, hop_frames, normalise, statistics, tone_layout,
                source_id, latency_budget_ms, queue_windows, default_format. What is none of these is a parameter of the
                method, as it may also stand in ``parameters``.
        """
        self._check_open()
        calls.one_source(frames, windows)
        message = calls.opening(model=model, overload=overload, **opening)
        state = LiveState(message, retry or Retry(), buffer, self.address, on_connection)
        stream = LiveStream(self._attribution, state, frames, windows, overload == "back_pressure")
        self._streams.add(stream)
        return stream

    def _call(
        self,
        method: Callable[..., _Response],
        request: Any,
        timeout: float | None = None,
    ) -> _Response:
        self._check_open()
        try:
            return method(request, timeout=self.timeout if timeout is None else checked_timeout(timeout))
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None

    def _check_open(self) -> None:
        if self._closed:
            raise ProtocolError(f"client of {self.address}: expected no call after close()")
