"""What an address and a time limit may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tonescope
from tonescope.channel import checked_address, checked_timeout
from tonescope.errors import InvalidInputError, ParameterError

X = np.zeros((1, 56, 4), dtype=np.float32)


@pytest.mark.parametrize("connect", [tonescope.connect, tonescope.aio.connect])
@pytest.mark.parametrize(
    "address", [None, "", " ", "a b:1", 3, b"localhost:1", "localhost", ":1", "h:x", "http://h:1", "::1"]
)
def test_what_is_no_address_is_refused(connect: Any, address: Any) -> None:
    with pytest.raises(ParameterError, match=r"^address: expected HOST:PORT, got "):
        connect(address)


@pytest.mark.parametrize("connect", [tonescope.connect, tonescope.aio.connect])
@pytest.mark.parametrize("timeout", ["x", None, -1, float("nan"), float("inf"), 1e300, True, [1]])
def test_what_is_no_time_is_refused(connect: Any, timeout: Any) -> None:
    with pytest.raises(ParameterError, match=r"^timeout: expected 0 to 315360000 seconds, got "):
        connect("localhost:1", timeout=timeout)


def test_the_time_of_one_call_is_checked_as_well() -> None:
    with tonescope.connect("localhost:1") as client, pytest.raises(ParameterError, match=r"^timeout: "):
        client.explain(np.zeros((1, 56, 4)), model="m", timeout="soon")  # type: ignore[arg-type]


def test_any_kind_of_number_is_a_time() -> None:
    assert checked_timeout(np.float32(0.5)) == checked_timeout(0.5) == 0.5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda client: client.wait_until_ready(timeout="x"), "timeout: expected 0 to "),
        (lambda _: tonescope.connect("localhost:1", credentials=3), "credentials: expected grpc.ChannelCredentials"),
        (lambda _: tonescope.Retry(give_up_after_s="x"), "give_up_after_s: expected 0 or more seconds, got 'x'"),
        (lambda _: tonescope.Retry(first_s=float("nan")), "first_s: expected 0 to 1000000 seconds, got nan"),
        (lambda _: tonescope.Retry(cap_s=-1), "cap_s: expected 0 to 1000000 seconds, got -1"),
        (lambda _: tonescope.Retry(unanswered="x"), "unanswered: expected 0 or more connections, got 'x'"),
        (lambda client: client.live(model="m", buffer="x"), "buffer: expected 1 or more frames or windows, got 'x'"),
        (lambda client: client.live(model="m", buffer=0), "buffer: expected 1 or more frames or windows, got 0"),
        (lambda client: client.live(model="m", buffer=1.5), "buffer: expected a whole number, got 1.5"),
        (lambda client: client.live(model="m", retry="x"), "retry: expected a Retry or None, got str"),
        (lambda client: client.live(model="m", on_connection=3), "on_connection: expected a function or None, got int"),
        (lambda client: client.live(model="m", frames=3), "live stream: frames: expected an iterable, got int"),
        (lambda client: client.live(model="m", statistics=3), "statistics: expected a list of tuples, got int"),
        (lambda client: client.explain_progressively(X, model="m", stop=3), "stop: expected a Stop or None, got int"),
    ],
)
def test_what_an_argument_cannot_be_is_refused_before_anything_is_sent(call: Any, said: str) -> None:
    with tonescope.connect("localhost:1") as client, pytest.raises(InvalidInputError) as caught:
        call(client)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("address", ["h:0", "h:65536"])
def test_what_is_no_port_is_refused(address: str) -> None:
    with pytest.raises(ParameterError, match=r"^address: expected a port from 1 to 65535, got "):
        checked_address(address)


@pytest.mark.parametrize("address", ["h:1", "10.0.0.1:65535", "[::1]:50551", "unix:///run/t.sock", "dns:///h.local:1"])
def test_every_form_of_an_address_is_taken(address: str) -> None:
    assert checked_address(address) == address
