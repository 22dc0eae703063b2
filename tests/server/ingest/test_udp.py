"""A real socket, read in a thread: nothing is lost without being counted."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tonescope_server.errors import ConfigurationError, ParameterError
from tonescope_server.ingest.udp import MAX_PACKET_BYTES, Packet, UdpReceiver, udp_address


class Receiving:
    """A receiver on a free port, and a socket that sends to it."""

    def __init__(self, capacity: int) -> None:
        self.receiver = UdpReceiver("127.0.0.1", 0, capacity)
        self.woken = threading.Event()
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        host, _, port = self.receiver.address.rpartition(":")
        self.sender.connect((host, int(port)))

    def start(self) -> None:
        self.receiver.start(self.woken.set)

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.sender.send(packet)

    def until_received(self, n: int) -> None:
        deadline = time.monotonic() + 20
        while self.receiver.received < n:
            assert time.monotonic() < deadline, f"{self.receiver.received} of {n} packets came"
            time.sleep(0.005)

    def take(self, n: int) -> list[Packet]:
        self.until_received(n)
        return self.receiver.take(10 * n)


@pytest.fixture
def make() -> Iterator[type[Receiving]]:
    made: list[Receiving] = []

    class Kept(Receiving):
        def __init__(self, capacity: int = 1000) -> None:
            super().__init__(capacity)
            made.append(self)

    yield Kept
    for each in made:
        each.receiver.stop()
        each.sender.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":5005", ("127.0.0.1", 5005)),
        ("0.0.0.0:5005", ("0.0.0.0", 5005)),
        ("[::]:1", ("::", 1)),
        ("gateway.lan:65535", ("gateway.lan", 65535)),
    ],
)
def test_an_address_without_a_host_is_this_machine_alone(text: str, address: tuple[str, int]) -> None:
    assert udp_address(text) == address


@pytest.mark.parametrize("text", ["5005", "", ":", "host", "host:x", ":65536", "::1:5005", "a b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="--udp: expected HOST:PORT or :PORT, got "):
        udp_address(text)


def test_packets_are_taken_in_order_with_their_sender_and_time(make) -> None:
    receiving = make()
    assert receiving.receiver.is_loopback
    receiving.start()
    before = time.time_ns()
    receiving.send(b"one", b"", b"three")
    packets = receiving.take(3)
    assert [packet.data for packet in packets] == [b"one", b"", b"three"]
    assert {packet.host for packet in packets} == {"127.0.0.1"}
    times = [packet.time_ns for packet in packets]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time_ns()
    assert receiving.woken.is_set()


def test_each_time_that_packets_wait_where_none_did_somebody_is_told(make) -> None:
    receiving = make()
    receiving.start()
    for round_ in (1, 2, 3):
        receiving.woken.clear()
        receiving.send(b"x")
        assert receiving.woken.wait(10), f"nobody was told the {round_}. time"
        assert len(receiving.take(round_)) == 1


def test_of_more_than_the_buffer_holds_the_oldest_go_and_are_counted(make) -> None:
    receiving = make(10)
    receiving.start()
    receiving.send(*(str(i).encode() for i in range(37)))
    packets = receiving.take(37)
    assert [packet.data for packet in packets] == [str(i).encode() for i in range(27, 37)]
    assert receiving.receiver.dropped == 27
    receiving.send(b"more")
    assert len(receiving.take(38)) == 1
    assert receiving.receiver.dropped == 27


def test_a_packet_that_is_too_long_is_cut_off_and_says_so(make) -> None:
    receiving = make()
    receiving.start()
    receiving.send(b"x" * MAX_PACKET_BYTES, b"x" * (MAX_PACKET_BYTES + 1), b"x" * 60_000)
    packets = receiving.take(3)
    assert [packet.oversized for packet in packets] == [False, True, True]
    assert [len(packet.data) for packet in packets] == [MAX_PACKET_BYTES] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how many packets it dropped")
def test_what_the_system_dropped_before_it_could_be_read_is_counted(make) -> None:
    receiving = make(100_000)
    n = 3000  # of 8 KiB: more than any receive buffer we ask for
    receiving.send(*[b"x" * 8000] * n)
    receiving.start()
    time.sleep(0.1)
    while receiving.receiver.received == 0:
        time.sleep(0.01)
    before = -1
    while before != receiving.receiver.received:  # until what was buffered is read
        before = receiving.receiver.received
        time.sleep(0.3)
    receiving.send(b"the next packet tells")
    receiving.until_received(before + 1)
    assert 0 < receiving.receiver.dropped_by_kernel < n
    assert receiving.receiver.received + receiving.receiver.dropped_by_kernel == n + 1


def test_what_has_arrived_when_it_is_stopped_is_still_read(make) -> None:
    receiving = make()
    receiving.send(*[b"x"] * 300)
    receiving.start()
    receiving.receiver.stop()
    assert len(receiving.receiver.take(1000)) == 300


def test_a_port_in_use_is_one_line_and_is_free_again_afterwards(make) -> None:
    first = UdpReceiver("127.0.0.1", 0, 10)
    host, _, port = first.address.rpartition(":")
    with pytest.raises(ConfigurationError, match=f"^--udp {host}:{port}: address already in use$"):
        UdpReceiver(host, int(port), 10)
    first.start(lambda: None)
    first.stop()
    UdpReceiver(host, int(port), 10).stop()


def test_a_host_that_there_is_not_is_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^--udp no\.such\.host\.invalid:5005: .+$"):
        UdpReceiver("no.such.host.invalid", 5005, 10)


def test_every_interface_is_not_this_machine_alone() -> None:
    receiver = UdpReceiver("0.0.0.0", 0, 10)
    assert not receiver.is_loopback
    receiver.stop()
