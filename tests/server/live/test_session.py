from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.explainer import Explainer
from tonescope_server.errors import DeadlineError, FrameError, ProtocolError, TonescopeError
from tonescope_server.live import batch
from tonescope_server.live.batch import MAX_BATCH, Patience, Runner, explain_all
from tonescope_server.live.buffer import WindowBuffer
from tonescope_server.live.intake import Intake
from tonescope_server.live.messages import (
    Answer,
    Draining,
    Dropped,
    Job,
    Notice,
    Overload,
    ReceivedWindow,
    Rejected,
    Summary,
    Undecodable,
)
from tonescope_server.live.session import Drain, Session, Totals

Make = Callable[..., Intake]


class Client:
    """The two ends of a stream that a session is given: what it receives, and what it sends."""

    def __init__(self, intake: Intake, messages: Iterable[Sequence[ReceivedWindow] | Exception]) -> None:
        self._intake = intake
        self._messages = iter(messages)
        self.heard: list[Answer | Notice] = []
        self.together: list[int] = []
        self.hold: Callable[[], Awaitable[Any]] | None = None

    async def receive(self) -> list[Job] | None:
        await asyncio.sleep(0)
        message = next(self._messages, None)
        if isinstance(message, Exception):
            raise message
        if message is None and self.hold is not None:
            await self.hold()
        return None if message is None else self._intake.take(message, now=0.0)

    async def send(self, what: Sequence[Answer] | Notice) -> None:
        if isinstance(what, list):
            self.together.append(len(what))
            self.heard += what
        else:
            self.heard.append(what)  # type: ignore[arg-type]

    @property
    def answers(self) -> list[Answer]:
        return [each for each in self.heard if isinstance(each, Answer)]

    def notices(self, kind: type) -> list[Any]:
        return [each for each in self.heard if isinstance(each, kind)]


def windows(count: int, node: int = 0) -> list[ReceivedWindow]:
    random = np.random.default_rng(count + node)
    return [ReceivedWindow(random.normal(size=(56, 4)).astype(np.float32), node) for _ in range(count)]


def bad_window() -> ReceivedWindow:
    return ReceivedWindow(np.zeros((4, 56), np.float32))


def run(
    explainer: Explainer,
    client: Client,
    buffer: WindowBuffer | None = None,
    drain: Drain | None = None,
    method: str = "input_x_gradient",
    remaining_s: float | None = None,
    **parameters: Any,
) -> Totals:
    totals = Totals()

    async def serve() -> None:
        with ThreadPoolExecutor(1) as executor:
            runner = Runner(explainer.prepare(method, None, parameters), executor, Patience(remaining_s))
            queue = WindowBuffer(64, Overload.BACK_PRESSURE) if buffer is None else buffer
            session = Session(client._intake, queue, runner, totals)
            await session.run(client.receive, client.send, drain or Drain())

    asyncio.run(asyncio.wait_for(serve(), 30))
    return totals


def test_every_window_is_answered_in_order_and_the_summary_comes_last(explainer: Explainer, make_intake: Make) -> None:
    client = Client(make_intake(), [windows(3), windows(2), windows(1)])
    run(explainer, client)
    assert [answer.job.index for answer in client.answers] == list(range(6))
    summary = client.heard[-1]
    assert isinstance(summary, Summary)
    assert (summary.windows, summary.explained, summary.failed, summary.dropped) == (6, 6, 0, 0)


def test_a_bad_window_is_answered_with_its_own_error_and_the_stream_goes_on(
    explainer: Explainer, make_intake: Make
) -> None:
    one, two = windows(2)
    client = Client(make_intake(), [[one, bad_window(), two], windows(1)])
    totals = run(explainer, client)
    outcomes = [type(answer.outcome).__name__ for answer in client.answers]
    assert outcomes == ["Attribution", "ShapeError", "Attribution", "Attribution"]
    assert (totals.explained, totals.failed) == (3, 1)


def test_an_answer_does_not_depend_on_what_it_was_batched_with(explainer: Explainer, make_intake: Make) -> None:
    sent = windows(20)
    together, alone = Client(make_intake(64), [sent]), Client(make_intake(64), [[each] for each in sent])
    run(explainer, together)
    run(explainer, alone)
    assert max(together.together) > 1
    for a, b in zip(together.answers, alone.answers, strict=True):
        assert isinstance(a.outcome, Attribution)
        assert isinstance(b.outcome, Attribution)
        # Kernels may sum in another order for another batch: a few units in the last place of float32.
        np.testing.assert_allclose(a.outcome.tones[a.row], b.outcome.tones[b.row], rtol=1e-5, atol=1e-6)


def test_what_was_dropped_is_said_and_counted_with_the_next_answer(explainer: Explainer, make_intake: Make) -> None:
    client = Client(make_intake(), [windows(10)])
    run(explainer, client, WindowBuffer(4, Overload.DROP_OLDEST))
    assert client.notices(Dropped) == [Dropped(6, 6, "queue_full")]
    assert [answer.job.index for answer in client.answers] == [6, 7, 8, 9]
    assert [answer.dropped_before for answer in client.answers] == [6, 0, 0, 0]
    assert client.notices(Summary)[0].dropped == 6


def test_running_statistics_are_kept_per_node(explainer: Explainer, make_intake: Make) -> None:
    client = Client(make_intake(), [windows(3, node=1) + windows(4, node=2)])
    run(explainer, client)
    of_two = [answer for answer in client.answers if answer.job.node_id == 2]
    assert [answer.running.count for answer in of_two if answer.running] == [1, 2, 3, 4]
    seen = np.stack([a.outcome.tones[a.row] for a in of_two if isinstance(a.outcome, Attribution)])
    last = of_two[-1].running
    assert last is not None
    np.testing.assert_allclose(last.mean, seen.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(last.standard_error, seen.std(axis=0, ddof=1) / 2, rtol=1e-4, atol=1e-7)


def test_draining_is_said_what_was_received_is_answered_and_the_stream_ends(
    explainer: Explainer, make_intake: Make
) -> None:
    drain = Drain(grace_s=7)
    client = Client(make_intake(), [windows(5)])

    async def hold() -> None:
        drain.begun.set()
        await asyncio.sleep(30)

    client.hold = hold
    run(explainer, client, drain=drain)
    assert len(client.answers) == 5
    assert client.notices(Draining) == [Draining(7)]
    assert isinstance(client.heard[-1], Summary)


def test_what_is_refused_while_the_last_notice_is_being_sent_is_said_before_the_summary(
    explainer: Explainer, make_intake: Make
) -> None:
    client = Client(make_intake(), [])
    refused = [Undecodable(FrameError("not CSI", kind)) for kind in ("vitals", "sync", "mesh")]
    first, coming = refused[0], iter(refused)
    first_is_being_sent, all_is_read = asyncio.Event(), asyncio.Event()

    async def receive() -> list[Job] | None:
        frame = next(coming, None)
        if frame is not first:
            await first_is_being_sent.wait()
        if frame is None:
            all_is_read.set()
            return None
        return client._intake.frames([frame], now=0.0)

    async def send(what: Sequence[Answer] | Notice) -> None:
        client.heard.append(what)  # type: ignore[arg-type]
        if what == Rejected(first.error):
            first_is_being_sent.set()
            await all_is_read.wait()

    client.receive, client.send = receive, send  # type: ignore[method-assign]
    run(explainer, client)
    assert client.heard[:-1] == [Rejected(each.error) for each in refused]
    assert isinstance(client.heard[-1], Summary)


def test_what_came_before_a_broken_rule_is_answered_before_the_stream_ends(
    explainer: Explainer, make_intake: Make
) -> None:
    client = Client(make_intake(), [windows(2), ProtocolError("open twice")])
    with pytest.raises(ProtocolError, match="open twice"):
        run(explainer, client)
    assert len(client.answers) == 2
    assert not client.notices(Summary)


def test_a_dear_plan_runs_on_a_thread_and_leaves_the_loop_free(
    explainer: Explainer, make_intake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "INLINE_BELOW_S", 1e-6)  # the model is tiny: nothing it does is dear
    prepared = explainer.prepare("integrated_gradients", None, {"n_steps": 4096, "rule": "trapezoid"})
    ticks = 0

    async def serve() -> list[Answer]:
        nonlocal ticks
        with ThreadPoolExecutor(1) as executor:
            runner = Runner(prepared, executor, Patience(None))
            assert not runner.inline
            work = asyncio.create_task(explain_all(make_intake(64).take(windows(16), 0.0), runner))
            while not work.done():
                await asyncio.sleep(0.001)
                ticks += 1
            return await work

    answers = asyncio.run(serve())
    assert all(isinstance(answer.outcome, Attribution) for answer in answers)
    assert ticks > 3


def test_a_cheap_plan_runs_inline_in_bounded_batches(explainer: Explainer, make_intake: Make) -> None:
    with ThreadPoolExecutor(1) as executor:
        runner = Runner(explainer.prepare("saliency"), executor, Patience(None))
    assert runner.inline
    assert 1 <= runner.most <= MAX_BATCH
    jobs = make_intake(128).take(windows(100), 0.0)
    answers = asyncio.run(explain_all(jobs, runner))
    assert [answer.job.index for answer in answers] == list(range(100))


@pytest.mark.parametrize("remaining_s", [-1.0, 0.0])
def test_a_deadline_that_passed_ends_the_stream(explainer: Explainer, make_intake: Make, remaining_s: float) -> None:
    client = Client(make_intake(), [windows(1)])
    with pytest.raises(DeadlineError, match="deadline"):
        run(explainer, client, remaining_s=remaining_s)


def test_work_for_a_caller_who_went_away_is_given_up() -> None:
    patience = Patience(None)
    patience.check()
    patience.give_up()
    with pytest.raises(DeadlineError, match="went away"):
        patience.check()


class FailsOnNegatives:
    """A plan of a plugin that fails for what is in a window: the batch fails, and then only that window."""

    seconds_per_window = 1e-6

    def __init__(self, plan: Any) -> None:
        self._plan = plan

    def run(self, x: Any, check: Any = None) -> Attribution:
        if (x < -99).any():
            raise TonescopeError("the plugin cannot take this")
        result: Attribution = self._plan.run(x, check)
        return result


def test_a_window_that_fails_in_a_batch_costs_the_others_nothing(explainer: Explainer, make_intake: Make) -> None:
    sent = windows(5)
    sent[2] = ReceivedWindow(np.full((56, 4), -100, np.float32))
    jobs = make_intake().take(sent, 0.0)
    with ThreadPoolExecutor(1) as executor:
        runner = Runner(FailsOnNegatives(explainer.prepare("saliency")), executor, Patience(None))
    answers = asyncio.run(runner.explain(jobs))
    assert [isinstance(answer.outcome, Attribution) for answer in answers] == [True, True, False, True, True]


def test_back_pressure_stops_the_reader_until_there_is_room(explainer: Explainer, make_intake: Make) -> None:
    client = Client(make_intake(), [windows(2) for _ in range(20)])
    buffer = WindowBuffer(2, Overload.BACK_PRESSURE)
    most = 0
    receive = client.receive

    async def watched() -> list[Job] | None:
        nonlocal most
        most = max(most, len(buffer))
        return await receive()

    client.receive = watched  # type: ignore[method-assign]
    run(explainer, client, buffer)
    assert len(client.answers) == 40
    assert most < 2
