"""Class activation maps against slow replicas of their papers, on activations of ONNX's reference implementation."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import MethodNotApplicableError, UnknownTensorError
from tonescope_server.testing import tiny_models, tiny_windows

SOURCE = Path(__file__).resolve().parents[1] / "families.py"
SPEC = importlib.util.spec_from_file_location("tonescope_test_families", SOURCE)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

METHODS = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam")
# Maps are float32 sums over some ten channels of products; relative to the largest value that is a few units of 1e-7.
ROUNDING = 1e-5


def saved(proto, path):
    onnx.save(proto, path / "m.onnx")
    return Explainer.load(path / "m.onnx")


def windows(explainer, count=3, seed=5):
    shape = explainer.model.input.shape[1:]
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def activation(proto, x, name):
    """A value inside the model, as ONNX's reference implementation computes it."""
    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    del opened.graph.output[:]
    opened.graph.output.append(helper.make_empty_tensor_value_info(name))
    return ReferenceEvaluator(opened).run([name], {"x": x})[0].astype(np.float64)


def replica(method, a, g, *, relu=True):
    """One window's map, place by place, as the papers write it: ``(channels, *grid)`` twice → ``(*grid)``."""
    found = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = 0.0
        for place in np.ndindex(*a.shape[1:]):
            slope = g[k][place]
            if method == "grad_cam":
                weight += slope / g[k].size
            elif method == "grad_cam_plus_plus":
                below = 2 * slope**2 + a[k].sum() * slope**3
                weight += (slope**2 / below if below else 0.0) * max(slope, 0.0)
        for place in np.ndindex(*a.shape[1:]):
            own = {"layer_cam": max(g[k][place], 0.0), "hires_cam": g[k][place]}.get(method, weight)
            found[place] += own * a[k][place]
    return np.maximum(found, 0) if relu else found


def stretched(cam, axis, size):
    """Linear interpolation between the centres of places, which stays level beyond the outermost two."""
    old = cam.shape[axis]
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    return np.apply_along_axis(lambda row: np.interp(centres, np.arange(old), row), axis, cam)


def replicas(method, proto, explainer, x, layer, **how):
    a, g = activation(proto, x, layer), explainer.gradient(x, at=layer).astype(np.float64)
    return np.stack([replica(method, each, slope, **how) for each, slope in zip(a, g, strict=True)])


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_map_over_frames_is_the_papers_and_is_held_over_all_tones(method, relu, tmp_path):
    proto = families.count_net()
    explainer = saved(proto, tmp_path)
    x = windows(explainer)
    layer = [node for node in proto.graph.node if node.op_type == "Conv"][-1].output[0]
    result = explainer.explain(x, method, relu=relu)
    expected = replicas(method, proto, explainer, x, layer, relu=relu)
    close(result.maps["cam"], expected)
    close(result.cells, np.repeat(expected[:, None], x.shape[1], axis=1))
    close(result.tones, np.repeat(expected.sum(axis=1)[:, None], x.shape[1], axis=1))


@pytest.mark.parametrize("method", METHODS)
def test_a_map_of_an_image_is_the_papers_and_is_interpolated_linearly(method, tmp_path):
    proto = families.lenet()
    explainer = saved(proto, tmp_path)
    x = windows(explainer)
    pool = next(node for node in proto.graph.node if node.op_type == "AveragePool")
    result = explainer.explain(x, method, 2, layer=pool.name, relu=False)
    a, g = activation(proto, x, pool.output[0]), explainer.gradient(x, 2, at=pool.output[0]).astype(np.float64)
    expected = np.stack([replica(method, each, slope, relu=False) for each, slope in zip(a, g, strict=True)])
    assert expected.shape == (3, 4, 4)
    close(result.maps["cam"], expected)
    close(result.cells[:, 0], stretched(stretched(expected, 1, 16), 2, 16))


def test_grad_cam_plus_plus_does_not_underflow_where_gradients_are_small(tmp_path):
    """With gradients of 1e-21 their squares are zero in float32; α is one half, to rounding."""
    proto = families.count_net()
    head = next(t for t in proto.graph.initializer if t.name == "head.weight")
    tiny = onnx.numpy_helper.to_array(head) * np.float32(1e-20)
    head.CopyFrom(onnx.numpy_helper.from_array(tiny, head.name))
    explainer = saved(proto, tmp_path)
    x = windows(explainer)
    layer = [node for node in proto.graph.node if node.op_type == "Conv"][-1].output[0]
    close(explainer.explain(x, "grad_cam_plus_plus").maps["cam"] * 1e20,
          replicas("grad_cam_plus_plus", proto, explainer, x, layer) * 1e20)  # fmt: skip


def test_a_place_without_gradient_has_no_weight_in_grad_cam_plus_plus(tmp_path):
    """A maximum passes a gradient to one place of each channel; the others' α, by the paper's formula, is 0/0."""
    net = families.Net(4, 9)
    conv = net.conv("x", "c", 4, 5, [3])
    best = net.op("ReduceMax", conv, np.array([2]), keepdims=0)
    proto = net.model(net.linear(best, "head", 5, families.CLASSES))
    explainer = saved(proto, tmp_path)
    x = windows(explainer)
    assert (explainer.gradient(x, at=conv) == 0).mean() > 0.8
    close(explainer.explain(x, "grad_cam_plus_plus").maps["cam"],
          replicas("grad_cam_plus_plus", proto, explainer, x, conv))  # fmt: skip


def test_before_a_mean_and_one_affine_layer_hires_cam_is_grad_cam(tmp_path):
    explainer = saved(families.depthwise(), tmp_path)
    x = windows(explainer, 6)
    last = [layer.name for layer in explainer.layers() if layer.op_type == "Relu"][-1]
    grad, hires = (explainer.explain(x, name, 1, layer=last, relu=False) for name in ("grad_cam", "hires_cam"))
    close(hires.maps["cam"], grad.maps["cam"])
    earlier = next(layer.name for layer in explainer.layers() if layer.op_type == "Relu")
    one, other = (explainer.explain(x, name, 1, layer=earlier, relu=False) for name in ("grad_cam", "hires_cam"))
    assert np.abs(one.cells - other.cells).max() > 0.1 * np.abs(one.cells).max()  # there it is not


def test_layer_cam_of_positive_gradients_is_hires_cam(tmp_path):
    net = families.Net(3, 8)
    conv = net.conv("x", "c", 3, 6, [3])
    weight = net.constant(
        "positive", np.abs(np.random.default_rng(0).standard_normal((6, families.CLASSES))).astype("f")
    )
    proto = net.model(net.op("MatMul", net.op("ReduceMean", conv, np.array([2]), keepdims=0), weight))
    explainer = saved(proto, tmp_path)
    x = windows(explainer)
    layer, hires = (explainer.explain(x, name, relu=False).cells for name in ("layer_cam", "hires_cam"))
    np.testing.assert_array_equal(layer, hires)


@pytest.mark.parametrize("name", ["conv_1d", "conv_2d"])
def test_guided_grad_cam_is_guided_backprop_times_grad_cam(name):
    explainer, x = Explainer(tiny_models()[name], installed_plugins()), tiny_windows(tiny_models()[name])
    guided, cam = explainer.explain(x, "guided_backprop", 1), explainer.explain(x, "grad_cam", 1)
    result = explainer.explain(x, "guided_grad_cam", 1)
    assert np.abs(result.cells).max() > 0
    np.testing.assert_allclose(result.cells, guided.cells * cam.cells, rtol=1e-5, atol=1e-9)
    assert result.rule_set == "guided_backprop"
    np.testing.assert_allclose(result.maps["cam"], cam.maps["cam"], rtol=1e-5, atol=1e-9)


# -- which layer ------------------------------------------------------------------------------------------------------


def test_the_default_layer_is_the_deepest_convolution_not_a_shortcuts(tmp_path):
    """A residual block's shortcut is written after its last convolution, and has fewer convolutions before it.

    The last block, s3b0, has a grid of one place at this size.
    """
    proto = families.resnet(32, blocks=1)
    explainer = saved(proto, tmp_path)
    result = explainer.explain(windows(explainer), "grad_cam")
    made = {node.output[0]: node for node in proto.graph.node}
    assert made[result.parameters["layer"]].input[1] == "s2b0.c2.weight"


def test_a_convolution_of_one_place_is_not_the_default(tmp_path):
    explainer = saved(families.resnet(16), tmp_path)  # its last two blocks have grids of 1 x 1
    result = explainer.explain(windows(explainer), "grad_cam")
    assert result.maps["cam"].shape == (3, 2, 2)


def test_the_answers_parameters_name_the_layer_and_asking_with_them_gives_the_same(tmp_path):
    explainer = saved(families.count_net(), tmp_path)
    x = windows(explainer)
    left_open = explainer.explain(x, "grad_cam")
    named = explainer.explain(x, "grad_cam", **left_open.parameters)
    node = next(layer for layer in explainer.layers() if layer.name == left_open.parameters["layer"]).node
    by_node = explainer.explain(x, "grad_cam", layer=node)
    assert left_open.cells.tobytes() == named.cells.tobytes() == by_node.cells.tobytes()
    assert by_node.parameters["layer"] == node


def test_a_layer_that_is_not_there_is_refused_by_name(tmp_path):
    explainer = saved(families.count_net(), tmp_path)
    with pytest.raises(UnknownTensorError, match="no value named 'c9'"):
        explainer.explain(windows(explainer), "grad_cam", layer="c9")


@pytest.mark.parametrize("method", [*METHODS, "guided_grad_cam"])
def test_a_model_without_a_convolution_is_refused(method):
    explainer = Explainer(tiny_models()["mlp"], installed_plugins())
    assert "no convolution" in explainer.applicability()[method]
    with pytest.raises(MethodNotApplicableError, match="name another layer with the parameter 'layer'"):
        explainer.explain(tiny_windows(tiny_models()["mlp"]), method)


def test_a_layer_without_a_grid_is_refused(tmp_path):
    explainer = saved(families.count_net(), tmp_path)
    pooled = next(layer.name for layer in explainer.layers() if layer.op_type == "ReduceMean")
    with pytest.raises(MethodNotApplicableError, match=rf"layer '{pooled}': expected \(batch, channels, \*grid\)"):
        explainer.explain(windows(explainer), "grad_cam", layer=pooled)


def test_a_grid_that_was_made_of_a_flat_vector_is_not_taken_for_the_inputs(tmp_path):
    """Sizes agree, and yet a dense layer lies between: no place of that grid is a place of the input."""
    net = families.Net(4, 10)
    dense = net.linear(net.op("Flatten", "x"), "fc", 40, 40)
    conv = net.conv(net.op("Reshape", dense, np.array([-1, 4, 10])), "c", 4, 6, [3])
    pooled = net.op("ReduceMean", conv, np.array([2]), keepdims=0)
    explainer = saved(net.model(net.linear(pooled, "head", 6, families.CLASSES)), tmp_path)
    with pytest.raises(MethodNotApplicableError, match="along axes none"):
        explainer.explain(windows(explainer), "grad_cam")


def test_a_layer_that_the_target_does_not_depend_on_is_refused_not_blank():
    explainer, x = Explainer(tiny_models()["conv_1d"], installed_plugins()), tiny_windows(tiny_models()["conv_1d"])
    with pytest.raises(MethodNotApplicableError, match="the target does not depend on 'confidence'"):
        explainer.explain(x, "grad_cam", 1, layer="confidence")


# -- where the grid lies ----------------------------------------------------------------------------------------------


def pooled_conv(net, x, before, kernel):
    conv = net.conv(x, "c", before, 6, kernel)
    axes = np.arange(2, 2 + len(kernel))
    return conv, net.model(net.linear(net.op("ReduceMean", conv, axes, keepdims=0), "head", 6, families.CLASSES))


def test_a_grid_is_followed_through_a_transpose(tmp_path):
    """Frames first, as many as there are tones, so that sizes do not tell: the map belongs along the frames."""
    net = families.Net(7, 7)
    _, proto = pooled_conv(net, net.op("Transpose", "x", perm=[0, 2, 1]), 7, [3])
    explainer = saved(proto, tmp_path)
    result = explainer.explain(windows(explainer), "grad_cam", relu=False)
    close(result.cells, np.repeat(result.maps["cam"][:, :, None], 7, axis=2))


def test_an_image_that_was_turned_gets_its_map_turned_back(tmp_path):
    net = families.Net(1, 6, 6)
    conv = net.conv(net.op("Transpose", "x", perm=[0, 1, 3, 2]), "c", 1, 6, [3, 3], strides=[1, 2])
    proto = net.model(net.linear(net.op("ReduceMax", conv, np.array([2, 3]), keepdims=0), "head", 6, families.CLASSES))
    explainer = saved(proto, tmp_path)
    result = explainer.explain(windows(explainer), "hires_cam", relu=False)
    assert result.maps["cam"].shape == (3, 6, 3)
    close(result.cells[:, 0], stretched(np.swapaxes(result.maps["cam"], 1, 2), 1, 6))


def test_channels_may_be_last(tmp_path):
    net = families.Net(2, 6, 8)
    conv = net.conv("x", "c", 2, 5, [3, 3])
    last = net.op("Transpose", conv, perm=[0, 2, 3, 1])
    pooled = net.op("ReduceMean", net.op("Tanh", last), np.array([1, 2]), keepdims=0)
    explainer = saved(net.model(net.linear(pooled, "head", 5, families.CLASSES)), tmp_path)
    x = windows(explainer)
    for method in METHODS:
        first, turned = (explainer.explain(x, method, layer=layer) for layer in (conv, last))
        close(turned.cells, first.cells)


def test_an_axis_that_a_kernel_has_used_up_is_held(tmp_path):
    """A kernel as long as all tones leaves one row: what is left is a map over frames."""
    net = families.Net(1, 6, 9)
    conv = net.conv("x", "c", 1, 5, [6, 3], pads=[0, 1, 0, 1])
    proto = net.model(net.linear(net.op("ReduceMean", conv, np.array([2, 3]), keepdims=0), "h", 5, families.CLASSES))
    explainer = saved(proto, tmp_path)
    result = explainer.explain(windows(explainer), "grad_cam", relu=False)
    assert result.maps["cam"].shape == (3, 9)
    close(result.cells, np.broadcast_to(result.maps["cam"][:, None, None], result.cells.shape))


def test_tones_are_those_of_the_cell_order_whatever_the_declared_axes():
    model = tiny_models()["scrambled"]
    explainer, x = Explainer(model, installed_plugins()), tiny_windows(model)
    result = explainer.explain(x, "grad_cam", relu=False)
    expected = np.zeros((len(x), 10))
    for cell, tone in enumerate(model.cells.tone_of_cell):
        expected[:, tone] += result.maps["cam"][:, cell % 5]  # declared 10 x 5: the map runs along the last axis
    close(result.tones, expected)
    assert [w.code for w in result.warnings if w.code == "NO_TONE_RESOLUTION"] == []


# -- what the answer says ---------------------------------------------------------------------------------------------


def test_a_map_over_frames_says_that_it_tells_no_tones_apart():
    for name, expected in (("conv_1d", 1), ("conv_2d", 0)):
        explainer, x = Explainer(tiny_models()[name], installed_plugins()), tiny_windows(tiny_models()[name])
        codes = [w.code for w in explainer.explain(x, "grad_cam", 1).warnings]
        assert codes.count("NO_TONE_RESOLUTION") == expected
        assert "NO_TONE_RESOLUTION" not in [w.code for w in explainer.explain(x, "guided_grad_cam", 1).warnings]


def test_a_map_that_spreads_over_null_tones_raises_no_alarm_about_the_layout():
    explainer, x = Explainer(tiny_models()["conv_1d"], installed_plugins()), tiny_windows(tiny_models()["conv_1d"])
    result = explainer.explain(x, "grad_cam", 1, relu=False)
    assert result.null_tone_share is None
    assert "NULL_TONE_SHARE" not in [w.code for w in result.warnings]
    assert explainer.explain(x, "guided_grad_cam", 1).null_tone_share is not None


def test_a_blank_map_is_said_to_be_one(tmp_path):
    explainer = saved(families.depthwise(), tmp_path)
    x = windows(explainer, 300)  # more than go into one run
    result = explainer.explain(x, "grad_cam")
    blank = np.flatnonzero(~result.cells.any(axis=(1, 2, 3)))
    assert 0 < len(blank) < len(x)
    assert [w.window for w in result.warnings if w.code == "BLANK_MAP"] == blank.tolist()
    assert "BLANK_MAP" not in [w.code for w in explainer.explain(x, "grad_cam", relu=False).warnings]


def test_a_windows_map_does_not_depend_on_the_batch(tmp_path):
    explainer = saved(families.lenet(), tmp_path)
    x = windows(explainer, 5)
    for method in (*METHODS, "guided_grad_cam"):
        whole = explainer.explain(x, method, 1)
        for row in range(len(x)):
            alone = explainer.explain(x[row : row + 1], method, 1)
            np.testing.assert_allclose(alone.cells[0], whole.cells[row], rtol=0, atol=1e-6 * np.abs(whole.cells).max())
