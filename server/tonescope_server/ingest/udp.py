"""A UDP socket that is read whatever else the process does. What a packet means is not known here."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tonescope_server.errors import ConfigurationError, ParameterError

LOOPBACK = "127.0.0.1"
MAX_PACKET_BYTES = 8192
"""More than any CSI packet has; so that what anybody sends takes no more memory than this times the buffer."""
_WANTED_RECEIVE_BYTES = 4 << 20
_POLL_S = 0.2  # how long stopping may take
_ADDRESS = re.compile(r"^(?:(\[[0-9a-fA-F:.%]+\]|[^:\[\]\s]+))?:(\d{1,5})$")
# Linux: with each packet, how many the kernel has dropped on this socket so far. Python has no name for it.
_SO_RXQ_OVFL = 40
_DROPS = struct.Struct("=I")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_DROPS.size)


@dataclass(frozen=True, slots=True)
class Packet:
    """One datagram.

    Attributes:
        data: its bytes; cut off at ``MAX_PACKET_BYTES`` where ``oversized``.
        time_ns: when it was read, nanoseconds since the Unix epoch.
        host: the sender's address, without its port.
    """

    data: bytes
    time_ns: int
    host: str
    oversized: bool = False


def udp_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``; ``:PORT`` is the loopback address, since anybody who reaches the port can write to it.

    Raises:
        ParameterError: neither.
    """
    found = _ADDRESS.match(text)
    if found is None or int(found[2]) > 65_535:
        raise ParameterError(f"--udp: expected HOST:PORT or :PORT, got {text!r}")
    return (found[1] or LOOPBACK).strip("[]"), int(found[2])


class UdpReceiver:
    """Reads a UDP socket in a thread of its own into a bounded buffer, from which the oldest packets go.

    Args:
        host: the address to listen on; ``port``: 0 takes a free one.
        capacity: the most packets that wait.

    Raises:
        ConfigurationError: the address cannot be had.

    Attributes:
        received: packets read.
        address: ``host:port`` as bound.
    """

    def __init__(self, host: str, port: int, capacity: int) -> None:
        self._socket = _bound(host, port)
        bound = self._socket.getsockname()
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        self.is_loopback = ipaddress.ip_address(bound[0].partition("%")[0]).is_loopback
        self.received = 0
        self._taken = 0
        self._kernel_drops = 0
        self._waiting: deque[Packet] = deque(maxlen=capacity)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Packets that were read, and pushed out of the full buffer before they were taken."""
        return self.received - self._taken - len(self._waiting)

    @property
    def dropped_by_kernel(self) -> int:
        """Packets that the system dropped unread, as of the last packet; zero where it does not say."""
        return self._kernel_drops

    def start(self, wake: Callable[[], object]) -> None:
        """Begin to read. ``wake`` is called, from the thread, when packets wait where none did before."""
        self._thread = threading.Thread(target=self._read, args=(wake,), name="udp", daemon=True)
        self._thread.start()

    def take(self, most: int) -> list[Packet]:
        """Take the packets that wait, oldest first."""
        taken: list[Packet] = []
        while self._waiting and len(taken) < most:
            taken.append(self._waiting.popleft())
        self._taken += len(taken)
        return taken

    def stop(self) -> None:
        """Read what has arrived, then no more, and give the port back. What was read can still be taken."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def _read(self, wake: Callable[[], object]) -> None:
        while not self._stopping.is_set():
            try:
                self._read_one(wake)
            except TimeoutError:
                continue
            except OSError:
                # An interface that went down, or an answer of a sender that bounced: the socket itself lives on.
                self._stopping.wait(_POLL_S)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):  # nothing more has arrived
            for _ in range(self._waiting.maxlen or 0):  # a flood would go on for ever
                self._read_one(wake)

    def _read_one(self, wake: Callable[[], object]) -> None:
        data, told, flags, sender = self._socket.recvmsg(MAX_PACKET_BYTES, _ANCILLARY_BYTES)
        for level, kind, value in told:
            if level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL and len(value) >= _DROPS.size:
                (self._kernel_drops,) = _DROPS.unpack_from(value)
        self.received += 1
        self._waiting.append(Packet(data, time.time_ns(), sender[0], bool(flags & socket.MSG_TRUNC)))
        if len(self._waiting) == 1:
            wake()


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        opened = socket.socket(family, kind)
        try:
            opened.bind(where)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise ConfigurationError(f"--udp {host}:{port}: {(error.strerror or str(error)).lower()}") from error
    # The system gives less where it allows less; what that costs is counted.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WANTED_RECEIVE_BYTES)
    if sys.platform == "linux":
        opened.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
    opened.settimeout(_POLL_S)
    return opened
