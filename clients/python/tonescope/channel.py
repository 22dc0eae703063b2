"""How a channel to a daemon is opened: its options, and nothing that is sent over it."""

from __future__ import annotations

import re
from typing import Any

import grpc

from tonescope.errors import ParameterError
from tonescope.fields import number

# Ten years: what is longer, the clock of a call cannot hold.
_LONGEST_S = 315_360_000.0
MAX_MESSAGE_BYTES = 64 << 20

# What gRPC resolves in ways of its own goes to it as it is.
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")
_ADDRESS = re.compile(rf"({'|'.join(_SCHEMES)})\S+|(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):\d+")

OPTIONS: tuple[tuple[str, int], ...] = (
    # Without this a stalled daemon lets seconds of frames pile up unseen in the transport.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without this one a frozen peer lingers for a minute, whatever the keepalive timeout says.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The transport's own wait between connection attempts; how often to try again is decided in `resume`.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)


def checked_address(address: Any) -> str:
    """Return the address of a daemon.

    Raises:
        ParameterError: no text, or nothing in it that could be an address.
    """
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise ParameterError(f"address: expected HOST:PORT, got {address!r}")
    if not address.startswith(_SCHEMES) and not 0 < int(address.rpartition(":")[2]) < 1 << 16:
        raise ParameterError(f"address: expected a port from 1 to 65535, got {address!r}")
    return address


def checked_timeout(timeout: Any) -> float:
    """Return the seconds that a call may take.

    Raises:
        ParameterError: no number, a negative one, or one that is not finite.
    """
    return number("timeout", timeout, 0.0, _LONGEST_S, "seconds")


def _check(credentials: Any) -> None:
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise ParameterError(f"credentials: expected grpc.ChannelCredentials or None, got {type(credentials).__name__}")


def open_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """Open a channel; nothing is sent before the first call. ``credentials`` None means no TLS."""
    _check(credentials)
    if credentials is None:
        return grpc.insecure_channel(address, options=OPTIONS)
    return grpc.secure_channel(address, credentials, options=OPTIONS)


def open_aio_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """Open a channel for asyncio, likewise."""
    _check(credentials)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=OPTIONS)
