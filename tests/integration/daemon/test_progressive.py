"""Explanations that get better with time, over the wire: what is sent, when it ends, and what ends with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from scipy import stats

from tests.anytime import anytime_host
from tonescope.v1 import attribution_service_pb2 as service_pb2

from .messages import BATCH, array, explain_request, opening, options, window, windows
from .talk import attribution, explained, live, refusal, until

SAMPLED = "scaled_calls"


def request(
    values: Any = BATCH[:1], method: str = SAMPLED, given: dict[str, Any] | None = None, **fields: Any
) -> service_pb2.ExplainProgressivelyRequest:
    fields = {"min_interval_ms": 0, **fields}
    return service_pb2.ExplainProgressivelyRequest(
        options=options(method=method, **(given or {})), windows=[window(each) for each in values], **fields
    )


@pytest.fixture(scope="module")
def running(tiny_store: Any) -> Iterator[Any]:
    from ..conftest import Config, RunningDaemon

    config = Config.load(None, {"store": tiny_store, "listen": "127.0.0.1:0", "log_level": "warning", "workers": 1})
    daemon = RunningDaemon(config, anytime_host())
    yield daemon
    daemon.close()


@pytest.fixture
def channel(running: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.address) as channel:
        yield channel


def ask(channel: grpc.Channel, *args: Any, timeout: float = 20, **fields: Any) -> list[Any]:
    return list(attribution(channel).ExplainProgressively(request(*args, **fields), timeout=timeout))


def reasons(responses: list[Any]) -> list[str]:
    return [service_pb2.StopReason.Name(each.stop_reason).removeprefix("STOP_REASON_") for each in responses]


# -- what is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SAMPLED, "scaled_graph"])
def test_updates_narrow_until_the_method_is_exhausted(channel: grpc.Channel, method: str) -> None:
    found = ask(channel, method=method, given={"samples": 40})
    last = found[-1]
    assert [each.final for each in found] == [False] * (len(found) - 1) + [True]
    assert reasons(found) == ["UNSPECIFIED"] * (len(found) - 1) + ["EXHAUSTED"]
    numbers = [each.update for each in found]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 39
    spent = [each.explanation.evaluations for each in found]
    assert spent == sorted(spent)
    errors = [each.relative_error for each in found if each.HasField("relative_error")]
    assert errors[-1] < errors[0] / 2
    assert last.explanation.batches == 40
    width, error = array(last.interval_half_width), array(last.explanation.standard_error)
    np.testing.assert_allclose(width, stats.t.ppf(0.975, 39) * error, rtol=1e-5)
    assert last.relative_error == pytest.approx(width.max() / np.abs(array(last.explanation.tones)).max(), rel=1e-5)


def test_the_table_of_tones_comes_first_and_once(channel: grpc.Channel) -> None:
    found = ask(channel, given={"samples": 10})
    assert [each.HasField("tone_table") for each in found] == [True] + [False] * (len(found) - 1)
    assert len(found[0].tone_table.tones) == 56


def test_the_last_update_is_what_explain_answers(channel: grpc.Channel) -> None:
    for method in (SAMPLED, "scaled_graph", "nested_trapezoid", "input_x_gradient", "occlusion"):
        last = ask(channel, method=method)[-1].explanation
        asked = explain_request(BATCH[:1], options(method=method))
        whole = attribution(channel).Explain(asked, timeout=20).explanations[0]
        assert last.tones == whole.tones
        assert last.evaluations == whole.evaluations
        assert (last.score, last.method, last.target) == (whole.score, whole.method, whole.target)


def test_a_method_with_one_estimate_sends_that_alone(channel: grpc.Channel) -> None:
    for method in ("input_x_gradient", "occlusion"):
        (only,) = ask(channel, method=method)
        assert (only.final, reasons([only])) == (True, ["EXHAUSTED"])
        assert not only.HasField("relative_error")
        assert not only.HasField("interval_half_width")


def test_windows_are_answered_each_by_itself_and_a_bad_one_by_its_problem(channel: grpc.Channel) -> None:
    bad = np.full((56, 4), np.nan, np.float32)
    found = ask(channel, [BATCH[0], bad, BATCH[2]], given={"samples": 8})
    last = {each.explanation.window_index: each for each in found if each.final}
    assert sorted(last) == [0, 1, 2]
    assert last[1].explanation.problem.reason == "NON_FINITE"
    assert reasons([last[0], last[1], last[2]]) == ["EXHAUSTED", "UNSPECIFIED", "EXHAUSTED"]
    for row in (0, 2):
        alone = ask(channel, BATCH[row : row + 1], given={"samples": 8})[-1]
        assert alone.explanation.tones == last[row].explanation.tones
        assert alone.interval_half_width == last[row].interval_half_width


def test_maps_and_units_come_where_they_are_asked_for(channel: grpc.Channel) -> None:
    asked = request(given={"samples": 3})
    without = list(attribution(channel).ExplainProgressively(asked, timeout=20))[-1].explanation
    assert not without.maps
    assert not without.HasField("units")
    asked.options.want_maps = asked.options.want_units = True
    found = list(attribution(channel).ExplainProgressively(asked, timeout=20))[-1].explanation
    assert list(found.maps) == ["factor"]
    assert array(found.maps["factor"]).shape == (1,)
    np.testing.assert_allclose(array(found.units).sum(), array(found.tones).sum(), rtol=1e-4, atol=1e-6)


# -- when it ends -------------------------------------------------------------------------------------------------


def test_it_ends_at_the_tolerance(channel: grpc.Channel) -> None:
    last = ask(channel, given={"samples": 0}, tolerance=0.1)[-1]
    assert reasons([last]) == ["CONVERGED"]
    assert last.relative_error <= 0.1
    path = ask(channel, method="nested_trapezoid", given={"levels": 20}, tolerance=0.05)[-1]
    assert reasons([path]) == ["CONVERGED"]
    assert path.relative_error <= 0.05
    assert path.explanation.HasField("convergence_delta")


def test_it_ends_within_the_budget(channel: grpc.Channel) -> None:
    last = ask(channel, given={"samples": 0, "points": 4}, budget=42)[-1]
    assert reasons([last]) == ["BUDGET"]
    assert last.explanation.evaluations == 41


def test_it_ends_at_the_time_limit(channel: grpc.Channel) -> None:
    found = ask(channel, BATCH[:2], given={"samples": 0}, time_limit_ms=100)
    assert sorted(reasons(found)[-2:]) == ["TIME_LIMIT", "TIME_LIMIT"]
    assert max(each.explanation.batches for each in found) > 2


def test_at_the_deadline_it_fails_after_what_was_sent(channel: grpc.Channel) -> None:
    found: list[Any] = []
    with pytest.raises(grpc.RpcError) as raised:
        found.extend(attribution(channel).ExplainProgressively(request(given={"samples": 0}), timeout=0.3))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert len(found) > 3
    assert not any(each.final for each in found)


def counts(running: Any) -> Any:
    return running.daemon.totals.progressive


def test_a_cancelled_call_costs_no_more_evaluations(channel: grpc.Channel, running: Any) -> None:
    call = attribution(channel).ExplainProgressively(request(given={"samples": 0}))
    for _ in range(3):
        next(call)
    assert counts(running).open_calls == 1
    call.cancel()
    until(lambda: counts(running).open_calls == 0)
    # The only worker takes the next job once the last step of the cancelled call has ended.
    assert ask(channel, method="occlusion")[-1].final
    before = counts(running).evaluations
    time.sleep(0.1)
    assert counts(running).evaluations == before


def test_a_slow_client_is_sent_the_newest_and_holds_up_nothing(channel: grpc.Channel, running: Any) -> None:
    asked = request(given={"samples": 3000})
    asked.options.want_cells = True
    before = counts(running).updates, counts(running).sent
    call = attribution(channel).ExplainProgressively(asked, timeout=30)
    first = next(call)
    until(lambda: counts(running).updates - before[0] >= 3000, 25)  # the work is done, and nobody has read
    rest = list(call)
    assert first.update == 0
    assert rest[-1].update == 2999
    assert rest[-1].final
    assert len(rest) < 2500, "what was superseded was sent all the same"


def test_the_interval_between_updates_is_kept_and_the_last_does_not_wait(channel: grpc.Channel) -> None:
    found = ask(channel, given={"samples": 60}, min_interval_ms=20_000)
    assert [each.final for each in found] == [False, True]
    assert found[-1].update == 59


@pytest.mark.parametrize(
    ("method", "given", "tolerance"),
    [
        ("smoothgrad", {"n": 20_000}, 0.1),
        ("smoothgrad_squared", {"n": 20_000}, 0.1),
        ("vargrad", {"n": 20_000}, 0.2),
        ("expected_gradients", {"n": 20_000, "background": BATCH[2:].tolist()}, 0.1),
        ("timing", {"n": 16_384}, 0.1),
        ("integrated_gradients", {"rule": "progressive", "max_steps": 4096}, 0.001),
    ],
)
def test_the_installed_methods_that_get_better_converge(
    channel: grpc.Channel, method: str, given: dict[str, Any], tolerance: float
) -> None:
    found = ask(channel, BATCH[1:2], method=method, given=given, tolerance=tolerance)
    assert reasons(found)[-1] == "CONVERGED"
    assert found[-1].update > 0
    assert all(each.relative_error > tolerance for each in found[:-1] if each.HasField("relative_error"))


# -- beside others ------------------------------------------------------------------------------------------------


def test_streams_and_calls_go_on_beside_work_without_end(channel: grpc.Channel) -> None:
    """One worker serves all: steps are short, and others get their turn between them."""
    call = attribution(channel).ExplainProgressively(request(given={"samples": 0}))
    next(call)
    asked = explain_request(BATCH[:1], options(method="occlusion"))
    assert attribution(channel).Explain(asked, timeout=5).explanations[0].HasField("tones")
    assert len(explained(live(channel, opening(options(method="occlusion")), windows(BATCH), timeout=5))) == len(BATCH)
    assert len(explained(live(channel, opening(), windows(BATCH), timeout=5))) == len(BATCH)
    call.cancel()


def test_the_same_request_gives_the_same_bytes_beside_others(channel: grpc.Channel) -> None:
    alone = ask(channel, given={"samples": 30})[-1]
    others = [attribution(channel).ExplainProgressively(request(given={"samples": 0})) for _ in range(4)]
    reading = [threading.Thread(target=lambda call=call: [next(call) for _ in range(3)]) for call in others]
    for thread in reading:
        thread.start()
    beside = ask(channel, given={"samples": 30})[-1]
    for thread in reading:
        thread.join()
    for call in others:
        call.cancel()
    assert beside.explanation.tones == alone.explanation.tones
    assert beside.interval_half_width == alone.interval_half_width


def test_it_does_not_begin_by_running_to_its_end(channel: grpc.Channel, running: Any) -> None:
    """Other calls are timed before they are answered; this one is not, or a method without end would never begin."""
    until(lambda: counts(running).open_calls == 0)
    before = counts(running).evaluations
    (only,) = ask(channel, given={"samples": 0, "spread": 0.25}, budget=1)
    assert counts(running).evaluations - before == only.explanation.evaluations == 2


def test_what_was_done_is_counted(channel: grpc.Channel, running: Any) -> None:
    before = counts(running).calls, counts(running).sent, counts(running).ended["budget"]
    found = ask(channel, BATCH[:2], given={"samples": 0}, budget=9)
    after = counts(running).calls, counts(running).sent, counts(running).ended["budget"]
    assert np.subtract(after, before).tolist() == [1, len(found), 2]


def test_a_draining_daemon_ends_it_and_takes_no_more(start_daemon: Any) -> None:
    running = start_daemon(anytime_host())
    with grpc.insecure_channel(running.address) as channel:
        call = attribution(channel).ExplainProgressively(request(given={"samples": 0}))
        next(call)
        stopping = running.begin_stop(5)
        code, reason, message = refusal(lambda: list(call))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert "draining" in message
        stopping.result(10)


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason", "message"),
    [
        (request([]), "WRONG_SHAPE", "windows: expected 1 to 32, got 0"),
        (request(np.zeros((33, 56, 4))), "WRONG_SHAPE", "windows: expected 1 to 32, got 33"),
        (request(tolerance=-1), "INVALID_PARAMETER", "tolerance: expected a finite number of at least 0, got -1.0"),
        (request(tolerance=float("nan")), "INVALID_PARAMETER", "tolerance: expected a finite number"),
        (request(time_limit_ms=-5), "INVALID_PARAMETER", "time_limit_ms: expected a finite number of at least 0"),
        (request(min_interval_ms=float("inf")), "INVALID_PARAMETER", "min_interval_ms: expected a finite number"),
        (request(method="nothing_like_it"), "UNKNOWN_METHOD", "nothing_like_it"),
        (request(given={"samples": -1}), "INVALID_PARAMETER", "parameter 'samples'"),
    ],
)
def test_a_bad_request_is_refused_with_what_is_wrong(
    channel: grpc.Channel, asked: Any, reason: str, message: str
) -> None:
    found = refusal(lambda: list(attribution(channel).ExplainProgressively(asked, timeout=10)))
    assert found[1] == reason
    assert message in found[2]


def test_a_model_that_cannot_be_differentiated_is_told_which_methods_still_work(channel: grpc.Channel) -> None:
    asked = request(method="scaled_graph")
    asked.options.model.name = "ruleless"
    code, reason, message = refusal(lambda: list(attribution(channel).ExplainProgressively(asked, timeout=10)))
    assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED_OPERATOR")
    assert "these methods still work" in message
