"""What an explanation holds, read off the wire."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tonescope.v1 import attribution_pb2, model_pb2

from .messages import BATCH, array, explain_request, opening, options, windows
from .talk import attribution, explained, live, of_kind


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
        assert each.prediction.HasField("class_never_trained")
        never = each.prediction.class_index == 2
        assert each.prediction.class_never_trained is never
        assert ("CLASS_NEVER_TRAINED" in [warning.code for warning in each.warnings]) is never


def test_what_the_manifest_does_not_say_of_training_is_not_answered(
    start_daemon: Any, tiny_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_store / "tiny", tmp_path / "store" / "tiny")
    manifest = tmp_path / "store" / "tiny" / "model.toml"
    manifest.write_text(manifest.read_text().replace("trained_classes = [0, 1]\n", ""))
    many = np.random.default_rng(1).normal(size=(60, 56, 4))
    with grpc.insecure_channel(start_daemon(store=tmp_path / "store").address) as channel:
        explanations = attribution(channel).Explain(explain_request(many)).explanations
    assert {each.prediction.class_index for each in explanations} == {0, 1, 2}
    assert not any(each.prediction.HasField("class_never_trained") for each in explanations)


def test_what_is_not_known_of_a_window_is_absent(channel: grpc.Channel) -> None:
    bad = explained(live(channel, opening(), windows([BATCH[0].T])))[0]
    assert not any(bad.HasField(name) for name in ("prediction", "score", "evaluations", "null_tone_share", "running"))
    nothing, something = explained(live(channel, opening(), windows([np.zeros((56, 4)), BATCH[0]])))
    assert not nothing.HasField("null_tone_share"), "an attribution of zero everywhere has no part on null tones"
    assert something.HasField("null_tone_share")
    assert not nothing.running.HasField("standard_error"), "one window alone has no standard error"
    assert something.running.HasField("standard_error")


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
