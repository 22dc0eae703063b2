"""What is said of a method before it is asked is what it does when it is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tonescope_server import Explainer, Target
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import TonescopeError, UnsupportedOperatorError
from tonescope_server.plugin.api import GraphMethod, Requirement

# Methods that need a layer or attention lack these in the graphs below, whatever their operators; they are left out.
METHODS = {
    name: method
    for name, method in installed_plugins().methods.items()
    if method.requirement in (Requirement.PREDICTIONS, Requirement.GRADIENTS)
}
HOST = replace(installed_plugins(), methods=METHODS)
GRADIENTS = {name for name, method in METHODS.items() if method.requirement is Requirement.GRADIENTS}
MULTIPLIERS = {"deep_lift", "deep_shap"}
PATHS = {
    *("integrated_gradients", "expected_gradients", "temporal_difference", "timing"),
    *("smoothgrad", "smoothgrad_squared", "vargrad"),
}
RANDOM = np.random.default_rng(0)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


LSTM = {"W": floats(1, 16, 3), "R": floats(1, 16, 4), "P": floats(1, 12), "B": floats(1, 32)}
# By name: the body, the window's shape, the outputs' width, constants, the operator that is refused and by whom.
REFUSING = {
    "an index twice": ('y=Einsum<equation="bii->bi">(x)', (3, 3), 3, {}, "Einsum", GRADIENTS),
    "cropped and resized": (
        'r=Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(x, roi, scales) '
        "m=ReduceMean<keepdims=0>(r, axes) y=Tanh(m)",
        (2, 6),
        2,
        {"roi": np.array([0, 0, 0, 1, 1, 1], np.float32), "scales": np.array([1, 1, 2], np.float32), "axes": [2]},
        "Resize",
        GRADIENTS,
    ),
    "peepholes": (
        "s=Transpose<perm=[1,0,2]>(x) h,l=LSTM<hidden_size=4>(s,W,R,B,,,,P) y=Squeeze(l,zero)",
        (5, 3),
        4,
        {**LSTM, "zero": [0]},
        "LSTM",
        GRADIENTS,
    ),
    "the largest": ("y,places=TopK(x,k)", (6,), 3, {"k": [3]}, "TopK", MULTIPLIERS),
    "a product over two axes": (
        "y=ReduceProd<keepdims=0>(x,axes)",
        (2, 3, 4),
        2,
        {"axes": [2, 3]},
        "ReduceProd",
        MULTIPLIERS,
    ),
    "a condition of the input": (
        "m=ReduceMean<keepdims=0>(x) c=Greater(m,zero) y=If<then_branch=t () => (float[B,6] o1) { o1=Tanh(x) },"
        "else_branch=e () => (float[B,6] o2) { o2=Sigmoid(x) }>(c)",
        (6,),
        6,
        {"zero": np.float32(0)},
        "If",
        PATHS | MULTIPLIERS,
    ),
}


def explainer_of(folder, body, shape, width, constants):
    sizes = ",".join(map(str, shape))
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> g (float[batch,{sizes}] x) => (float[batch,{width}] y) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    return Explainer(Explainer.load(folder / "model.onnx").model, HOST)


@pytest.mark.parametrize("name", REFUSING)
def test_a_method_is_said_to_apply_exactly_where_it_runs(tmp_path, name):
    body, shape, width, constants, operator, refusing = REFUSING[name]
    explainer, x = explainer_of(tmp_path, body, shape, width, constants), floats(2, *shape)
    reasons = explainer.applicability()
    assert {method for method, why in reasons.items() if why} == refusing
    for method, why in reasons.items():
        if not why:
            assert np.isfinite(explainer.explain(x, method, 0).tones).all()
            continue
        assert f"operator {operator}" in why
        with pytest.raises(UnsupportedOperatorError) as caught:
            explainer.explain(x, method, None)
        works = sorted(set(reasons) - refusing)
        assert str(caught.value) == f"{why}; these methods still work: {', '.join(works)}"


@pytest.mark.parametrize("name", REFUSING)
def test_an_operator_is_counted_as_differentiable_where_its_gradient_can_be_taken(tmp_path, name):
    *model, operator, refusing = REFUSING[name]
    found = {op: can for op, _, can in explainer_of(tmp_path, *model).operators()}
    assert found.pop(operator) == ("saliency" not in refusing)
    assert all(found.values())


def test_what_lies_before_a_refused_operator_is_asked_too(tmp_path):
    body = 'h=Einsum<equation="biij->bij">(x) t=Tanh(h) a=Hardmax(t) y=Einsum<equation="bii->bi">(a)'
    found = {op: can for op, _, can in explainer_of(tmp_path, body, (3, 3, 3), 3, {}).operators()}
    assert found == {"Einsum": False, "Hardmax": False, "Tanh": True}
    alone = explainer_of(tmp_path, 'h=Einsum<equation="bii->bi">(x) y=Hardmax(h)', (3, 3), 3, {})
    assert {op for op, _, can in alone.operators() if not can} == {"Einsum", "Hardmax"}


def test_what_still_works_is_asked_for_the_target_that_was_refused(tmp_path):
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[batch,3] x) => (float[batch,3] soft, float[batch,3] hard)'
        "{ soft=Tanh(x) hard=Hardmax(x) }"
    )
    onnx.save(model, tmp_path / "model.onnx")
    explainer = Explainer(Explainer.load(tmp_path / "model.onnx").model, HOST)
    assert set(explainer.applicability().values()) == {""}
    works = ", ".join(sorted(set(METHODS) - GRADIENTS))
    with pytest.raises(UnsupportedOperatorError, match=f"these methods still work: {works}$"):
        explainer.explain(floats(1, 3), "saliency", Target.element(0, "hard"))


class Broken(GraphMethod):
    """A plugin's method that fails as plugins do."""

    name = "broken"
    summary = "Fails."

    def describe(self, tape, parameters):
        raise KeyError("nothing")


def test_a_method_that_fails_is_listed_with_its_fault_beside_those_that_work(tmp_path):
    model = explainer_of(tmp_path, "y=Tanh(x)", (6,), 6, {}).model
    explainer = Explainer(model, replace(HOST, methods={**METHODS, "broken": Broken()}))
    reasons = explainer.applicability()
    assert reasons["broken"] == "method 'broken' failed: KeyError: 'nothing'"
    assert {name for name, why in reasons.items() if why} == {"broken"}
    with pytest.raises(TonescopeError, match="method 'broken' failed"):
        explainer.explain(floats(1, 6), "broken", 0)
