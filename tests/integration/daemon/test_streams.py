"""Live streams: what was negotiated, running statistics, drops, back pressure, resumption, isolation."""

from __future__ import annotations

import threading

import grpc
import numpy as np

from tonescope.v1 import attribution_pb2, csi_pb2, live_pb2

from .messages import BATCH, Request, array, explain_request, frames, opening, options, tensor, windows
from .refused import REFUSED, bad_windows
from .talk import Conversation, attribution, explained, live, of_kind, refusal


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
