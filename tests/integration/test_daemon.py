"""The daemon over a real socket: every call, every refusal, and that one caller's trouble is nobody else's."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tonescope.v1 import (
    attribution_pb2,
    attribution_service_pb2,
    attribution_service_pb2_grpc,
    csi_pb2,
    live_pb2,
    method_service_pb2,
    method_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    tensor_pb2,
)
from tonescope_server.plugin.api import Estimate, ModelAccess, Parameters, ProceduralMethod, Windows
from tonescope_server.plugin.host import PluginHost

Request = live_pb2.LiveRequest
Response = live_pb2.LiveResponse
BATCH = np.random.default_rng(5).normal(size=(6, 56, 4)).astype(np.float32)


def tensor(array: Any) -> tensor_pb2.Tensor:
    array = np.asarray(array, "<f4")
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())


def array(message: tensor_pb2.Tensor) -> Any:
    return np.frombuffer(message.data, "<f4").reshape(tuple(message.shape))


def window(values: Any, node: int = 0, **fields: Any) -> csi_pb2.Window:
    return csi_pb2.Window(values=tensor(values), node_id=node, **fields)


def options(model: str = "tiny", method: str = "", **parameters: Any) -> attribution_pb2.ExplainOptions:
    asked = attribution_pb2.ExplainOptions(model=model_pb2.ModelRef(name=model))
    asked.method.name = method
    asked.method.parameters.update(parameters)
    return asked


def explain_request(
    values: Any = BATCH[:1], asked: attribution_pb2.ExplainOptions | None = None, **fields: Any
) -> attribution_service_pb2.ExplainRequest:
    return attribution_service_pb2.ExplainRequest(
        options=asked or options(), windows=[window(each) for each in values], **fields
    )


def opening(asked: attribution_pb2.ExplainOptions | None = None, **fields: Any) -> Request:
    return Request(open=live_pb2.Open(options=asked or options(), **fields))


def windows(values: Any, **fields: Any) -> Request:
    return Request(windows=live_pb2.WindowBatch(windows=[window(each, **fields) for each in values]))


def frames(*messages: csi_pb2.Frame) -> Request:
    return Request(frames=live_pb2.FrameBatch(frames=messages))


def attribution(channel: grpc.Channel) -> attribution_service_pb2_grpc.AttributionServiceStub:
    return attribution_service_pb2_grpc.AttributionServiceStub(channel)


def live(channel: grpc.Channel, *requests: Request, **call: Any) -> list[Response]:
    return list(attribution(channel).Live(iter(requests), **call))


def explained(responses: list[Response]) -> list[attribution_pb2.Explanation]:
    return [each for response in responses for each in response.explanations.explanations]


def of_kind(responses: list[Response], kind: str) -> list[Any]:
    return [getattr(each, kind) for each in responses if each.WhichOneof("message") == kind]


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str]:
    """Return the status, reason and message that a call fails with."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()}: {error.details()} carries no details"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "tonescope"
    assert "\n" not in error.details()
    assert "Traceback" not in error.details()
    return error.code(), info.reason, error.details()


class Conversation:
    """A live stream that a test drives message by message."""

    def __init__(self, channel: grpc.Channel, first: Request) -> None:
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._requests.put(first)
        self.call = attribution(channel).Live(iter(self._requests.get, None))
        self.opened = self.next("opened").opened

    def say(self, request: Request) -> None:
        self._requests.put(request)

    def end(self) -> list[Response]:
        self._requests.put(None)
        return list(self.call)

    def next(self, kind: str) -> Response:
        """Return the next message of a kind, passing over others."""
        return next(each for each in self.call if each.WhichOneof("message") == kind)


# -- what an explanation holds ---------------------------------------------------------------------------------------


def test_every_field_of_an_explanation_is_filled(channel: grpc.Channel) -> None:
    asked = options(method="integrated_gradients", n_steps=8)
    asked.want_cells, asked.top_k = True, 5
    response = attribution(channel).Explain(explain_request(BATCH[:2], asked))
    assert response.tone_table.id == "ruview56"
    assert len(response.tone_table.tones) == 56
    for index, (explanation, values) in enumerate(zip(response.explanations, BATCH, strict=False)):
        assert not explanation.HasField("problem")
        assert explanation.window_index == index
        said = explanation.prediction
        assert said.class_index == int(np.argmax(said.scores))
        assert said.class_name == ["empty", "one", "two"][said.class_index]
        assert said.class_never_trained is (said.class_index == 2)
        assert said.probability == pytest.approx(np.exp(said.scores)[said.class_index] / np.exp(said.scores).sum())
        assert (explanation.target.output, explanation.target.index) == ("logits", said.class_index)
        assert explanation.score == pytest.approx(max(said.scores))
        tones, cells = array(explanation.tones), array(explanation.cells)
        assert cells.shape == values.shape
        np.testing.assert_allclose(tones, cells.sum(axis=1), rtol=1e-5, atol=1e-6)
        strongest = sorted(range(56), key=lambda row: -abs(tones[row]))[:5]
        assert [tone.row for tone in explanation.top] == strongest
        assert [tone.attribution for tone in explanation.top] == [tones[row] for row in strongest]
        assert explanation.tone_layout == "ruview56"
        assert abs(explanation.convergence_delta) < 1e-2
        assert explanation.null_tone_share > 0.01
        assert "NULL_TONE_SHARE" in [warning.code for warning in explanation.warnings]
        assert len(explanation.model_digest) == 64
        assert explanation.method.name == "integrated_gradients"
        assert explanation.method.parameters["n_steps"] == 8
        assert explanation.rule_set == "standard"
        assert explanation.normalisation == "none"
        assert explanation.queue_ms >= 0
        assert explanation.compute_ms > 0
        assert explanation.evaluations >= 8


def test_a_class_that_was_never_trained_is_flagged_and_no_other(channel: grpc.Channel) -> None:
    many = np.random.default_rng(1).normal(size=(60, 56, 4))
    explanations = attribution(channel).Explain(explain_request(many)).explanations
    assert {each.prediction.class_index for each in explanations} == {0, 1, 2}
    for each in explanations:
        never = each.prediction.class_index == 2
        assert each.prediction.class_never_trained is never
        assert ("CLASS_NEVER_TRAINED" in [warning.code for warning in each.warnings]) is never


def test_a_result_is_reproduced_from_itself(channel: grpc.Channel) -> None:
    first = attribution(channel).Explain(explain_request(BATCH[:1], options(method="integrated_gradients", n_steps=16)))
    told = first.explanations[0]
    again = attribution_pb2.ExplainOptions(
        model=model_pb2.ModelRef(name="tiny"), target=told.target, method=told.method
    )
    second = attribution(channel).Explain(explain_request(BATCH[:1], again))
    assert second.explanations[0].tones.data == told.tones.data
    assert second.explanations[0].method == told.method


def test_no_share_on_null_tones_is_claimed_where_no_tone_is_known_to_be_null(channel: grpc.Channel) -> None:
    responses = live(channel, opening(tone_layout="unknown_56"), windows(BATCH[:1]))
    assert of_kind(responses, "opened")[0].tone_table.id == "unknown_56"
    assert not explained(responses)[0].HasField("null_tone_share")
    assert explained(responses)[0].tone_layout == "unknown_56"


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "subcarrier_saliency", "occlusion"])
def test_every_method_answers(channel: grpc.Channel, method: str) -> None:
    response = attribution(channel).Explain(explain_request(BATCH[:2], options(method=method)))
    for explanation in response.explanations:
        assert not explanation.HasField("problem")
        assert explanation.method.name == method
        assert np.abs(array(explanation.tones)).sum() > 0


# -- refusals --------------------------------------------------------------------------------------------------------


def _asked(**fields: Any) -> attribution_pb2.ExplainOptions:
    asked = options(fields.pop("model", "tiny"), fields.pop("method", ""), **fields.pop("parameters", {}))
    if "version" in fields:
        asked.model.version = fields["version"]
    if "target" in fields:
        asked.target.CopyFrom(fields["target"])
    return asked


def _integrated(**parameters: Any) -> attribution_pb2.ExplainOptions:
    return _asked(method="integrated_gradients", parameters=parameters)


Target = attribution_pb2.Target
REFUSED = [
    (_asked(model="nobody"), "NOT_FOUND", "UNKNOWN_MODEL", "tiny"),
    (_asked(version="9"), "NOT_FOUND", "UNKNOWN_MODEL", "9"),
    (_asked(model="../tiny"), "INVALID_ARGUMENT", "PATH_LEAVES_STORE", "../tiny"),
    (_asked(model="/etc/passwd"), "INVALID_ARGUMENT", "PATH_LEAVES_STORE", "/etc/passwd"),
    (_asked(version=".."), "INVALID_ARGUMENT", "PATH_LEAVES_STORE", ".."),
    (_asked(model="broken"), "FAILED_PRECONDITION", "NOT_ONNX", "model.onnx"),
    (_asked(model="ruleless"), "UNIMPLEMENTED", "UNSUPPORTED_OPERATOR", "occlusion"),
    (_asked(method="magic"), "NOT_FOUND", "UNKNOWN_METHOD", "saliency"),
    (_integrated(steps=3), "INVALID_ARGUMENT", "INVALID_PARAMETER", "steps"),
    (_integrated(n_steps=0), "INVALID_ARGUMENT", "INVALID_PARAMETER", "n_steps"),
    (_integrated(n_steps="x"), "INVALID_ARGUMENT", "INVALID_PARAMETER", "n_steps"),
    (_asked(target=Target(index=3)), "INVALID_ARGUMENT", "INVALID_TARGET", "0 to 2"),
    (_asked(target=Target(index=-1)), "INVALID_ARGUMENT", "INVALID_TARGET", "-1"),
    (_asked(target=Target(class_name="three")), "INVALID_ARGUMENT", "INVALID_TARGET", "empty, one, two"),
    (_asked(target=Target(output="nope")), "INVALID_ARGUMENT", "INVALID_TARGET", "logits"),
    (_asked(target=Target(position=Target.Position(indices=[0, 0]))), "INVALID_ARGUMENT", "INVALID_TARGET", ""),
    (_asked(target=Target(difference=Target.Difference())), "INVALID_ARGUMENT", "INVALID_TARGET", "plus"),
]


@pytest.mark.parametrize(
    ("asked", "code", "reason", "says"), REFUSED, ids=[f"{r[2]}-{i}" for i, r in enumerate(REFUSED)]
)
def test_a_request_that_cannot_work_is_refused_with_its_reason_in_both_calls(
    channel: grpc.Channel, asked: attribution_pb2.ExplainOptions, code: str, reason: str, says: str
) -> None:
    for call in (
        lambda: attribution(channel).Explain(explain_request(asked=asked)),
        lambda: live(channel, opening(asked)),
    ):
        got, why, message = refusal(call)
        assert (got.name, why) == (code, reason), message
        assert says in message


@pytest.mark.parametrize(
    ("request_", "reason", "says"),
    [
        (opening(tone_layout="esp_martian"), "UNKNOWN_TONE_LAYOUT", "ruview56"),
        (opening(tone_layout="esp128"), "WRONG_SHAPE", "56"),
        (opening(windowing=csi_pb2.Windowing(window_frames=5)), "WRONG_SHAPE", "got 5"),
        (opening(normalisation=csi_pb2.NORMALISATION_RECORDING), "INVALID_PARAMETER", "statistics"),
        (opening(normalisation=csi_pb2.NORMALISATION_MANIFEST), "INVALID_PARAMETER", "mean"),
        (opening(latency_budget_ms=-3), "INVALID_INPUT", "-3"),
        (opening(resume_from=[live_pb2.NodeSequence(sequence=1)]), "PROTOCOL", "source_id"),
        (windows(BATCH[:1]), "PROTOCOL", "got windows"),
        (frames(), "PROTOCOL", "got frames"),
        (Request(), "PROTOCOL", "nothing in it"),
    ],
)
def test_a_stream_that_opens_wrongly_is_refused(
    channel: grpc.Channel, request_: Request, reason: str, says: str
) -> None:
    code, why, message = refusal(lambda: live(channel, request_))
    assert why == reason
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert says in message


def test_a_stream_that_says_nothing_at_all_is_refused(channel: grpc.Channel) -> None:
    code, reason, message = refusal(lambda: live(channel))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL")
    assert "the end of the stream" in message


def test_a_second_open_ends_the_stream_but_only_after_what_came_before_is_answered(
    channel: grpc.Channel,
) -> None:
    got: list[Response] = []

    def talk() -> None:
        for response in attribution(channel).Live(iter([opening(), windows(BATCH[:2]), opening()])):
            got.append(response)  # noqa: PERF402  what came before the error is wanted

    assert refusal(talk)[1] == "PROTOCOL"
    assert len(explained(got)) == 2


def bad_windows() -> list[tuple[csi_pb2.Window, str]]:
    nan, inf = BATCH[0].copy(), BATCH[0].copy()
    nan[3, 2], inf[0, 0] = np.nan, -np.inf
    short, mute = window(BATCH[0]), window(BATCH[0])
    short.values.data = short.values.data[:-1]
    mute.values.dtype = tensor_pb2.DATA_TYPE_UNSPECIFIED
    return [
        (window(nan), "NON_FINITE"),
        (window(inf), "NON_FINITE"),
        (window(BATCH[0].T), "WRONG_SHAPE"),
        (window(np.zeros((1, 114))), "WRONG_SHAPE"),
        (short, "WRONG_BYTE_LENGTH"),
        (mute, "WRONG_DTYPE"),
        (csi_pb2.Window(), "WRONG_DTYPE"),
    ]


@pytest.mark.parametrize(("bad", "reason"), bad_windows(), ids=[reason for _, reason in bad_windows()])
def test_a_bad_window_is_answered_with_its_own_problem_and_the_others_as_ever(
    channel: grpc.Channel, bad: csi_pb2.Window, reason: str
) -> None:
    bad.node_id, bad.last_sequence = 9, 77
    batch = [window(BATCH[0]), bad, window(BATCH[1])]
    request = attribution_service_pb2.ExplainRequest(options=options(), windows=batch)
    single = list(attribution(channel).Explain(request).explanations)
    stream = live(channel, opening(), Request(windows=live_pb2.WindowBatch(windows=batch)), windows(BATCH[2:3]))
    for explanations in (single, explained(stream)[:3]):
        assert [each.problem.reason for each in explanations] == ["", reason, ""]
        assert explanations[1].problem.grpc_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert "expected" in explanations[1].problem.message
        assert (explanations[1].node_id, explanations[1].last_sequence) == (9, 77)
        assert not explanations[1].HasField("prediction")
    assert len(explained(stream)) == 4
    assert of_kind(stream, "summary")[0].failed == 1


def test_undecodable_frames_are_rejected_by_name_and_the_stream_goes_on(channel: grpc.Channel) -> None:
    good = [csi_pb2.Frame(amplitude=tensor(np.arange(1, 57) + i), node_id=1, sequence=i) for i in range(4)]
    vitals = csi_pb2.Frame(raw=b"\x02\x00\x11\xc5" + bytes(28), format="adr018", node_id=1)
    garbage = csi_pb2.Frame(raw=b"\x00garbage\xff" * 9, format="adr018", node_id=1)
    short = csi_pb2.Frame(raw=(0xC5110001).to_bytes(4, "little"), format="adr018", node_id=1)
    long = csi_pb2.Frame(amplitude=tensor(np.ones(192)), node_id=2)
    stranger = csi_pb2.Frame(raw=b"?", format="morse", node_id=1)
    bad = [vitals, garbage, short, long, stranger]
    responses = live(channel, opening(), frames(*bad, *bad, *good))
    assert len(explained(responses)) == 1
    rejected = of_kind(responses, "rejected")
    assert {each.problem.reason for each in rejected} == {"WRONG_MAGIC", "SHORT_FRAME", "UNKNOWN_FORMAT"}
    assert any("vitals" in each.problem.message for each in rejected)
    summary = of_kind(responses, "summary")[0]
    assert (summary.frames_received, summary.frames_used) == (14, 4)
    assert sum(summary.frames_skipped.values()) == 10
    assert summary.frames_skipped["length_192"] == 2
    assert summary.frames_skipped["UNKNOWN_FORMAT"] == 2


# -- streams ---------------------------------------------------------------------------------------------------------


def test_opened_says_what_was_negotiated(channel: grpc.Channel) -> None:
    asked = options(method="integrated_gradients")
    opened = of_kind(live(channel, opening(asked, source_id="roof", queue_windows=3)), "opened")[0]
    assert (opened.model, opened.model_version, len(opened.model_digest)) == ("tiny", "1", 64)
    assert opened.stream_id.startswith("roof-")
    assert (opened.windowing.window_frames, opened.windowing.hop_frames) == (4, 2)
    assert opened.normalisation == csi_pb2.NORMALISATION_NONE
    assert opened.method.parameters["n_steps"] == 50
    assert opened.queue_windows == 3
    assert opened.overload_policy == live_pb2.OVERLOAD_POLICY_DROP_OLDEST
    assert tuple(opened.window_shape) == (56, 4)


def test_a_lone_window_is_answered_while_the_stream_stays_open(channel: grpc.Channel) -> None:
    talk = Conversation(channel, opening())
    for values in BATCH:
        talk.say(windows([values]))
        (explanation,) = talk.next("explanations").explanations.explanations
        np.testing.assert_array_equal(
            array(explanation.tones),
            array(attribution(channel).Explain(explain_request([values])).explanations[0].tones),
        )
    assert of_kind(talk.end(), "summary")[0].explained == len(BATCH)


def test_a_stream_keeps_running_statistics_per_node_and_numbers_its_windows(channel: grpc.Channel) -> None:
    responses = live(channel, opening(), windows(BATCH[:3], node=1), windows(BATCH, node=2))
    explanations = explained(responses)
    assert [each.window_index for each in explanations] == list(range(9))
    of_two = [each for each in explanations if each.node_id == 2]
    tones = np.stack([array(each.tones) for each in of_two])
    last = of_two[-1].running
    assert last.count == 6
    np.testing.assert_allclose(array(last.mean), tones.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(array(last.standard_error), tones.std(axis=0, ddof=1) / np.sqrt(6), rtol=1e-4, atol=1e-7)


def test_windows_that_come_faster_than_they_are_explained_are_dropped_and_said(channel: grpc.Channel) -> None:
    many = np.repeat(BATCH[:1], 50, axis=0)
    responses = live(channel, opening(queue_windows=5), windows(many))
    explanations, dropped = explained(responses), of_kind(responses, "dropped")
    assert [each.window_index for each in explanations] == list(range(45, 50))
    assert explanations[0].dropped_before == 45
    assert [(each.windows, each.total, each.cause) for each in dropped] == [(45, 45, "queue_full")]
    assert of_kind(responses, "summary")[0].dropped == 45


def test_under_back_pressure_nothing_is_dropped(channel: grpc.Channel) -> None:
    policy = live_pb2.OVERLOAD_POLICY_BACK_PRESSURE
    requests = [windows(np.repeat(BATCH, 5, axis=0)) for _ in range(20)]
    responses = live(channel, opening(queue_windows=4, overload_policy=policy), *requests)
    assert [each.window_index for each in explained(responses)] == list(range(600))
    assert not of_kind(responses, "dropped")


def test_a_stream_resumes_where_it_was_answered(channel: grpc.Channel) -> None:
    random = np.random.default_rng(8)
    sent = [csi_pb2.Frame(amplitude=tensor(random.uniform(1, 5, 56)), sequence=i) for i in range(16)]
    whole = explained(live(channel, opening(source_id="s"), frames(*sent)))
    done = whole[2]
    position = live_pb2.NodeSequence(sequence=done.last_sequence)
    again = opening(source_id="s", resume_from=[position])
    rest = explained(live(channel, again, frames(*sent[done.first_sequence :])))
    assert [(each.first_sequence, each.last_sequence) for each in rest] == [
        (each.first_sequence, each.last_sequence) for each in whole[3:]
    ]
    assert [each.tones.data for each in rest] == [each.tones.data for each in whole[3:]]


def test_one_callers_trouble_does_not_disturb_another_stream(channel: grpc.Channel) -> None:
    calm = Conversation(channel, opening())
    answers: list[attribution_pb2.Explanation] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            calm.say(windows(BATCH[:1]))
            answers.extend(calm.next("explanations").explanations.explanations)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    for asked, *_ in REFUSED:
        refusal(lambda asked=asked: live(channel, opening(asked)))  # type: ignore[misc]
    for bad, _ in bad_windows():
        live(channel, opening(), Request(windows=live_pb2.WindowBatch(windows=[bad])))
    stop.set()
    thread.join(30)
    summary = of_kind(calm.end(), "summary")[0]
    assert len(answers) > 5
    assert {each.tones.data for each in answers} == {answers[0].tones.data}
    assert (summary.failed, summary.dropped) == (0, 0)


# -- deadlines and cancellation --------------------------------------------------------------------------------------


class Endless(ProceduralMethod):
    """A method that goes on for ever, but for windows of zeros."""

    name = "endless"
    summary = "goes on for ever"

    def attribute(self, model: ModelAccess, windows: Windows, parameters: Parameters) -> Estimate:
        while windows.x.any():
            model.score(windows.x, np.arange(len(windows.x)))
        return Estimate(cells=np.zeros_like(windows.x))


@pytest.fixture
def with_endless(start_daemon: Any) -> Iterator[tuple[Any, grpc.Channel]]:
    """A daemon with one worker, and a method that keeps it for ever."""
    host = PluginHost.load()
    host.methods["endless"] = Endless()
    host._origins["methods", "endless"] = host.origin("methods", "occlusion")
    running = start_daemon(host, workers=1)
    with grpc.insecure_channel(running.address) as channel:
        yield running, channel


ZEROS = np.zeros((1, 56, 4), np.float32)


def worker_is_free(channel: grpc.Channel) -> bool:
    """Say whether the only worker answers: this method never runs anywhere else."""
    response = attribution(channel).Explain(explain_request(ZEROS, options(method="endless")), timeout=5)
    return not response.explanations[0].HasField("problem")


def test_a_deadline_ends_the_work_and_the_worker_is_free_again(with_endless: Any) -> None:
    _, channel = with_endless
    assert worker_is_free(channel)
    start = time.monotonic()
    with pytest.raises(grpc.RpcError) as raised:
        attribution(channel).Explain(explain_request(asked=options(method="endless")), timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert worker_is_free(channel)
    assert time.monotonic() - start < 3


def test_a_cancelled_call_ends_its_work(with_endless: Any) -> None:
    _, channel = with_endless
    call = attribution(channel).Explain.future(explain_request(asked=options(method="endless")))
    time.sleep(0.1)
    call.cancel()
    assert worker_is_free(channel)


def test_a_cancelled_stream_is_forgotten_and_its_work_ends(with_endless: Any) -> None:
    running, channel = with_endless
    talk = Conversation(channel, opening(options(method="endless")))
    assert not talk.opened.inline
    talk.say(windows(BATCH))
    time.sleep(0.1)
    assert running.daemon.totals.open_streams == 1
    talk.call.cancel()
    _until(lambda: running.daemon.totals.open_streams == 0)
    assert worker_is_free(channel)


def test_work_that_never_ends_does_not_keep_other_streams_waiting(with_endless: Any) -> None:
    _, channel = with_endless
    stuck = Conversation(channel, opening(options(method="endless")))
    stuck.say(windows(BATCH))
    assert len(explained(live(channel, opening(), windows(BATCH), timeout=5))) == len(BATCH)
    stuck.call.cancel()


def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_one_stream_too_many_is_refused_and_room_is_given_again(start_daemon: Any) -> None:
    running = start_daemon(max_streams=2)
    with grpc.insecure_channel(running.address) as channel:
        first, second = Conversation(channel, opening()), Conversation(channel, opening())
        code, reason, message = refusal(lambda: live(channel, opening()))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert "at most 2" in message
        first.end()
        _until(lambda: running.daemon.totals.open_streams == 1)
        Conversation(channel, opening()).end()
        second.end()


def test_a_message_beyond_the_bound_is_refused(start_daemon: Any) -> None:
    running = start_daemon(max_message_bytes=4096)
    with grpc.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            attribution(channel).Explain(explain_request(np.repeat(BATCH, 9, axis=0)))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        assert attribution(channel).Explain(explain_request()).explanations


# -- what nobody foresaw ---------------------------------------------------------------------------------------------


class Faulty:
    """A normaliser of a plugin with a bug in it."""

    name = "running"
    summary = ""

    def for_stream(self, *arguments: Any) -> Any:
        raise KeyError("a secret that must not leave")


def test_a_bug_becomes_internal_with_an_id_and_without_its_text(
    start_daemon: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    host = PluginHost.load()
    host.normalisers["running"] = Faulty()
    running = start_daemon(host, log_format="json")
    with grpc.insecure_channel(running.address) as channel:
        request = opening(normalisation=csi_pb2.NORMALISATION_RUNNING)
        code, reason, message = refusal(lambda: live(channel, request))
        assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in message
        assert len(live(channel, opening(), windows(BATCH[:1]))) > 1
    log = capfd.readouterr().err
    request_id = message.split()[-1]
    assert len(request_id) == 32
    assert [line for line in log.splitlines() if request_id in line and "secret" in line]
    assert log.count(request_id) == 1


# -- the other services ----------------------------------------------------------------------------------------------


def test_models_are_listed_with_why_one_cannot_be_used(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    models = {each.name: each for each in stub.ListModels(model_service_pb2.ListModelsRequest()).models}
    assert set(models) == {"tiny", "ruleless", "broken"}
    assert models["tiny"].state == model_pb2.MODEL_STATE_READY
    assert models["tiny"].description == "a tiny classifier"
    assert models["broken"].state == model_pb2.MODEL_STATE_FAILED
    assert "model.onnx" in models["broken"].failure


def test_a_model_tells_what_it_is_and_what_applies_to_it(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)

    def get(name: str) -> model_pb2.ModelDetail:
        request = model_service_pb2.GetModelRequest(model=model_pb2.ModelRef(name=name))
        return stub.GetModel(request).model

    tiny = get("tiny")
    assert (tiny.input.name, tuple(tiny.input.shape), tiny.input.dtype) == ("x", (-1, 56, 4), 1)
    assert list(tiny.outputs[0].class_names) == ["empty", "one", "two"]
    assert list(tiny.outputs[0].trained_classes) == [0, 1]
    assert {each.op_type for each in tiny.operators} == {"Flatten", "MatMul", "Relu"}
    assert all(each.applicable for each in tiny.methods)
    assert tiny.tone_table.id == "ruview56"
    assert "cell_order" in tiny.manifest_json
    assert "hidden" in [layer.name for layer in tiny.layers]
    why = {each.method: each.why_not for each in get("ruleless").methods}
    assert "Hardmax" in why["saliency"]
    assert why["occlusion"] == ""


def test_a_model_is_unloaded_and_loaded_while_a_stream_keeps_it(start_daemon: Any) -> None:
    with grpc.insecure_channel(start_daemon().address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        ref = model_pb2.ModelRef(name="tiny")
        talk = Conversation(channel, opening())
        watch = stub.WatchModels(model_service_pb2.WatchModelsRequest())
        states = ({m.name: m.state for m in each.models}["tiny"] for each in watch)
        assert next(states) == model_pb2.MODEL_STATE_READY
        unloaded = stub.UnloadModel(model_service_pb2.UnloadModelRequest(model=ref)).model
        assert unloaded.state == model_pb2.MODEL_STATE_UNLOADED
        assert next(states) == model_pb2.MODEL_STATE_UNLOADED
        talk.say(windows(BATCH[:1]))
        assert talk.next("explanations").explanations.explanations[0].model_digest == unloaded.digest
        loaded = stub.LoadModel(model_service_pb2.LoadModelRequest(model=ref)).model
        assert loaded.state == model_pb2.MODEL_STATE_READY
        assert next(states) == model_pb2.MODEL_STATE_READY
        watch.cancel()
        talk.end()


def test_methods_are_listed_with_their_parameters_as_json_schema(channel: grpc.Channel) -> None:
    stub = method_service_pb2_grpc.MethodServiceStub(channel)
    response = stub.ListMethods(method_service_pb2.ListMethodsRequest())
    methods = {each.name: each for each in response.methods}
    assert {"saliency", "input_x_gradient", "integrated_gradients", "occlusion", "subcarrier_saliency"} <= set(methods)
    assert '"n_steps"' in methods["integrated_gradients"].parameters_json_schema
    assert methods["integrated_gradients"].complete
    assert methods["occlusion"].requirement == method_service_pb2.REQUIREMENT_PREDICTIONS
    assert all(each.plugin and each.version and each.summary for each in methods.values())
    assert not response.failures


def test_health_and_reflection_name_every_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "tonescope.v1.AttributionService", "tonescope.v1.ModelService", "tonescope.v1.MethodService"):
        status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    names = {s.name for r in reflect.ServerReflectionInfo(iter([request])) for s in r.list_services_response.service}
    assert {"tonescope.v1.AttributionService", "grpc.health.v1.Health"} <= names


# -- draining --------------------------------------------------------------------------------------------------------


def test_draining_says_not_serving_then_tells_the_streams_then_ends_them(start_daemon: Any) -> None:
    running = start_daemon(drain_grace_s=10)
    with grpc.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        talk = Conversation(channel, opening())
        talk.say(windows(BATCH))
        talk.next("explanations")
        start = time.monotonic()
        stopping = running.begin_stop()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        rest = list(talk.call)
        assert [each.WhichOneof("message") for each in rest if each.WhichOneof("message") != "explanations"] == [
            "draining",
            "summary",
        ]
        assert rest[-2].draining.grace_ms == 10_000 or rest[0].draining.grace_ms == 10_000
        stopping.result(10)
        assert time.monotonic() - start < 3, "streams that end by themselves are not waited for"


def test_a_stream_that_does_not_end_is_ended_when_the_grace_is_over(start_daemon: Any) -> None:
    running = start_daemon(workers=1, queue_windows=100_000, max_message_bytes=64 << 20)
    with grpc.insecure_channel(running.address) as channel:
        talk = Conversation(channel, opening(options(method="integrated_gradients", n_steps=4096, rule="trapezoid")))
        for _ in range(3):
            talk.say(windows(np.repeat(BATCH, 1000, axis=0)))
        talk.next("explanations")
        start = time.monotonic()
        running.begin_stop(0.3).result(20)
        assert time.monotonic() - start < 5
        with pytest.raises(grpc.RpcError):
            list(itertools.islice(talk.call, 100_000))
