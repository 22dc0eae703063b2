"""What waits for a client that reads slowly, and in what order windows are worked on."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.anytime import METHODS
from tonescope_server.engine.explainer import Explainer, installed_plugins
from tonescope_server.engine.progress import Reason, Stop, refine
from tonescope_server.errors import DeadlineError, NonFiniteError, UnavailableError
from tonescope_server.live.batch import Patience
from tonescope_server.live.messages import Job
from tonescope_server.live.progressive import Newest, Progressive, ProgressiveTotals, Standing
from tonescope_server.testing import tiny_models, tiny_windows

LONG_S = 60.0  # an interval that no test waits for


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    host = installed_plugins()
    known = {**host.methods, **{method.name: method for method in METHODS}}
    return Explainer(tiny_models()["conv_1d"], type(host)(**{**vars(host), "methods": known}))


@pytest.fixture(scope="module")
def jobs(explainer: Explainer) -> list[Job]:
    x = tiny_windows(explainer.model, 3)
    return [Job(x[row : row + 1], row, 0.0, "none") for row in range(3)]


def standings(explainer: Explainer, job: Job, samples: int) -> list[Standing]:
    prepared = explainer.prepare("scaled_graph", 0, {"samples": samples})
    return [Standing(job, update) for update in refine(prepared, job.cells, Stop())]


def test_of_each_window_only_the_newest_waits(explainer: Explainer, jobs: list[Job]) -> None:
    async def taken() -> list[Standing]:
        newest = Newest()
        for job in jobs[:2]:
            for standing in standings(explainer, job, 5)[:3]:
                newest.put(standing)
        return await newest.take(0.0, 0.0)

    found = asyncio.run(taken())
    assert [(each.job.index, each.outcome.number) for each in found] == [(0, 2), (1, 2)]  # type: ignore[union-attr]


def test_what_is_last_does_not_wait_for_the_interval_and_the_rest_does(explainer: Explainer, jobs: list[Job]) -> None:
    async def taken() -> list[list[int]]:
        newest = Newest()
        newest.put(standings(explainer, jobs[0], 5)[0])
        newest.put(standings(explainer, jobs[1], 5)[-1])
        now = asyncio.get_running_loop().time()
        first = await newest.take(LONG_S, now)
        newest.close()
        return [[each.job.index for each in some] for some in (first, await newest.take(LONG_S, now))]

    assert asyncio.run(asyncio.wait_for(taken(), 5)) == [[1], [0]]


def test_once_closed_and_empty_there_is_nothing_to_wait_for(explainer: Explainer, jobs: list[Job]) -> None:
    async def taken() -> list[list[Standing]]:
        newest = Newest()
        newest.put(standings(explainer, jobs[0], 2)[-1])
        newest.close()
        now = asyncio.get_running_loop().time()
        return [await newest.take(LONG_S, now) for _ in range(3)]

    assert [len(some) for some in asyncio.run(asyncio.wait_for(taken(), 5))] == [1, 0, 0]


def run(
    explainer: Explainer, jobs: list[Job], stop: Stop, send: Any = None, patience: Any = None, **options: Any
) -> tuple[list[Standing], ProgressiveTotals]:
    """Run a call to its end; return what was sent, and the counts."""
    sent: list[Standing] = []
    totals = ProgressiveTotals()

    async def keep(standing: Standing) -> None:
        sent.append(standing)

    async def call(executor: ThreadPoolExecutor) -> None:
        prepared = explainer.prepare("scaled_graph", 0, {"samples": options.get("samples", 0)})
        draining = options.get("draining", lambda: False)
        waiting = patience or Patience(None)
        await Progressive(prepared, jobs, stop, 0.0, executor, waiting, totals, draining).run(send or keep)

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(call(executor))
    return sent, totals


def test_every_window_ends_and_all_of_it_is_counted(explainer: Explainer, jobs: list[Job]) -> None:
    bad = Job(NonFiniteError("cells: expected finite numbers"), 3, 0.0, "none")
    sent, totals = run(explainer, [*jobs, bad], Stop(budget=7))
    assert {each.job.index: each.ended for each in sent if each.ended} == {
        0: "budget",
        1: "budget",
        2: "budget",
        3: "failed",
    }
    assert dict(totals.ended) == {"budget": 3, "failed": 1}
    assert (totals.evaluations, totals.updates, totals.sent) == (21, 21, len(sent))
    assert totals.compute_s > 0


def test_the_work_does_not_wait_for_whom_it_is_sent_to(explainer: Explainer, jobs: list[Job]) -> None:
    sent: list[Standing] = []

    async def read_slowly(standing: Standing) -> None:
        sent.append(standing)
        await asyncio.sleep(0.2)

    _, totals = run(explainer, jobs[:1], Stop(), read_slowly, samples=400)
    assert totals.updates == 400
    assert totals.sent == len(sent) < 100
    assert sent[-1].ended == Reason.EXHAUSTED


def test_whom_it_cannot_be_sent_to_ends_the_work(explainer: Explainer, jobs: list[Job]) -> None:
    async def gone(standing: Standing) -> None:
        raise ConnectionError("gone")

    patience = Patience(None)
    with pytest.raises(ConnectionError):  # and it comes back at all: the work has no end of its own
        run(explainer, jobs, Stop(), gone, patience)
    with pytest.raises(DeadlineError):
        patience.check()


def test_a_deadline_that_has_passed_and_a_drain_end_the_work(explainer: Explainer, jobs: list[Job]) -> None:
    with pytest.raises(DeadlineError, match="deadline passed"):
        run(explainer, jobs, Stop(), patience=Patience(0.0))
    with pytest.raises(UnavailableError, match="draining"):
        run(explainer, jobs, Stop(), draining=lambda: True)
