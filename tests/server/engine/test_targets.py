"""What a user calls a target: every kind, on every output, and every wrong one by its message."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.engine.targets import as_target, resolve
from tonescope_server.errors import TargetError
from tonescope_server.testing import tiny_models, tiny_windows
from tonescope_server.types import Target, TargetKind

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32
B = 5
PER_WINDOW = np.array([0, 2, 1, 1, 0])


def log_softmax(y):
    return y - np.log(np.exp(y).sum(axis=1, keepdims=True))


def at(values, index):
    return values[np.arange(B), index]


# What each target is, of the two outputs of conv_1d: count (B, 3) and confidence (B, 1).
KINDS = {
    "default": (None, lambda c, f: c.max(axis=1)),
    "predicted": (Target.predicted(), lambda c, f: c.max(axis=1)),
    "predicted of an output": (Target.predicted("count"), lambda c, f: c.max(axis=1)),
    "index": (1, lambda c, f: c[:, 1]),
    "numpy index": (np.int64(1), lambda c, f: c[:, 1]),
    "array of no axes": (np.array(1), lambda c, f: c[:, 1]),
    "position": ((2,), lambda c, f: c[:, 2]),
    "class name": ("many", lambda c, f: c[:, 2]),
    "index per window": (PER_WINDOW, lambda c, f: at(c, PER_WINDOW)),
    "small integers per window": (PER_WINDOW.astype(np.int8), lambda c, f: at(c, PER_WINDOW)),
    "element of the second output": (Target.element(0, "confidence"), lambda c, f: f[:, 0]),
    "mean": (Target.mean(), lambda c, f: c.mean(axis=1)),
    "mean of some": (Target.mean([0, 2]), lambda c, f: (c[:, 0] + c[:, 2]) / 2),
    "mean of one twice": (Target.mean([0, 0, 2]), lambda c, f: (2 * c[:, 0] + c[:, 2]) / 3),
    "sum": (Target.sum(), lambda c, f: c.sum(axis=1)),
    "sum of some": (Target.sum(np.array([1, 2])), lambda c, f: c[:, 1] + c[:, 2]),
    "log p": (Target.log_probability(1), lambda c, f: log_softmax(c)[:, 1]),
    "log p of a name": (Target.log_probability("one"), lambda c, f: log_softmax(c)[:, 1]),
    "log p of the prediction": (Target.log_probability(), lambda c, f: log_softmax(c).max(axis=1)),
    "-log p": (Target.negative_log_likelihood(2), lambda c, f: -log_softmax(c)[:, 2]),
    "-log p per window": (Target.negative_log_likelihood(PER_WINDOW), lambda c, f: -at(log_softmax(c), PER_WINDOW)),
    "-log p of the prediction": (Target.negative_log_likelihood(), lambda c, f: -log_softmax(c).max(axis=1)),
    "difference": (Target.difference(Target.element(0), Target.element("many")), lambda c, f: c[:, 0] - c[:, 2]),
    "difference across outputs": (
        Target.difference(Target.element(1, "count"), Target.element(0, "confidence")),
        lambda c, f: c[:, 1] - f[:, 0],
    ),
    "difference of a prediction and one per window": (
        Target.difference(Target.predicted(), Target.element(PER_WINDOW)),
        lambda c, f: c.max(axis=1) - at(c, PER_WINDOW),
    ),
    "difference of likelihoods": (
        Target.difference(Target.log_probability(), Target.negative_log_likelihood(0)),
        lambda c, f: log_softmax(c).max(axis=1) + log_softmax(c)[:, 0],
    ),
    "difference of differences": (
        Target.difference(
            Target.difference(Target.predicted(), Target.element(0)),
            Target.difference(Target.element(1), Target.predicted()),
        ),
        lambda c, f: 2 * c.max(axis=1) - c[:, 0] - c[:, 1],
    ),
    "difference with itself": (
        Target.difference(Target.predicted(), Target.predicted()),
        lambda c, f: np.zeros(B, np.float32),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_target_is_what_it_says(explainers, name):
    target, formula = KINDS[name]
    explainer, x = explainers["conv_1d"], tiny_windows(tiny_models()["conv_1d"])
    outputs = explainer.predict(x).outputs
    want = formula(outputs["count"], outputs["confidence"])
    np.testing.assert_allclose(explainer.score(x, target), want, **CLOSE)


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_of_a_target_is_the_targets_own(explainers, name):
    """By the input: central differences of the score, along one random direction per window."""
    target, _ = KINDS[name]
    explainer, x = explainers["conv_1d"], tiny_windows(tiny_models()["conv_1d"])
    direction = tiny_windows(tiny_models()["conv_1d"], seed=9) / 20
    # A step of 1e-2 in float32: rounding of 1e-7 / 1e-2; the nets are piecewise smooth, and kinks this close are rare.
    up, down = (explainer.score(x + s * 1e-2 * direction, _settled(explainer, x, target)) for s in (1, -1))
    numeric = (up - down).astype(np.float64) / 2e-2
    analytic = (explainer.gradient(x, target) * direction).reshape(B, -1).sum(axis=1)
    np.testing.assert_allclose(analytic, numeric, atol=2e-3 * max(np.abs(numeric).max(), 0.1))


def _settled(explainer, x, target):
    return explainer.explain(x, "saliency", target).target


def test_a_regression_defaults_to_the_mean_of_its_elements(explainers):
    explainer, x = explainers["mlp"], tiny_windows(tiny_models()["mlp"])
    np.testing.assert_allclose(explainer.score(x), explainer.predict(x).outputs["keypoints"].mean(axis=1), **CLOSE)
    assert as_target(None, tiny_models()["mlp"]).kind is TargetKind.MEAN


def test_a_result_carries_its_target_with_the_classes_filled_in(explainers):
    explainer, x = explainers["conv_1d"], tiny_windows(tiny_models()["conv_1d"])
    result = explainer.explain(x, "saliency")
    assert (result.target.kind, result.target.output) == (TargetKind.ELEMENT, "count")
    np.testing.assert_array_equal(result.target.index, result.prediction.class_index)
    again = explainer.explain(x, "saliency", result.target)
    np.testing.assert_array_equal(again.tones, result.tones)


@pytest.mark.parametrize("method", ["saliency", "occlusion"])
def test_predictions_are_filled_in_on_both_sides_of_a_difference(explainers, method):
    target = Target.difference(Target.predicted(), Target.negative_log_likelihood())
    result = explainers["conv_1d"].explain(tiny_windows(tiny_models()["conv_1d"]), method, target)
    for side, kind in (
        (result.target.plus, TargetKind.ELEMENT),
        (result.target.minus, TargetKind.NEGATIVE_LOG_LIKELIHOOD),
    ):
        assert (side.kind, side.output) == (kind, "count")
        np.testing.assert_array_equal(side.index, result.prediction.class_index)


def test_targets_of_one_kind_share_a_compiled_graph():
    model = tiny_models()["conv_1d"]
    seeds = {resolve(Target.element(i), model).seed for i in (0, 1, "many")} | {resolve(Target.mean(), model).seed}
    assert len(seeds) == 1
    assert resolve(Target.predicted(), model).seed not in seeds
    assert resolve(Target.log_probability(0), model).seed not in seeds


WRONG = {
    "index too large": (3, r"target: output 'count': expected an index from 0 to 2, got 3"),
    "index far too large": (2**70, r"output 'count': expected an index from 0 to 2, got 1180591620717411303424"),
    "negative index": (-1, r"output 'count': expected an index from 0 to 2, got -1"),
    "one of several": (np.array([0, 1, 2, 3, 0]), r"output 'count': expected an index from 0 to 2, got 3"),
    "too few per window": (np.array([0, 1]), r"expected one index for each of 5 windows, got 2"),
    "none per window": (np.array([], np.int64), r"expected one index for each of 5 windows, got 0"),
    "floats per window": (np.zeros(B), r"expected integers, one per window; got float64 of shape \(5,\)"),
    "booleans per window": (np.zeros(B, bool), r"expected integers, one per window; got bool"),
    "a table": (np.zeros((B, 1), int), r"expected integers, one per window; got int64 of shape \(5, 1\)"),
    "list": ([0, 1], r"target: expected an index, a class name or a Target, got list"),
    "float": (1.5, r"target: expected an index, a class name or a Target, got float"),
    "bool": (True, r"target: expected an index, a class name or a Target, got bool"),
    "unknown class": ("three", r"output 'count' has no class 'three'; its classes are none, one, many"),
    "unnamed classes": (
        Target.element("on", "confidence"),
        r"output 'confidence' has no class 'on'; none of its classes has a name: give an index",
    ),
    "unknown output": (Target.element(0, "counts"), r"has no output 'counts'; it has count, confidence"),
    "position too long": ((0, 0), r"output 'count': expected a position in \(3,\), got \(0, 0\)"),
    "position outside": ((3,), r"output 'count': expected a position in \(3,\), got \(3,\)"),
    "position of text": (("one",), r"output 'count': expected a position in \(3,\), got \('one',\)"),
    "position of floats": ((0.5,), r"output 'count': expected a position in \(3,\), got \(0.5,\)"),
    "element of nothing": (Target.element(None), r"output 'count': an element needs an index"),
    "element of a float": (Target.element(1.7), r"expected an index, a position or a class name, got float"),
    "element of a bool": (Target.element(True), r"expected an index, a position or a class name, got bool"),
    "element of bytes": (Target.element(b"one"), r"expected an index, a position or a class name, got bytes"),
    "element of a table": (
        Target.element(np.zeros((1, B), int)),
        r"expected an index, a position or a class name, got int64 of shape \(1, 5\)",
    ),
    "mean outside": (Target.mean([0, 3]), r"mean of 'count': expected indices from 0 to 2, got 3"),
    "mean of nothing": (Target.mean([]), r"mean of 'count': expected indices, got \[\]"),
    "mean of text": (Target.mean("one"), r"mean of 'count': expected indices, got 'one'"),
    "sum of floats": (Target.sum([0.5]), r"sum of 'count': expected indices, got \[0.5\]"),
    "sum of lists": (Target.sum([[0], [1]]), r"sum of 'count': expected indices, got \[\[0\], \[1\]\]"),
    "difference of one": (Target(TargetKind.DIFFERENCE, plus=Target.element(0)), r"needs both 'plus' and 'minus'"),
    "wrong inside a difference": (
        Target.difference(Target.element(0), Target.element(9)),
        r"output 'count': expected an index from 0 to 2, got 9",
    ),
    "predicted regression": (
        Target.predicted("confidence"),
        r"output 'confidence' is a regression and predicts no class; name an element, or a mean",
    ),
    "likelihood of a regression's prediction": (
        Target.log_probability(output="confidence"),
        r"output 'confidence' is a regression and predicts no class",
    ),
}


@pytest.mark.parametrize("method", ["saliency", "occlusion"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_target_is_refused_in_one_line(explainers, name, method):
    target, message = WRONG[name]
    with pytest.raises(TargetError, match=message) as caught:
        explainers["conv_1d"].explain(tiny_windows(tiny_models()["conv_1d"]), method, target)
    assert "\n" not in str(caught.value)
