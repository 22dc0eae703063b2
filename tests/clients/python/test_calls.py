"""Whole requests: how a batch is cut, and what opens a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tonescope import Window
from tonescope.calls import explain_requests, one_source, opening
from tonescope.errors import InvalidInputError, ParameterError, ShapeError
from tonescope.v1 import attribution_service_pb2, csi_pb2, live_pb2


def requests(windows: Any, **more: Any) -> list[attribution_service_pb2.ExplainRequest]:
    asked = {
        "model": "m",
        "version": "",
        "method": "",
        "target": None,
        "parameters": {},
        "top_k": 0,
        "cells": False,
        "normalise": "",
        "statistics": (),
    }
    return list(explain_requests(windows, **{**asked, **more}))


def test_a_batch_is_cut_where_a_message_would_be_longer_than_a_mebibyte() -> None:
    cut = requests(np.zeros((600, 56, 20), dtype=np.float32), normalise="recording", statistics=[(np.ones(56),) * 2])
    assert [len(each.windows) for each in cut] == [234, 234, 132]
    assert [each.first_window_index for each in cut] == [0, 234, 468]
    assert max(each.ByteSize() for each in cut) < 1_100_000
    assert {each.options.model.name for each in cut} == {"m"}
    assert {each.normalisation for each in cut} == {csi_pb2.NORMALISATION_RECORDING}
    assert all(len(each.statistics) == 1 for each in cut)


def test_a_window_longer_than_that_goes_alone() -> None:
    assert [len(each.windows) for each in requests(np.zeros((2, 600_000), dtype=np.float32))] == [1, 1]


@pytest.mark.parametrize("bad", [np.zeros(5), np.float32(1) * np.ones(()), Window(np.zeros((2, 2)))])
def test_what_has_no_batch_axis_is_refused(bad: Any) -> None:
    with pytest.raises(ShapeError, match="batch axis"):
        requests(bad)


def test_no_window_at_all_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        requests(np.zeros((0, 56, 20), dtype=np.float32))


def test_a_stream_has_a_name_of_its_own_unless_it_is_given_one() -> None:
    assert opening(model="m").source_id != opening(model="m").source_id
    assert opening(model="m", source_id="kitchen").source_id == "kitchen"


def test_words_become_the_contracts_values() -> None:
    message = opening(model="m", normalise="running", overload="back_pressure", hop_frames=3)
    assert message.normalisation == csi_pb2.NORMALISATION_RUNNING
    assert message.overload_policy == live_pb2.OVERLOAD_POLICY_BACK_PRESSURE
    assert message.windowing.hop_frames == 3


@pytest.mark.parametrize(("name", "value"), [("normalise", "often"), ("overload", "panic")])
def test_a_word_that_is_not_known_is_named_with_those_that_are(name: str, value: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"expected one of .*got '{value}'"):
        opening(model="m", **{name: value})


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"top_k": -1}, "top_k: expected a whole number from 0 to 4294967295, got -1"),
        ({"top_k": 1.5}, "top_k: expected a whole number from 0 to 4294967295, got 1.5"),
        ({"hop_frames": 2**32}, "hop_frames: expected a whole number from 0 to 4294967295, got 4294967296"),
        ({"window_frames": "20"}, "window_frames: expected a whole number from 0 to 4294967295, got '20'"),
        ({"queue_windows": -1}, "queue_windows: expected a whole number from 0 to 4294967295, got -1"),
        ({"latency_budget_ms": "soon"}, "latency_budget_ms: expected a number, got 'soon'"),
        ({"cells": "some"}, "cells: expected True or False, got 'some'"),
        ({"tone_layout": 64}, "tone_layout: expected text, got 64"),
        ({"version": 1}, "model version: expected text, got 1"),
        ({"method": 1}, "method name: expected text, got 1"),
        ({"statistics": [(np.ones(3), "x")]}, "statistics: expected (mean, std[, node_id[, frame_length]]) of numbers"),
        ({"statistics": [(np.ones(3), np.ones(3), -1)]}, "statistics: node_id: expected a whole number from 0 to"),
        (
            {"statistics": [(np.ones(3), np.ones(3), 0, -1)]},
            "statistics: frame_length: expected a whole number from 0 to",
        ),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_named_in_one_line(option: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        opening(model="m", **option)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_option_of_a_stream_is_a_parameter_of_its_method_as_in_a_batch() -> None:
    for asked in (opening(model="m", n_steps=8), opening(model="m", parameters={"n_steps": 8})):
        assert dict(asked.options.method.parameters) == {"n_steps": 8}


def test_an_option_of_a_batch_is_checked_as_a_streams_is() -> None:
    with pytest.raises(ParameterError, match=r"^top_k: expected a whole number from 0 to 4294967295, got -1$"):
        requests(np.zeros((1, 4)), top_k=-1)


def test_frames_and_windows_together_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="got both"):
        one_source([], [])
