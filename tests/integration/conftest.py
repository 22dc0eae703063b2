"""Real daemons on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tonescope_server.app import Daemon, configure_logging
from tonescope_server.config import Config
from tonescope_server.plugin.host import PluginHost


class RunningDaemon:
    """A daemon whose event loop has a thread of its own, so that tests may block."""

    def __init__(self, config: Config, host: PluginHost | None = None) -> None:
        configure_logging(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.daemon = Daemon(config, host)
        self._run(self.daemon.start())
        self.address = self.daemon.address

    def begin_stop(self, grace_s: float | None = None) -> Any:
        """Ask it to stop, and return the future of that."""
        return asyncio.run_coroutine_threadsafe(self.daemon.stop(grace_s), self._loop)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._run(self.daemon.stop(0.2))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


StartDaemon = Callable[..., RunningDaemon]


@pytest.fixture
def start_daemon(tiny_store: Path) -> Iterator[StartDaemon]:
    with contextlib.ExitStack() as stack:

        def start(host: PluginHost | None = None, **settings: Any) -> RunningDaemon:
            settings = {"store": tiny_store, "listen": "127.0.0.1:0", "log_level": "warning", **settings}
            daemon = RunningDaemon(Config.load(None, settings), host)
            stack.callback(daemon.close)
            return daemon

        yield start


@pytest.fixture(scope="module")
def daemon(tiny_store: Path) -> Iterator[RunningDaemon]:
    settings = {"store": tiny_store, "listen": "127.0.0.1:0", "log_level": "warning"}
    running = RunningDaemon(Config.load(None, settings))
    yield running
    running.close()


@pytest.fixture
def channel(daemon: RunningDaemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(daemon.address) as channel:
        yield channel
