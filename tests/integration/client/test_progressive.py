"""The clients' side of explanations that get better with time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tonescope
from tests.anytime import anytime_host
from tonescope.errors import DeadlineError, NonFiniteError, ParameterError, ProtocolError, ShapeError

from ..conftest import Config, RunningDaemon

ASKED: dict[str, Any] = {"model": "tiny", "method": "scaled_calls", "min_interval_s": 0}


@pytest.fixture(scope="module")
def running(tiny_store: Path) -> Iterator[RunningDaemon]:
    settings = {"store": tiny_store, "listen": "127.0.0.1:0", "log_level": "warning"}
    daemon = RunningDaemon(Config.load(None, settings), anytime_host())
    yield daemon
    daemon.close()


@pytest.fixture
def client(running: RunningDaemon) -> Iterator[tonescope.Client]:
    with tonescope.connect(running.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((3, 56, 4)).astype(np.float32)


def ended(running: RunningDaemon) -> bool:
    end = time.monotonic() + 10
    while running.daemon.totals.progressive.open_calls and time.monotonic() < end:
        time.sleep(0.01)
    return not running.daemon.totals.progressive.open_calls


def test_updates_come_as_typed_results(client: tonescope.Client, x: np.ndarray) -> None:
    updates = list(client.explain_progressively(x[:1], **ASKED, samples=30, units=True, maps=True))
    last = updates[-1]
    assert isinstance(last, tonescope.Update)
    assert (last.final, last.stop_reason, last.number) == (True, "exhausted", 29)
    assert [each.final for each in updates[:-1]] == [False] * (len(updates) - 1)
    assert last.half_width is not None
    assert last.half_width.shape == (56,)
    assert last.relative_error == pytest.approx(last.half_width.max() / np.abs(last.explanation.tones).max(), rel=1e-5)
    assert (last.explanation.batches, last.explanation.evaluations) == (30, 31)
    assert last.explanation.units is not None
    assert last.explanation.maps["factor"].shape == (1,)
    assert all(each.explanation.top[0].tone is not None for each in updates), "every update knows the tones' names"


def test_the_last_update_is_what_explain_answers(client: tonescope.Client, x: np.ndarray) -> None:
    last = list(client.explain_progressively(x[:1], **ASKED, samples=12))[-1]
    whole = client.explain(x[:1], model="tiny", method="scaled_calls", samples=12)[0]
    np.testing.assert_array_equal(last.explanation.tones, whole.tones)
    assert whole.batches == 12
    assert whole.maps == {}
    assert whole.units is None


def test_maps_and_units_come_with_explain_and_with_streams_too(client: tonescope.Client, x: np.ndarray) -> None:
    given = {"model": "tiny", "method": "scaled_calls", "maps": True, "units": True}
    single = client.explain(x, samples=4, **given)
    stream = list(client.live(windows=list(x), parameters={"samples": 4}, **given))
    for one, other in zip(single, stream, strict=True):
        assert one.units is not None
        np.testing.assert_array_equal(one.units, other.units)
        np.testing.assert_array_equal(one.maps["factor"], other.maps["factor"])


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (tonescope.Stop(tolerance=0.1), "converged"),
        (tonescope.Stop(budget=50), "budget"),
        (tonescope.Stop(time_limit_s=0.05), "time_limit"),
    ],
)
def test_it_ends_as_it_was_told_to(client: tonescope.Client, x: np.ndarray, stop: Any, reason: str) -> None:
    last = list(client.explain_progressively(x[:1], **ASKED, stop=stop, samples=0))[-1]
    assert (last.final, last.stop_reason) == (True, reason)


def test_leaving_the_loop_ends_the_work(client: tonescope.Client, running: RunningDaemon, x: np.ndarray) -> None:
    for update in client.explain_progressively(x[:1], **ASKED, samples=0):
        if update.relative_error is not None and update.relative_error < 0.5:
            break
    assert ended(running)
    before = running.daemon.totals.progressive.evaluations
    time.sleep(0.1)
    assert running.daemon.totals.progressive.evaluations == before


def test_closing_the_iterator_ends_the_work(client: tonescope.Client, running: RunningDaemon, x: np.ndarray) -> None:
    updates = client.explain_progressively(x[:1], **ASKED, samples=0)
    next(updates)
    updates.close()
    assert ended(running)


def test_a_deadline_raises_after_what_came(client: tonescope.Client, x: np.ndarray) -> None:
    found: list[tonescope.Update] = []
    with pytest.raises(DeadlineError):
        found.extend(client.explain_progressively(x[:1], **ASKED, samples=0, timeout=0.3))
    assert len(found) > 1


def test_a_time_limit_is_not_cut_short_by_the_clients_own_deadline(running: RunningDaemon, x: np.ndarray) -> None:
    with tonescope.connect(running.address, timeout=0.2) as client:
        stop = tonescope.Stop(time_limit_s=0.4)
        last = list(client.explain_progressively(x[:1], **ASKED, stop=stop, samples=0))[-1]
    assert last.stop_reason == "time_limit"


def test_a_bad_window_raises_or_is_told(client: tonescope.Client, x: np.ndarray) -> None:
    bad = x.copy()
    bad[1] = np.nan
    with pytest.raises(NonFiniteError, match="window 1"):
        list(client.explain_progressively(bad, **ASKED, samples=5))
    last = [u for u in client.explain_progressively(bad, **ASKED, samples=5, raise_problems=False) if u.final]
    assert {u.explanation.window_index: u.stop_reason for u in last} == {0: "exhausted", 1: "", 2: "exhausted"}


def test_what_cannot_be_asked_is_refused_before_anything_is_sent(client: tonescope.Client, x: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="budget: expected a whole number"):
        client.explain_progressively(x, **ASKED, stop=tonescope.Stop(budget=-1))
    with pytest.raises(ParameterError, match="time_limit_s: expected a number of seconds"):
        client.explain_progressively(x, **ASKED, stop=tonescope.Stop(time_limit_s="soon"))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="batch axis"):
        client.explain_progressively(x[0, 0], **ASKED)
    client.close()
    with pytest.raises(ProtocolError, match="no call after close"):
        client.explain_progressively(x, **ASKED)


def test_the_asyncio_client_gives_the_same_and_closing_ends_the_work(running: RunningDaemon, x: np.ndarray) -> None:
    async def both() -> tuple[tonescope.Update, bool]:
        async with tonescope.aio.connect(running.address) as client:
            async for update in client.explain_progressively(x[:1], **ASKED, samples=12):
                last = update
            async with aclosing(client.explain_progressively(x[:1], **ASKED, samples=0)) as updates:
                async for _ in updates:
                    break
            return last, await asyncio.to_thread(ended, running)

    with tonescope.connect(running.address) as client:
        expected = list(client.explain_progressively(x[:1], **ASKED, samples=12))[-1]
    last, over = asyncio.run(both())
    np.testing.assert_array_equal(last.explanation.tones, expected.explanation.tones)
    np.testing.assert_array_equal(last.half_width, expected.half_width)
    assert over
