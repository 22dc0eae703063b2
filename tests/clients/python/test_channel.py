"""What an address and a time limit may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tonescope
from tonescope.channel import checked_timeout
from tonescope.errors import ParameterError


@pytest.mark.parametrize("connect", [tonescope.connect, tonescope.aio.connect])
@pytest.mark.parametrize("address", [None, "", " ", "a b:1", 3, b"localhost:1"])
def test_what_is_no_address_is_refused(connect: Any, address: Any) -> None:
    with pytest.raises(ParameterError, match=r"^address: expected HOST:PORT, got "):
        connect(address)


@pytest.mark.parametrize("connect", [tonescope.connect, tonescope.aio.connect])
@pytest.mark.parametrize("timeout", ["x", None, -1, float("nan"), float("inf"), 1e300, True, [1]])
def test_what_is_no_time_is_refused(connect: Any, timeout: Any) -> None:
    with pytest.raises(ParameterError, match=r"^timeout: expected seconds from 0 to "):
        connect("localhost:1", timeout=timeout)


def test_the_time_of_one_call_is_checked_as_well() -> None:
    with tonescope.connect("localhost:1") as client, pytest.raises(ParameterError, match=r"^timeout: "):
        client.explain(np.zeros((1, 56, 4)), model="m", timeout="soon")  # type: ignore[arg-type]


def test_any_kind_of_number_is_a_time() -> None:
    assert checked_timeout(np.float32(0.5)) == checked_timeout(0.5) == 0.5
