"""The blocking client's single calls, against a real daemon in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tonescope
from tonescope import errors
from tonescope_server import Explainer
from tonescope_server.demo import store_path


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "occlusion", "subcarrier_saliency"])
def test_explain_is_bit_for_bit_what_the_explainer_gives_in_process(
    client: tonescope.Client, tiny_store: Path, windows: np.ndarray, method: str
) -> None:
    here = Explainer.load("tiny", store=tiny_store).explain(windows, method=method, target=1)
    there = client.explain(windows, model="tiny", method=method, target=1, cells=True)
    assert there.tones.tobytes() == here.tones.tobytes()
    assert there.score.tobytes() == here.score.astype(np.float32).tobytes()
    if here.cells is not None:
        assert there.cells is not None
        assert there.cells.tobytes() == here.cells.tobytes()
    for each, scores in zip(there, here.prediction.scores, strict=True):
        assert each.prediction.scores.tobytes() == scores.tobytes()
        assert each.model_digest == here.model_digest


def test_a_result_names_its_tones_target_and_parameters(client: tonescope.Client, windows: np.ndarray) -> None:
    each = client.explain(windows, model="tiny", method="integrated_gradients", n_steps=8, top_k=3)[0]
    assert each.tone_table.id == "ruview56"
    assert each.tone_table.null_rows == (0, *range(27, 38))
    assert len(each.top) == 3
    assert each.top[0].tone is not None
    assert each.top[0].row == int(np.abs(each.tones).argmax())
    assert each.parameters["n_steps"] == 8
    assert each.target == {"output": "logits", "index": each.prediction.class_index}
    assert each.convergence_delta is not None
    assert each.prediction.class_name in ("empty", "one", "two")
    assert each.cells is None


def test_a_batch_too_long_for_one_message_is_answered_as_if_it_were_not(
    client: tonescope.Client, windows: np.ndarray
) -> None:
    many = np.tile(windows, (250, 1, 1))  # 1.3 MB
    found = client.explain(many, model="tiny")
    assert [each.window_index for each in found] == list(range(1500))
    np.testing.assert_array_equal(found.tones, np.tile(found.tones[:6], (250, 1)))


def test_a_bad_window_is_answered_by_its_own_problem_and_the_others_are_explained(
    client: tonescope.Client, windows: np.ndarray
) -> None:
    spoilt = windows.copy()
    spoilt[2, 3, 1] = np.nan
    found = client.explain(spoilt, model="tiny", raise_problems=False)
    assert [type(each.problem) for each in found] == [type(None)] * 2 + [errors.NonFiniteError] + [type(None)] * 3
    assert found.tones.shape == (5, 56)
    with pytest.raises(errors.NonFiniteError, match="finite"):
        client.explain(spoilt, model="tiny")


def test_models_and_methods_are_described(client: tonescope.Client) -> None:
    states = {model.name: model.state for model in client.models()}
    assert states == {"tiny": "ready", "ruleless": "ready", "broken": "failed"}
    detail = client.model("ruleless")
    assert detail.input.shape == (-1, 56, 4)
    (without_rule,) = [name for name, _, differentiable in detail.operators if not differentiable]
    assert detail.methods["occlusion"] == ""
    assert without_rule in detail.methods["saliency"]
    assert detail.outputs[0].trained_classes == (0, 1)
    methods = {method.name: method for method in client.methods()}
    assert methods["integrated_gradients"].complete
    assert "n_steps" in methods["integrated_gradients"].parameters["properties"]
    assert methods["occlusion"].requirement == "predictions"
    rule_sets = {rules.name: rules for rules in client.methods().rule_sets}
    assert {"standard", "guided_backprop", "deconvnet", "deep_lift", "lrp", "attn_lrp"} <= set(rule_sets)
    assert (rule_sets["deep_lift"].plugin, rule_sets["deep_lift"].reference) == ("deep_lift_rules", True)
    assert "1704.02685" in rule_sets["deep_lift"].source
    assert rule_sets["deep_lift"].version == methods["deep_lift"].version
    assert [name for name, rules in sorted(rule_sets.items()) if rules.relevance] == ["attn_lrp", "lrp"]


def test_what_biases_absorbed_of_the_relevance_is_reported(start_daemon) -> None:
    x = np.random.default_rng(5).standard_normal((3, 64, 20)).astype(np.float32)
    here = Explainer.load("people_count", store=store_path()).explain(x, method="lrp", target=1)
    assert here.convergence_delta is not None
    assert (np.abs(here.convergence_delta) > 1e-3 * np.abs(here.score)).all()  # it has biases
    with tonescope.Client(start_daemon(store=store_path()).address) as client:
        there = client.explain(x, model="people_count", method="lrp", target=1)
    np.testing.assert_array_equal([each.convergence_delta for each in there], here.convergence_delta)
    assert there[0].rule_set == "lrp"
