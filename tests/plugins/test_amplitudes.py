"""Models that take the amplitude of I and Q: it has no gradient at zeros, where paths begin and null tones are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer, Target
from tonescope_server.errors import PluginError

TONES = 5
PATHS = ("integrated_gradients", "expected_gradients")  # both complete, or nearly
SAMPLED = ("smoothgrad", "smoothgrad_squared", "vargrad", "timing")


@pytest.fixture(scope="module")
def explainer(tmp_path_factory):
    weights = np.random.default_rng(3).standard_normal((TONES, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "axes"], ["power"], keepdims=0),
        helper.make_node("Sqrt", ["power"], ["amplitude"]),
        helper.make_node("MatMul", ["amplitude", "weights"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "amplitude",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, TONES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([1]), "axes"), numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path_factory.mktemp("amplitudes") / "amplitude.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return Explainer.load(path)


@pytest.fixture
def windows():
    return np.random.default_rng(1).standard_normal((3, 2, TONES)).astype(np.float32)


@pytest.mark.parametrize("method", PATHS)
def test_a_baseline_without_a_gradient_costs_the_path_nothing(explainer, windows, method):
    found = explainer.explain(windows, method, Target.element(0))
    # Along a straight line to zero an amplitude is linear: every point has the same gradient, and every sum is exact.
    np.testing.assert_allclose(found.cells.sum((1, 2)), explainer.score(windows, Target.element(0)), rtol=1e-5)


@pytest.mark.parametrize("method", [*PATHS, *SAMPLED])
def test_a_tone_of_zeros_spoils_no_cell(explainer, windows, method):
    windows[:, :, 2] = 0
    found = explainer.explain(windows, method, Target.element(0))
    assert np.isfinite(found.cells).all()
    assert np.isfinite(found.tones).all()
    assert found.standard_error is None or np.isfinite(found.standard_error).all()
    assert np.abs(found.cells[:, :, [0, 1, 3, 4]]).max() > 0
    if method in PATHS:
        assert not found.cells[:, :, 2].any()  # what does not change has no part in the change


def test_a_gradient_that_is_missing_where_it_counts_is_not_hidden(explainer, windows):
    """A path that begins in a window's own zeros has no gradient at a node that counts, with the trapezoid rule."""
    with pytest.raises(PluginError, match="'integrated_gradients': cells of window 0 are not finite"):
        explainer.explain(windows, "integrated_gradients", Target.element(0), rule="trapezoid")
