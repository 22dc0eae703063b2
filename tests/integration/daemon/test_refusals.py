"""Every refusal has its status, its reason and one line, and one bad window is its own affair alone."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from tonescope.v1 import attribution_pb2, attribution_service_pb2, csi_pb2, live_pb2

from .messages import BATCH, Request, Response, explain_request, frames, opening, options, tensor, window, windows
from .refused import REFUSED, bad_windows
from .talk import attribution, explained, live, of_kind, refusal


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
        (opening(default_format="zz"), "UNKNOWN_FORMAT", "'zz': unknown, expected one of adr018"),
        (opening(source_id="x" * 100_000), "INVALID_INPUT", "at most 200 printable characters, got 100000"),
        (opening(source_id="room\nlevel=error"), "INVALID_INPUT", "source_id: expected"),
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


def test_the_problem_of_a_window_says_which_window_of_the_batch_and_where_in_it(channel: grpc.Channel) -> None:
    values = BATCH.copy()
    values[2, 3, 1], values[4, 55, 0] = np.nan, -np.inf
    request = explain_request(values)
    request.windows[5].values.data = request.windows[5].values.data[:-1]
    request.first_window_index = 100
    single = attribution(channel).Explain(request).explanations
    assert {each.window_index: each.problem.message for each in single if each.problem.message} == {
        102: "window 102: input 'x': expected finite numbers, got nan at (3, 1)",
        104: "window 104: input 'x': expected finite numbers, got -inf at (55, 0)",
        105: "window 105: values: expected 896 bytes for (56, 4) float32, got 895",
    }
    stream = explained(live(channel, opening(), windows(BATCH[:1]), windows([values[0], values[2]])))
    assert [each.problem.message.partition(":")[0] for each in stream] == ["", "", "window 2"]


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
    assert {each.node_id for each in rejected} == {1}
    nameless = of_kind(live(channel, opening(), frames(csi_pb2.Frame(raw=b"?", format="adr018"))), "rejected")
    assert not nameless[0].HasField("node_id")
    summary = of_kind(responses, "summary")[0]
    assert (summary.frames_received, summary.frames_used) == (14, 4)
    kinds = {"vitals", "unknown_magic", "short", "length_192", "unknown_format"}
    assert summary.frames_skipped == dict.fromkeys(kinds, 2)


# The packets that share the port of ADR-018's CSI, with the sizes that are usual; 40 bytes where none is documented.
FOREIGN = {
    "vitals": (0xC5110002, 32),
    "feature": (0xC5110003, 48),
    "fused_vitals": (0xC5110004, 48),
    "compressed": (0xC5110005, 40),
    "feature_state": (0xC5110006, 60),
    "adr018_0007": (0xC5110007, 40),
    "sync": (0xC511A110, 32),
    "mesh": (0xC5118100, 40),
}


def test_refused_packets_are_counted_each_as_what_it_is_and_reported_before_the_end(channel: grpc.Channel) -> None:
    sent = {kind: magic.to_bytes(4, "little") + bytes(size - 4) for kind, (magic, size) in FOREIGN.items()}
    csi = (0xC5110001).to_bytes(4, "little")
    header = bytes([1, 1]) + (56).to_bytes(2, "little") + bytes(12)
    sent |= {
        "unknown_magic": b"garbage" * 20,
        "short": csi + header + bytes(111),
        "corrupt": csi + header + bytes(113),
    }
    packets = [csi_pb2.Frame(raw=raw, node_id=1) for number, raw in enumerate(sent.values(), 1) for _ in range(number)]
    responses = live(channel, opening(default_format="adr018"), frames(*packets))
    assert [each.WhichOneof("message") for each in responses] == ["opened", *["rejected"] * len(sent), "summary"]
    summary = responses[-1].summary
    assert summary.frames_skipped == {kind: number for number, kind in enumerate(sent, 1)}
    assert summary.frames_received == sum(summary.frames_skipped.values())
    said = {kind: each.rejected.problem.message for kind, each in zip(sent, responses[1:-1], strict=True)}
    assert all(kind in said[kind] for kind in FOREIGN)
