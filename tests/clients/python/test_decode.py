"""From messages to results: what is absent stays None, and a false that was said stays False."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope import decode
from tonescope.v1 import attribution_pb2, tensor_pb2

NOT_KNOWN = {
    "first_sequence",
    "last_sequence",
    "capture_time_ns",
    "score",
    "cells",
    "convergence_delta",
    "null_tone_share",
    "running",
    "evaluations",
    "standard_error",
    "problem",
    "declared_rows",
    "parts",
    "link",
    "batches",
    "units",
}


def tensor(*values: float) -> tensor_pb2.Tensor:
    data = np.array(values, "<f4")
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=data.shape, data=data.tobytes())


def test_an_empty_explanation_claims_nothing() -> None:
    explanation = decode.explanation(attribution_pb2.Explanation())
    assert {name for name in explanation.__slots__ if getattr(explanation, name) is None} == NOT_KNOWN
    said = explanation.prediction
    assert (said.class_index, said.probability, said.class_never_trained) == (None, None, None)


@pytest.mark.parametrize("said", [True, False])
def test_whether_a_class_was_never_trained_is_read_as_it_was_said(said: bool) -> None:
    message = attribution_pb2.Prediction(class_never_trained=said)
    assert decode.prediction(message).class_never_trained is said


def test_a_score_and_a_share_of_zero_are_zero() -> None:
    explanation = decode.explanation(attribution_pb2.Explanation(score=0.0, null_tone_share=0.0, evaluations=0))
    assert (explanation.score, explanation.null_tone_share, explanation.evaluations) == (0.0, 0.0, 0)


def test_one_window_alone_has_no_standard_error() -> None:
    message = attribution_pb2.Explanation(running=attribution_pb2.RunningStatistics(count=1, mean=tensor(1, 2)))
    running = decode.explanation(message).running
    assert running is not None
    assert running.standard_error is None
