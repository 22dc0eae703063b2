"""Methods compared: every registered metric on methods of every kind, and what cannot be judged."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.errors import MethodNotApplicableError, NotFoundError, ParameterError, UnknownMethodError
from tonescope_server.plugin import Metric, Need
from tonescope_server.reports.evaluation.evaluation import Plan, evaluate, metrics_of, spread_over, work_of
from tonescope_server.reports.evaluation.subject import Over

QUICK = {"max_sensitivity": {"n": 2}, "parameter_randomisation": {"models": 1}, "infidelity": {"n": 10}}


def judged(explainer, x, *methods, **plan):
    return evaluate(explainer, x, Plan(methods, **plan))


@pytest.mark.parametrize("name", ["conv_1d", "conv_2d", "scrambled", "mlp", "attention", "complex"])
def test_every_metric_judges_methods_of_every_kind_on_every_tiny_model(tiny, windows, name):
    explainer = tiny(name)
    calls = []
    live = np.flatnonzero(~explainer.model.table.null_mask)[:3]
    plan = Plan(("integrated_gradients", "occlusion"), planted=tuple(live.tolist()), draws=2, parameters=QUICK)
    found = evaluate(explainer, windows(explainer, 3), plan, lambda: calls.append(1))
    assert [each.failed for each in found.methods] == [{}, {}]
    assert len(calls) == work_of(plan, explainer.host)
    for each in found.methods:
        assert set(each.judgements) == set(explainer.host.diagnostics)
        for judgement in each.judgements.values():
            assert judgement.values.shape == (3,)
            assert np.isfinite(judgement.values).all()
            assert np.isfinite(judgement.chance).all()
            assert judgement.chance.shape == (2,)


def test_the_same_request_has_the_same_answer(tiny, windows):
    explainer = tiny()
    x = windows(explainer, 3)
    first, again = (judged(explainer, x, "saliency", draws=3, parameters=QUICK) for _ in range(2))
    for name, judgement in first.methods[0].judgements.items():
        other = again.methods[0].judgements[name]
        np.testing.assert_array_equal(judgement.values, other.values)
        np.testing.assert_array_equal(judgement.chance, other.chance)


def test_what_is_said_of_a_window_does_not_depend_on_the_others(tiny, windows):
    explainer = tiny()
    x = windows(explainer, 4)
    together, alone = (
        judged(explainer, each, "input_x_gradient", draws=1, planted=(5, 9), parameters=QUICK) for each in (x, x[2:3])
    )
    for name, judgement in together.methods[0].judgements.items():
        # Kernels of ONNX Runtime differ in the last bits with the batch; squares and quotients of differences
        # (infidelity, sensitivity) make a few more of them.
        own = alone.methods[0].judgements[name].values
        np.testing.assert_allclose(own, judgement.values[2:3], rtol=1e-3, atol=1e-6, err_msg=name)


def test_other_seeds_draw_other_random_attributions_and_no_other_method(tiny, windows):
    explainer = tiny()
    x = windows(explainer, 3)
    one, two = (judged(explainer, x, "saliency", metrics=("sparseness",), seed=seed).methods[0] for seed in (0, 1))
    np.testing.assert_array_equal(one.judgements["sparseness"].values, two.judgements["sparseness"].values)
    assert (one.judgements["sparseness"].chance != two.judgements["sparseness"].chance).any()


def test_a_method_that_cannot_explain_the_model_is_told_and_the_others_go_on(tiny, windows):
    explainer = tiny()
    x = windows(explainer)
    calls = []
    plan = Plan(("attention_rollout", "saliency"), ("sparseness", "complexity"), draws=4)
    found = evaluate(explainer, x, plan, lambda: calls.append(1))
    assert [each.method for each in found.methods] == ["saliency"]
    assert re.search("no attention was found", found.refused["attention_rollout"])
    assert len(calls) == work_of(plan, explainer.host) == 20
    with pytest.raises(MethodNotApplicableError, match=r"nothing to judge .attention_rollout: .*no attention"):
        judged(explainer, x, "attention_rollout")


def test_a_metric_that_cannot_judge_a_method_is_told_and_the_others_go_on(tiny, windows):
    explainer = tiny()

    class Needy(Metric):
        name = "needy"
        summary = "Wants what no model has."

        def measure(self, judged, parameters):
            raise MethodNotApplicableError("the moon is not in its house")

    known = replace(explainer.host, diagnostics={**explainer.host.diagnostics, "needy": Needy()})
    found = judged(Explainer(explainer.model, known), windows(explainer), "saliency", metrics=("needy", "sparseness"))
    assert found.methods[0].failed == {"needy": "the moon is not in its house"}
    assert set(found.methods[0].judgements) == {"sparseness"}


def test_what_should_be_known_of_explanations_is_told_once_for_all_windows(tiny, windows):
    explainer = tiny()
    (found,) = judged(explainer, windows(explainer), "grad_cam", metrics=("sparseness",)).methods
    said = explainer.explain(windows(explainer), "grad_cam").warnings
    assert said
    assert {each.message for each in said if each.window is None} <= set(found.warnings)
    assert len(found.warnings) == len(set(found.warnings)) <= len(said)
    blank = [each for each in said if each.window is not None]
    assert all(text.startswith(f"in {len(blank)} of 5 windows: ") for text in found.warnings if "windows:" in text)


def test_over_cells_a_method_of_tones_is_refused_and_one_of_cells_is_judged_cell_by_cell(tiny, windows):
    explainer = tiny()
    found = judged(
        explainer,
        windows(explainer, 2),
        "subcarrier_saliency",
        "saliency",
        metrics=("deletion",),
        over=Over.CELLS,
        draws=1,
    )
    assert list(found.refused) == ["subcarrier_saliency"]
    assert found.n_features == (~explainer.model.table.null_mask).sum() * 6
    assert len(found.methods[0].judgements["deletion"].curves[0].at) == 65


def test_metrics_of_planted_truth_are_used_only_where_it_is_known(tiny):
    host = tiny().host
    planted = {name for name, metric in host.diagnostics.items() if Need.PLANTED_TRUTH in metric.needs}
    assert planted == {"relevance_mass", "relevance_rank_accuracy", "relevance_auc", "pointing_game"}
    assert set(metrics_of(Plan(("saliency",)), host)) == set(host.diagnostics) - planted
    assert set(metrics_of(Plan(("saliency",), planted=(1,)), host)) == set(host.diagnostics)
    with pytest.raises(ParameterError, match="'relevance_mass': expected to be told which tones are planted"):
        metrics_of(Plan(("saliency",), ("relevance_mass",)), host)


def test_a_plan_that_cannot_be_is_refused_before_any_work(tiny, windows):
    explainer = tiny()
    x = windows(explainer)
    with pytest.raises(UnknownMethodError, match="no method named 'salience'"):
        judged(explainer, x, "saliency", "salience")
    with pytest.raises(NotFoundError, match="no metric named 'gini'; there are completeness, "):
        judged(explainer, x, "saliency", metrics=("gini",))
    with pytest.raises(ParameterError, match="parameters of 'deletion': expected of a method or a metric"):
        judged(explainer, x, "saliency", metrics=("insertion",), parameters={"deletion": {"max_steps": 3}})
    with pytest.raises(ParameterError, match="method 'saliency' has no parameter 'n'"):
        judged(explainer, x, "saliency", parameters={"saliency": {"n": 3}})


def test_a_methods_parameters_reach_it(tiny, windows):
    explainer = tiny()
    found = judged(
        explainer,
        windows(explainer),
        "integrated_gradients",
        metrics=("completeness",),
        parameters={"integrated_gradients": {"n_steps": 3}},
        draws=1,
    )
    assert found.methods[0].parameters["n_steps"] == 3
    assert found.methods[0].evaluations == 3 + 2  # the ends, for the delta


def test_windows_are_spread_evenly_from_the_first_to_the_last():
    assert spread_over(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_over(3, 32).tolist() == [0, 1, 2]
    assert spread_over(5, 1).tolist() == [0]
