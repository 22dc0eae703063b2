"""What changed from one window to the next: in a live stream, over the wire."""

from __future__ import annotations

import grpc
import numpy as np

from .messages import BATCH, array, explain_request, opening, options, windows
from .talk import attribution, explained, live

METHOD = {"method": "temporal_difference"}


def alone(explanation):
    return [warning.code for warning in explanation.warnings if warning.code == "NO_PREVIOUS_WINDOW"]


def test_each_node_of_a_stream_has_a_window_before_of_its_own(channel: grpc.Channel) -> None:
    one, two = BATCH[:3], BATCH[3:6]
    sent = [windows(values[None], node=node) for pair in zip(one, two, strict=True) for node, values in enumerate(pair)]
    answers = explained(live(channel, opening(options(**METHOD)), *sent))
    assert len(answers) == 6
    for node, values in enumerate((one, two)):
        mine = [each for each in answers if each.node_id == node]
        assert [bool(alone(each)) for each in mine] == [True, False, False]
        assert not array(mine[0].tones).any()
        for before, now, answer in zip(values, values[1:], mine[1:], strict=False):
            request = explain_request([now], options(**METHOD, previous=before.tolist()))
            (named,) = attribution(channel).Explain(request).explanations
            np.testing.assert_allclose(array(answer.tones), array(named.tones), rtol=1e-5, atol=1e-6)
            assert np.abs(array(answer.tones)).max() > 0


def test_windows_of_one_request_are_not_taken_to_follow_each_other(channel: grpc.Channel) -> None:
    answers = attribution(channel).Explain(explain_request(BATCH[:3], options(**METHOD))).explanations
    assert [alone(each) for each in answers] == [["NO_PREVIOUS_WINDOW"]] * 3
    assert not any(array(each.tones).any() for each in answers)


def test_a_baseline_goes_by_its_name(channel: grpc.Channel) -> None:
    asked = options(method="integrated_gradients", baseline="blurred", blur_frames=2)
    (answer,) = attribution(channel).Explain(explain_request(BATCH[:1], asked)).explanations
    zero = options(method="integrated_gradients", baseline="zero")
    (other,) = attribution(channel).Explain(explain_request(BATCH[:1], zero)).explanations
    assert answer.method.parameters["baseline"] == "blurred"
    assert np.abs(array(answer.tones) - array(other.tones)).max() > 0
