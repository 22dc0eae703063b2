from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate
from tonescope_server.gradients.rules import pooling


@st.composite
def pools(draw, axes):
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    stride = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilation = [draw(st.integers(1, 2)) for _ in range(axes)]
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    size = [draw(st.integers(4, 7)) for _ in range(axes)]
    for i in range(axes):
        assume(size[i] + pads[i] + pads[axes + i] >= dilation[i] * (kernel[i] - 1) + 1)
    ceil = draw(st.integers(0, 1))
    for i in range(axes) if ceil else ():
        # The rule refuses a window that lies wholly in the end padding: see the test of that below.
        padded = size[i] + pads[i] + pads[axes + i]
        windows = -(-(padded - dilation[i] * (kernel[i] - 1) - 1) // stride[i]) + 1
        assume((windows - 1) * stride[i] < size[i] + pads[i])
    return {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "pads": pads, "ceil_mode": ceil}, size


def gradient_and_differences(make_case, op_type, attributes, size, x, opset=18):
    """Return the product's gradient and central differences, both from ONNX Runtime in float32.

    A pool moves or averages elements: with steps of 1/64 both are exact to float32 rounding, as long as no maximum
    changes hands; ONNX's reference evaluator has no dilated pools with Indices.
    """
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    model = make_case([node], (2, *size), dtype=TensorProto.FLOAT, opset=opset)
    plain = ort.InferenceSession(model.SerializeToString())
    both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    y = plain.run(None, {"x": x})[0]
    cotangent = np.random.default_rng(1).integers(-4, 5, y.shape).astype(np.float32)
    got = both.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]
    step = np.float32(1 / 64)
    steps = step * np.eye(x.size, dtype=np.float32).reshape(x.size, *x.shape[1:])
    up, down = plain.run(None, {"x": x + steps})[0], plain.run(None, {"x": x - steps})[0]
    want = ((up - down) / (2 * step)).reshape(x.size, -1) @ cotangent.ravel()
    return got.ravel(), want


def distinct(size, seed=0):
    """Values that are all at least 1/8 apart, so that no step of 1/64 changes a maximum."""
    count = 2 * int(np.prod(size))
    order = np.random.default_rng(seed).permutation(count)
    return ((order - count / 2) / 8).astype(np.float32).reshape(1, 2, *size)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("op_type", "large"), [("MaxPool", False), ("MaxPool", True), ("AveragePool", False)])
def test_a_pool_agrees_over_stride_dilation_pads_and_ceil_mode(make_case, monkeypatch, op_type, large, axes):
    monkeypatch.setattr(pooling, "MANY_COMPARISONS", 1 if large else 10**9)

    @settings(max_examples=25 if axes < 3 else 8, deadline=None, derandomize=True, database=None)
    @given(pools(axes), st.integers(0, 1))
    def check(pool, include):
        attributes, size = dict(pool[0]), pool[1]
        if op_type == "AveragePool":
            attributes["count_include_pad"] = include
            # Opset 18 has no dilations here, and ONNX Runtime's ceil_mode counts follow the text only from opset 19.
        got, want = gradient_and_differences(
            make_case, op_type, attributes, size, distinct(size), 19 if op_type == "AveragePool" else 18
        )
        # Differences of averages, over steps of 1/64, carry the rounding of float32 64-fold.
        np.testing.assert_allclose(got, want, atol=1e-3)

    check()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_a_pool_agrees_with_automatic_padding(make_case, op_type, axes):
    @settings(max_examples=20 if axes < 3 else 8, deadline=None, derandomize=True, database=None)
    @given(pools(axes), st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]), st.integers(0, 1))
    def check(pool, auto_pad, include):
        attributes = {k: pool[0][k] for k in ("kernel_shape", "strides")} | {"auto_pad": auto_pad}
        if op_type == "AveragePool":
            attributes["count_include_pad"] = include
        # ONNX Runtime counts the padding of SAME as negative where windows lie apart, and refuses it.
        assume(all(k >= s for k, s in zip(attributes["kernel_shape"], attributes["strides"], strict=True)))
        size = [max(n, k) for n, k in zip(pool[1], attributes["kernel_shape"], strict=True)]
        got, want = gradient_and_differences(make_case, op_type, attributes, size, distinct(size), 19)
        np.testing.assert_allclose(got, want, atol=1e-3)

    check()


def test_a_window_wholly_in_the_padding_is_refused_by_name(make_case):
    node = helper.make_node("MaxPool", ["x"], ["y"], name="pool", kernel_shape=[1], strides=[2], ceil_mode=1)
    model = make_case([node], (2, 4), dtype=TensorProto.FLOAT)
    with pytest.raises(UnsupportedOperatorError, match=r"MaxPool at node 'pool'.*end padding"):
        differentiate(ir.from_proto(model), ["x"])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_both_forms_of_a_max_pool_agree_on_ties(make_case, monkeypatch, axes):
    """Few different values, minus infinity among them: most windows have their maximum several times."""

    @settings(max_examples=25 if axes < 3 else 8, deadline=None, derandomize=True, database=None)
    @given(pools(axes), st.integers(0, 99))
    def check(pool, seed):
        attributes, size = pool
        random = np.random.default_rng(seed)
        x = random.choice(np.array([0, 0, 1, -np.inf], np.float32), (2, 2, *size))
        model = make_case(
            [helper.make_node("MaxPool", ["x"], ["y"], **attributes)], (2, *size), dtype=TensorProto.FLOAT
        )
        y = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        assume((y >= 0).all())  # a window of nothing but minus infinity has no maximum: ONNX Runtime makes up one
        found = []
        for least in (1, 10**9):
            monkeypatch.setattr(pooling, "MANY_COMPARISONS", least)
            both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
            cotangent = np.random.default_rng(seed).integers(-4, 5, y.shape).astype(np.float32)
            found.append(both.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0])
        np.testing.assert_array_equal(*found)

    check()


def test_a_large_max_pool_compares_again_and_a_small_one_asks_for_indices(make_case):
    for size, kinds in ((32, {"Equal"}), (4, {"ScatterElements"})):
        node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        graph = differentiate(ir.from_proto(make_case([node], (16, size, size), dtype=TensorProto.FLOAT)), ["x"])
        assert {n.op_type for n in graph.graph} & {"Equal", "ScatterElements"} == kinds


def test_a_tie_goes_to_the_first_maximum_in_row_major_order(make_case):
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[1, 1])
    model = make_case([node], (1, 3, 3), dtype=TensorProto.FLOAT)
    both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    zeros = np.zeros((1, 1, 3, 3), np.float32)
    got = both.run(["gradient:x"], {"x": zeros, "cotangent:y": np.ones((1, 1, 2, 2), np.float32)})[0]
    np.testing.assert_array_equal(got[0, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_indices_that_the_model_counts_by_columns_are_left_to_it(make_case):
    x, cotangent = distinct((4, 6)), np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)[:, :, :2, :3] + 1
    found = []
    for order in (0, 1):
        node = helper.make_node(
            "MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], strides=[2, 2], storage_order=order, name="pool"
        )
        model = make_case([node], (2, 4, 6), dtype=TensorProto.FLOAT)
        model.graph.output.append(helper.make_tensor_value_info("i", TensorProto.INT64, None))
        both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
        found.append(both.run(["gradient:x", "i"], {"x": x, "cotangent:y": cotangent}))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][1] != found[1][1]).any()
    assert np.count_nonzero(found[0][0]) == 12


def test_overlapping_windows_with_one_maximum_add_up(make_case):
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[1])
    model = make_case([node], (1, 5), dtype=TensorProto.FLOAT)
    both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    x = np.array([[[0, 1, 9, 1, 0]]], np.float32)
    got = both.run(["gradient:x"], {"x": x, "cotangent:y": np.ones((1, 1, 3), np.float32)})[0]
    np.testing.assert_array_equal(got[0, 0], [0, 0, 3, 0, 0])


@pytest.mark.parametrize("positions", [(3, 4), (1, 4), (5,)])
def test_global_average_pool_agrees(agrees, make_case, positions):
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("GlobalAveragePool", ["s"], ["y"])]
    agrees(make_case(nodes, (2, *positions)), np.random.default_rng(0).standard_normal((2, 2, *positions)))


def test_batch_normalization_agrees(agrees, make_case):
    generator = np.random.default_rng(0)
    constants = {n: generator.uniform(0.5, 1.5, 3) for n in ("scale", "bias", "mean", "var")}
    node = helper.make_node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["y"], epsilon=1e-3)
    agrees(make_case([node], (3, 4), constants), generator.standard_normal((2, 3, 4)))
