"""The daemon, wired: the only file that knows every part. What a part does is in the part."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tonescope.v1 import (
    attribution_service_pb2_grpc,
    method_service_pb2_grpc,
    model_service_pb2_grpc,
)
from tonescope_server.config import Config, host_and_port
from tonescope_server.errors import ConfigurationError
from tonescope_server.live.session import Drain, Totals
from tonescope_server.live.workers import Workers
from tonescope_server.models.store import ModelStore
from tonescope_server.plugin.conduct import Incident
from tonescope_server.plugin.host import PluginHost
from tonescope_server.services.attribution import AttributionService
from tonescope_server.services.explainers import Explainers
from tonescope_server.services.interceptors import ErrorInterceptor
from tonescope_server.services.method import MethodService
from tonescope_server.services.metrics import serve_metrics
from tonescope_server.services.model import ModelService, StoreWatch
from tonescope_server.services.tracebacks import bounded_traceback

log = structlog.get_logger("tonescope.app")

SERVICES = (
    "tonescope.v1.AttributionService",
    "tonescope.v1.ModelService",
    "tonescope.v1.MethodService",
)
# Calls beside the live streams: those that find no room fail at once rather than wait unseen in the client.
OTHER_CALLS = 256
# After the streams have ended, calls that never end by themselves (health watches) get this long.
LAST_CALLS_S = 0.5
LOADERS = 2


def channel_options(config: Config) -> list[tuple[str, int]]:
    """Return the server's options, each for a reason.

    Flow control: without the bandwidth probe a stalled reader buffers a few windows in the transport instead of
    hundreds, so what waits, waits in our own bounded queue. Keepalive: a frozen peer is noticed within 30 s, and an
    idle device that pings is not sent away. Ports: without SO_REUSEPORT, "in use" is an error.
    """
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


class Daemon:
    """One server on one address.

    Attributes:
        address: where it listens, once started; with the port that it got.
    """

    def __init__(self, config: Config, host: PluginHost | None = None) -> None:
        """Build every part.

        Raises:
            ConfigurationError: the store is not a folder that can be read.
        """
        self._config = config
        self.address = ""
        self.totals = Totals()
        self.host = PluginHost.load() if host is None else host
        self._store = ModelStore(config.store, self.host.architectures)
        self.host.conduct.listener = _say_incident
        limit_s, on_hang = config.plugin_timeout_s, self.host.hung
        self._loading = Workers(LOADERS, "loading", limit_s, on_hang)
        self._computing = Workers(config.workers, "computing", limit_s, on_hang)
        # One thread for the checks of all streams: not the workers', which a plugin may hold for as long as it likes.
        self._checking = ThreadPoolExecutor(1, "checks") if config.checks else None
        self._stop_metrics: Callable[[], None] = lambda: None
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: an address cannot be used.
        """
        config = self._config
        self._drain = Drain(config.drain_grace_s)
        self._watch = StoreWatch()
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs leave it out
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            options=channel_options(config),
            maximum_concurrent_rpcs=config.max_streams + OTHER_CALLS,
        )
        self._add_services()
        self.address = _bind(self._server, config.listen)
        if config.metrics:
            self._stop_metrics = _metrics(self.totals, self.host, config.metrics)
        await self._server.start()
        await self._say_serving(health_pb2.HealthCheckResponse.SERVING)
        if config.store_refresh_s:
            self._refreshing = asyncio.create_task(self._refresh())
        log.info("listening", address=self.address, store=str(config.store), methods=len(self.host.methods))
        for failure in self.host.failures:
            log.warning("plugin not loaded", plugin=failure.plugin, why=failure.message)
        self._say_passed_over()

    async def stop(self, grace_s: float | None = None) -> None:
        """Drain and stop, within the grace: not serving → told in-band → streams end → stop."""
        grace = self._config.drain_grace_s if grace_s is None else grace_s
        log.info("draining", grace_s=grace, open_streams=self.totals.open_streams)
        await self._health.enter_graceful_shutdown()
        self._drain.begun.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._streams_ended(), grace)
        await self._server.stop(LAST_CALLS_S)
        # Streams that were cut off are being cancelled: the loop must not close under them.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._streams_ended(), LAST_CALLS_S)
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._stop_metrics()
        self._loading.shutdown(wait=False, cancel_futures=True)
        self._computing.shutdown(wait=False, cancel_futures=True)
        if self._checking is not None:
            self._checking.shutdown(wait=False, cancel_futures=True)
        log.info("stopped", explained=self.totals.explained, dropped=self.totals.dropped)

    def _add_services(self) -> None:
        config, server = self._config, self._server
        explainers = Explainers(
            self._store, self.host, self._loading, config.threads, config.plan_cache_mb * 1024 * 1024
        )
        attribution_service_pb2_grpc.add_AttributionServiceServicer_to_server(
            AttributionService(
                explainers,
                self._computing,
                self._drain,
                self.totals,
                config.max_streams,
                config.queue_windows,
                self._checking,
            ),
            server,
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(explainers, self._watch, self._drain), server
        )
        method_service_pb2_grpc.add_MethodServiceServicer_to_server(MethodService(self.host), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    async def _say_serving(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)

    async def _streams_ended(self) -> None:
        while self.totals.open_streams:
            await asyncio.sleep(0.02)

    def _say_passed_over(self, before: Collection[str] = ()) -> None:
        """Log what the store holds that is no model, but for what was said before."""
        for note in self._store.notes:
            if note not in before:
                log.warning("no model", why=note)

    async def _refresh(self) -> None:
        """Look through the store for changes, now and then, and tell those who watch."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._config.store_refresh_s)
            before = self._store.notes
            try:
                changed = await loop.run_in_executor(self._loading, self._store.refresh)
            except ConfigurationError as error:
                log.warning("store not read", why=str(error))
                continue
            self._say_passed_over(before)
            if changed:
                log.info("store changed", models=[f"{name}/{version}" for name, version in changed])
                await self._watch.tell()


def run(config: Config, stop_with_stdin: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal stops at once.

    Args:
        config: the settings.
        stop_with_stdin: whether the end of standard input counts as a signal.

    Raises:
        ConfigurationError: the daemon cannot start as configured.
    """
    configure_logging(config)
    asyncio.run(_run(config, stop_with_stdin))


async def _run(config: Config, stop_with_stdin: bool) -> None:
    daemon = Daemon(config)
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    if stop_with_stdin:
        _when_stdin_ends(lambda: loop.call_soon_threadsafe(signals.put_nowait, signal.SIGTERM))
    await daemon.start()
    _spare_the_collector()
    if signals.empty():  # else who would read it may be gone, and writing to a closed pipe is an error
        print(f"tonescope: listening on {daemon.address}", flush=True)
    await signals.get()
    stopping = asyncio.create_task(daemon.stop())
    again = asyncio.create_task(signals.get())
    await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
    if again.done():
        stopping.cancel()
        await daemon.stop(0)
    again.cancel()


def _when_stdin_ends(tell: Callable[[], object]) -> None:
    """Call ``tell``, from a thread, once standard input is at its end: whatever held the other side is gone."""

    def read() -> None:
        # Not sys.stdin: a thread that waits inside it holds its lock, and the interpreter could not shut down.
        with contextlib.suppress(OSError):  # standard input that was never open is at its end
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop was closed first
            tell()

    threading.Thread(target=read, name="stdin", daemon=True).start()


def _spare_the_collector() -> None:
    """Keep the collector off what lives as long as the process, and wake it less often.

    A full collection would look through some half a million objects of the imported packages, and a window would
    wait for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def configure_logging(config: Config) -> None:
    """Send logs to stderr, for people or for machines; an exception is one event of bounded size in both."""
    console = config.log_format == "console"
    renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            bounded_traceback,
            renderer if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(config.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _bind(server: grpc.aio.Server, address: str) -> str:
    """Bind and return the address with its real port."""
    host, port = host_and_port(address)
    try:
        _probe(host, port)
        got = server.add_insecure_port(address)
    except OSError as error:
        raise ConfigurationError(f"listen {address}: {(error.strerror or str(error)).lower()}") from error
    except RuntimeError as error:
        raise ConfigurationError(f"listen {address}: cannot be bound") from error
    return f"{address.rpartition(':')[0]}:{got}"


def _probe(host: str, port: int) -> None:
    """Bind for a moment: where an address cannot be had, the system says why, and gRPC only that."""
    family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        # As gRPC's own sockets: a port whose last connections still linger is free, one that is listened on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        if port:
            probe.listen(1)


def _say_incident(incident: Incident) -> None:
    """Log what a method did wrong: the first time, and then ever more rarely, or a stream would fill the log."""
    if incident.count & (incident.count - 1) and not incident.quarantined:
        return
    said = {"plugin": incident.plugin, "method": incident.method, "why": incident.message, "times": incident.count}
    log.warning(f"method {incident.kind}", **said, exc_info=incident.cause)
    if incident.quarantined:
        log.error("method quarantined", plugin=incident.plugin, method=incident.method)


def _metrics(totals: Totals, host: PluginHost, address: str) -> Callable[[], None]:
    try:
        return serve_metrics(totals, host, *host_and_port(address))
    except OSError as error:
        raise ConfigurationError(f"metrics {address}: {(error.strerror or str(error)).lower()}") from error
