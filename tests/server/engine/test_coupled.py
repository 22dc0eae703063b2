"""Models that couple the windows of a batch, or take one at a time: each window is explained alone, or not at all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer, Target
from tonescope_server.engine.jacobian import FOLDED_WINDOWS
from tonescope_server.errors import MethodNotApplicableError

WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
CLASS = Target.element(0)
# What puts points of its own into a batch of the graph …
ON_A_PATH = ("integrated_gradients", "smoothgrad", "expected_gradients")
# … and what asks for points one by one, or evaluates each window beside none but its reference.
OF_ONE_WINDOW = ("occlusion", "shapley_exact", "deep_lift", "input_x_gradient")


@pytest.fixture(scope="module", params=["batch", 1])
def explainer(request, tmp_path_factory):
    """Explain ``y = (x · Σ x over the batch) @ w``: of a window alone, the squares of its cells by weights."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
        helper.make_node("Mul", ["x", "total"], ["product"]),
        helper.make_node("MatMul", ["product", "w"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [request.param, s]) for n, s in (("x", 4), ("y", 3))]
    constants = [numpy_helper.from_array(v, n) for n, v in {"axes": np.int64([0]), "w": WEIGHT}.items()]
    graph = helper.make_graph(nodes, "coupled", info[:1], info[1:], constants)
    path = tmp_path_factory.mktemp("coupled") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return Explainer.load(path)


def windows(count):
    return np.random.default_rng(1).standard_normal((count, 4)).astype(np.float32)


def test_the_model_wants_its_windows_alone(explainer):
    assert explainer.model.wants_windows_alone
    assert explainer.model.is_coupled is (explainer.model.input.shape[0] != 1)


@pytest.mark.parametrize("method", ON_A_PATH)
def test_methods_that_put_points_into_one_batch_are_refused_by_name(explainer, method):
    with pytest.raises(MethodNotApplicableError, match="points of a path would be one batch"):
        explainer.explain(windows(1), method, CLASS)
    assert "points of a path would be one batch" in explainer.applicability()[method]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("method", OF_ONE_WINDOW)
def test_other_methods_explain_each_window_as_if_it_had_come_alone(explainer, method, count):
    x = windows(count)
    found = explainer.explain(x, method, CLASS)
    alone = x * x @ WEIGHT
    np.testing.assert_allclose(found.score, alone[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(explainer.score(x, CLASS), found.score)
    np.testing.assert_allclose(found.prediction.scores, alone, rtol=1e-5, atol=1e-6)
    factor = 2.0 if method == "input_x_gradient" else 1.0
    np.testing.assert_allclose(found.cells, factor * x * x * WEIGHT[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, FOLDED_WINDOWS, FOLDED_WINDOWS + 1])
def test_targets_of_a_jacobian_are_not_mixed_through_the_batch(explainer, count):
    count = 1 if explainer.model.input.shape[0] == 1 else count
    x = windows(count)
    want = np.stack([explainer.gradient(x, k) for k in range(3)])
    np.testing.assert_allclose(explainer.jacobian(x), want, atol=1e-6 * np.abs(want).max())
