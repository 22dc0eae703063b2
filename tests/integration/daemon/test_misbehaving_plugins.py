"""Plugins of others that go wrong in every way: the daemon says which plugin and method, and goes on."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tonescope.v1 import attribution_service_pb2, method_service_pb2, method_service_pb2_grpc

from . import misbehaving
from .messages import BATCH, array, explain_request, opening, options, windows
from .talk import Conversation, attribution, explained, live, of_kind, refusal, until

# Long beside what the methods here need, also on a machine that is busy with something else; short beside a hang.
LIMIT_S = 0.7


@pytest.fixture
def misbehaving_daemon(start_daemon: Any) -> Any:
    return start_daemon(misbehaving.host(), plugin_timeout_s=LIMIT_S, workers=1, log_level="error")


@pytest.fixture
def bad(misbehaving_daemon: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(misbehaving_daemon.address) as channel:
        yield channel


def methods(channel: grpc.Channel) -> method_service_pb2.ListMethodsResponse:
    return method_service_pb2_grpc.MethodServiceStub(channel).ListMethods(method_service_pb2.ListMethodsRequest())


def asked(name: str, values: Any = BATCH[:1]) -> Any:
    return explain_request(values, options(method=name))


def test_what_cannot_be_loaded_is_listed_with_its_plugin_and_takes_nothing_else_with_it(bad: grpc.Channel) -> None:
    listed = methods(bad)
    failures = {
        each.message.partition(":")[0] + ":" + each.message.split(":")[1]: each.plugin for each in listed.failures
    }
    assert failures == {
        "ModuleNotFoundError: No module named 'no_such_module'": "not_there",
        "ValueError: methods 'input_x_gradient' is already offered by plugin 'input_x_gradient'": misbehaving.NAME,
        "TypeError: method 'no_parameters'": misbehaving.NAME,
        "TypeError: method 'no_summary'": misbehaving.NAME,
        "OSError: no licence": misbehaving.NAME,
    }
    offered = {each.name: each.plugin for each in listed.methods}
    assert offered["good"] == misbehaving.NAME
    assert offered["input_x_gradient"] == "input_x_gradient"
    assert not {"no_parameters", "no_summary"} & set(offered)
    (answer,) = attribution(bad).Explain(asked("good")).explanations
    assert array(answer.tones).tolist() == [4.0] * 56


# Refused as a whole, before there is an answer to any window.
REFUSED = {
    "bad_describe": "failed: ZeroDivisionError: by zero",
    "bad_bound": "failed: IndexError: out of bounds",
    "bad_parameters": "failed: RuntimeError: these are never right",
}
# Answered window by window, each with the problem.
ANSWERED = {
    "raises": "failed: KeyError: 'no such\\ntone'",
    "leaves": "failed: SystemExit: goodbye",
    "bad_feeds": "failed: ValueError: nothing to feed",
    "bad_finish": ": cells are not finite (nan at (0, 0)), though the model's score and gradient are",
    "infinite": ": cells are not finite (-inf at (0, 0)), though the model's score and gradient are",
    "wrong_shape": ": expected cells of shape (1, 56, 4), got (1, 5, 4)",
    "wrong_type": ": expected cells to be an array of floating-point numbers, got complex64",
    "no_array": ": expected cells to be an array of floating-point numbers, got list",
    "wrong_error": ": expected standard_error of shape (1, 56), got (1, 2)",
    "wrong_map": ": expected map 'layer' of shape (1, …), got (0,)",
    "wrong_warning": ": expected warnings to be a tuple of ResultWarning",
}


def named(name: str) -> str:
    return f"method '{name}' of plugin '{misbehaving.NAME}'"


def test_a_method_that_fails_is_named_with_its_plugin_in_every_call_while_another_stream_goes_on(
    bad: grpc.Channel,
) -> None:
    other = Conversation(bad, opening())
    for name, says in REFUSED.items():
        for call in (
            lambda n=name: attribution(bad).Explain(asked(n)),
            lambda n=name: live(bad, opening(options(method=n))),
        ):
            code, reason, message = refusal(call)
            assert (code, reason) == (grpc.StatusCode.INTERNAL, "PLUGIN")
            assert message.startswith(named(name))
            assert says in message
    for name, says in ANSWERED.items():
        single = attribution(bad).Explain(asked(name)).explanations
        streamed = explained(live(bad, opening(options(method=name)), windows(BATCH[:1])))
        for answer in (*single, *streamed):
            assert answer.problem.reason == "PLUGIN", name
            assert answer.problem.message == f"window 0: {named(name)}{' ' * says.startswith('f')}{says}"
            assert not answer.HasField("prediction")
        other.say(windows(BATCH[:1]))
        assert not explained([other.next("explanations")])[0].HasField("problem")
    assert of_kind(other.end(), "summary")[0].failed == 0


def test_a_window_that_a_method_makes_no_number_of_is_its_own_affair(bad: grpc.Channel) -> None:
    values = np.abs(BATCH[:5])
    values[3, 0, 0] *= -1
    stream = explained(live(bad, opening(options(method="not_a_number")), windows(values)))
    for answers in (attribution(bad).Explain(asked("not_a_number", values)).explanations, stream):
        assert [each.problem.reason for each in answers] == ["", "", "", "PLUGIN", ""]
        assert answers[3].problem.message.startswith(f"window 3: {named('not_a_number')}: cells are not finite (nan at")
    assert stream[-1].running.count == 4
    assert np.isfinite(array(stream[-1].running.mean)).all()


def test_the_log_names_plugin_and_method_and_has_the_traceback_but_not_for_every_window(
    start_daemon: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    running = start_daemon(misbehaving.host(), log_level="warning", log_format="json")
    with grpc.insecure_channel(running.address) as channel:
        stream = Conversation(channel, opening(options(method="raises")))
        for _ in range(6):
            stream.say(windows(BATCH[:1]))
            stream.next("explanations")
        stream.end()
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [each for each in logged if each["event"] == "method failed"]
    assert [each["times"] for each in told] == [1, 2, 4]
    assert {(each["plugin"], each["method"]) for each in told} == {(misbehaving.NAME, "raises")}
    assert "no such" in told[0]["exception"]
    not_loaded = [each for each in logged if each["event"] == "plugin not loaded"]
    assert {each["plugin"] for each in not_loaded} == {misbehaving.NAME, "not_there"}


def test_a_method_that_hangs_ends_its_request_and_the_next_finds_a_worker_and_is_not_kept_waiting(
    misbehaving_daemon: Any, bad: grpc.Channel
) -> None:
    other = Conversation(bad, opening())
    values = np.concatenate([BATCH, BATCH])
    for name in ("loops", "sleeps", "hangs_in_finish"):
        done: list[Any] = []

        def ask(name: str = name, done: list[Any] = done) -> None:
            done.extend(attribution(bad).Explain(asked(name, values)).explanations)

        call = threading.Thread(target=ask)
        call.start()
        while call.is_alive():  # not disturbed: it is answered all the while
            other.say(windows(BATCH[:1]))
            assert not explained([other.next("explanations")])[0].HasField("problem")
        # All windows of the batch at once: one by one, twelve would take twelve times as long.
        assert [each.problem.reason for each in done] == ["PLUGIN_TIMEOUT"] * 12
        assert (
            done[7].problem.message == f"window 7: {named(name)} hung: its code did not come back within {LIMIT_S:g} s"
        )
        assert not attribution(bad).Explain(asked("good"), timeout=10).explanations[0].HasField("problem")
    assert of_kind(other.end(), "summary")[0].failed == 0
    # What looped in Python was ended; what sleeps is not there for anybody to wait for.
    until(lambda: [t.name for t in threading.enumerate()].count("computing") <= 2)


def test_a_method_that_hangs_while_it_is_prepared_or_refined_is_found_out_too(bad: grpc.Channel) -> None:
    code, reason, message = refusal(lambda: attribution(bad).Explain(asked("hangs_in_describe")))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "PLUGIN_TIMEOUT")
    assert message.startswith(named("hangs_in_describe"))
    request = attribution_service_pb2.ExplainProgressivelyRequest(
        options=options(method="loops_refining"), windows=asked("good").windows
    )
    found = list(attribution(bad).ExplainProgressively(request))
    assert not found[0].explanation.HasField("problem")
    assert found[-1].final
    assert found[-1].explanation.problem.reason == "PLUGIN_TIMEOUT"
    assert not attribution(bad).Explain(asked("good"), timeout=10).explanations[0].HasField("problem")


def test_a_method_that_hung_three_times_is_quarantined_and_refused_at_once(start_daemon: Any) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    running = start_daemon(misbehaving.host(), plugin_timeout_s=LIMIT_S, workers=1, log_level="error", metrics=metrics)
    with grpc.insecure_channel(running.address) as channel:
        stream = Conversation(channel, opening(options(method="loops")))
        for _ in range(3):
            (answer,) = attribution(channel).Explain(asked("loops")).explanations
            assert answer.problem.reason == "PLUGIN_TIMEOUT"
        stream.say(windows(BATCH[:1]))
        (late,) = explained([stream.next("explanations")])
        why = f"{named('loops')} is quarantined: it hung 3 times, and is refused until the daemon is started again"
        assert (late.problem.reason, late.problem.message) == ("PLUGIN", f"window 0: {why}")
        for call in (
            lambda: attribution(channel).Explain(asked("loops")),
            lambda: live(channel, opening(options(method="loops"))),
        ):
            assert refusal(call)[1:] == ("PLUGIN", why)
        listed = {each.name: each.quarantined for each in methods(channel).methods if each.quarantined}
        assert listed == {"loops": why.partition(": ")[2]}
        stream.end()
        with urllib.request.urlopen(f"http://{metrics}/metrics") as page:
            text = page.read().decode()
        assert f'tonescope_method_incidents_total{{kind="hung",method="loops",plugin="{misbehaving.NAME}"}} 3.0' in text
        assert 'tonescope_methods_quarantined{method="loops"} 1.0' in text
        assert "tonescope_plugins_not_loaded 5.0" in text


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
