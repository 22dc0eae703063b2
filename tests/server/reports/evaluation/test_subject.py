"""What metrics are shown: features, scores and attributions of other points, and models with random layers."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.errors import MethodNotApplicableError, ParameterError
from tonescope_server.plugin import LayerOrder
from tonescope_server.reports.evaluation.subject import Features, Over, Subject
from tonescope_server.types import Target


def test_features_are_the_tones_that_carry_signal(tiny):
    model = tiny("complex").model
    nulls = np.flatnonzero(model.table.null_mask)
    assert len(nulls) > 0
    tones, cells = (Features.of(model, over) for over in Over)
    assert set(tones.chosen) == set(range(56)) - set(nulls)
    assert (np.isin(model.cells.tone_of_cell, nulls) == (tones.of_cell < 0)).all()
    assert (np.isin(model.cells.tone_of_cell, nulls) == (cells.of_cell < 0)).all()
    np.testing.assert_array_equal(tones.chosen[tones.of_cell[tones.of_cell >= 0]],
                                  model.cells.tone_of_cell[tones.of_cell >= 0])  # fmt: skip
    np.testing.assert_array_equal(cells.chosen, np.flatnonzero(cells.of_cell >= 0))


@pytest.mark.parametrize("over", Over)
def test_attribution_and_what_lies_elsewhere_add_up_to_all_of_it(tiny, windows, over):
    explainer = tiny("complex")
    x = windows(explainer)
    judged, found = Subject(explainer, x, over=over).judged("input_x_gradient", {})
    whole = found.cells.reshape(len(x), -1).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(judged.attribution.sum(axis=1) + judged.elsewhere, whole, rtol=1e-5)
    assert np.abs(judged.elsewhere).max() > 0


def test_removed_features_are_at_the_baseline_and_all_else_is_as_it_was(tiny, windows):
    explainer = tiny("scrambled")
    x = windows(explainer, 2)
    judged, _ = Subject(explainer, x).judged("saliency", {})
    removed = np.zeros((1, 10), bool)
    removed[0, 3] = True
    (made,) = judged.without(removed, np.array([1]))
    is_gone = (explainer.model.cells.tone_of_cell == 3).reshape(made.shape)
    np.testing.assert_array_equal(made[~is_gone], x[1][~is_gone])
    np.testing.assert_allclose(made[is_gone], 0.4)  # the manifest's baseline of that tone


def test_scores_of_any_points_are_of_the_class_that_their_window_was_explained_for(tiny, windows):
    explainer = tiny()
    x = windows(explainer, 12)
    classes = explainer.predict(x).class_index
    assert len(set(classes.tolist())) > 1
    judged, _ = Subject(explainer, x).judged("saliency", {})
    window = np.array([4, 4, 9, 0])
    points = np.zeros_like(x[:4])
    scores = explainer.predict(points).scores
    np.testing.assert_allclose(judged.score(points, window), scores[np.arange(4), classes[window]], rtol=1e-5)


@pytest.mark.parametrize("method", ["input_x_gradient", "occlusion"])
def test_attributions_of_any_points_are_those_of_that_class(tiny, windows, method):
    explainer = tiny()
    x = windows(explainer, 12)
    classes = explainer.predict(x).class_index
    subject = Subject(explainer, x)
    judged, _ = subject.judged(method, {})
    window = np.array([4, 9, 0])
    points = x[[1, 2, 3]] + 0.5
    wanted = explainer.explain(points, method, classes[window]).tones[:, subject.features.chosen]
    np.testing.assert_allclose(judged.attribute(points, window), wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(judged.attribute(x, judged.everyone), judged.attribution, rtol=1e-5, atol=1e-7)


def test_what_was_asked_before_is_not_asked_again(tiny, windows):
    explainer = tiny()
    x = windows(explainer, 2)
    subject = Subject(explainer, x)
    judged, _ = subject.judged("saliency", {})
    first = judged.score(x, judged.everyone)
    assert judged.score(x.copy(), judged.everyone.copy()) is first
    assert judged.score(x, judged.everyone[::-1]) is not first
    again, _ = subject.judged("input_x_gradient", {})
    assert again.score(x, judged.everyone) is first
    assert judged.attribute(x, judged.everyone) is not again.attribute(x, judged.everyone)
    assert judged.attribute(x, judged.everyone) is judged.attribute(x, judged.everyone)


def test_layers_are_randomised_one_after_the_other_from_either_end(tiny, windows):
    explainer = tiny()
    judged, _ = Subject(explainer, windows(explainer)).judged("input_x_gradient", {})
    up, down = (list(judged.randomised(order, 8, 0)) for order in (LayerOrder.BOTTOM_UP, LayerOrder.TOP_DOWN))
    assert [name for name, _ in up] == [name for name, _ in down][::-1]
    assert len(up) == 3
    found = [attribute(judged.x, judged.everyone) for _, attribute in (*up, *down)]
    np.testing.assert_allclose(found[2], found[5], rtol=1e-5)  # all random is all random
    assert all(not np.allclose(each, judged.attribution, rtol=1e-3) for each in found)
    assert not np.allclose(found[0], found[3], rtol=1e-3)


def test_few_steps_end_with_every_layer_random(tiny, windows):
    explainer = tiny()
    judged, _ = Subject(explainer, windows(explainer)).judged("saliency", {})
    (last,), every = (list(judged.randomised(LayerOrder.BOTTOM_UP, most, 0)) for most in (1, 8))
    np.testing.assert_array_equal(last[1](judged.x, judged.everyone), every[-1][1](judged.x, judged.everyone))


def test_a_method_without_cells_is_not_judged_over_cells(tiny, windows):
    explainer = tiny()
    with pytest.raises(MethodNotApplicableError, match="attributes tones, and no single cells"):
        Subject(explainer, windows(explainer), over=Over.CELLS).judged("subcarrier_saliency", {})


def test_planted_rows_must_carry_signal(tiny, windows):
    explainer = tiny("complex")
    null = int(np.flatnonzero(explainer.model.table.null_mask)[0])
    for row in (null, 56):
        with pytest.raises(ParameterError, match=f"carry signal, got {row}"):
            Subject(explainer, windows(explainer), planted=(3, row)).judged("saliency", {})


def test_a_regression_is_judged_by_its_mean(tiny, windows):
    explainer = tiny("mlp")
    x = windows(explainer)
    judged, _ = Subject(explainer, x, Target.mean((0, 2))).judged("saliency", {})
    wanted = explainer.predict(x).scores[:, [0, 2]].mean(axis=1)
    np.testing.assert_allclose(judged.score(x, judged.everyone), wanted, rtol=1e-5)
