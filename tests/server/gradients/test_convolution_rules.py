from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate


@st.composite
def geometries(draw, axes, *, pool=False):
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    stride = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilation = [draw(st.integers(1, 2)) for _ in range(axes)]
    most = [k - 1 for k in kernel] if pool else [3] * axes
    pads = [draw(st.integers(0, m)) for m in most * 2]
    size = [draw(st.integers(3, 6)) for _ in range(axes)]
    for i in range(axes):
        assume(size[i] + pads[i] + pads[axes + i] >= dilation[i] * (kernel[i] - 1) + 1)
    return {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "pads": pads}, size


# Groups, channels in and out of each; among them a block and more of both kinds, which have forms of their own.
CHANNELS = [(1, 2, 3), (2, 1, 2), (3, 1, 1), (2, 2, 1), (1, 17, 2), (16, 1, 1)]


def integers(*shape, seed=3):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("fixed", [True, False])
def test_convolution_agrees_over_stride_dilation_groups_and_pads(agrees_exactly, make_case, axes, fixed):
    @settings(max_examples=40 if axes < 3 else 10, deadline=None, derandomize=True, database=None)
    @given(geometries(axes), st.sampled_from(CHANNELS), st.booleans())
    def check(geometry, channels, bias):
        attributes, size = geometry
        group, per_group, out_per_group = channels
        constants = {"w": integers(group * out_per_group, per_group, *attributes["kernel_shape"])}
        if bias:
            constants["b"] = integers(group * out_per_group, seed=4)
        node = helper.make_node("Conv", ["x", *constants], ["y"], group=group, **attributes)
        shape = (group * per_group, *size)
        agrees_exactly(make_case([node], shape, constants, fixed=fixed, dtype=TensorProto.FLOAT), shape)

    check()


@pytest.mark.parametrize("channels", [(1, 4, 6), (1, 16, 3), (4, 1, 1), (16, 1, 1), (2, 3, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2)])
def test_convolution_agrees_on_larger_planes_with_uneven_padding(agrees_exactly, make_case, channels, stride):
    group, per_group, out_per_group = channels
    weight = integers(group * out_per_group, per_group, 3, 3)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=group, strides=stride, pads=[1, 0, 1, 1])
    shape = (group * per_group, 9, 8)
    agrees_exactly(make_case([node], shape, {"w": weight}, dtype=TensorProto.FLOAT), shape)


def test_weights_that_depend_on_the_input_are_refused_by_name(make_case):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["w"]),
        helper.make_node("Conv", ["c", "w"], ["y"], name="the_conv"),
    ]
    constants = {"shape": np.array([2, 1, 3]), "c": integers(1, 1, 8)}
    model = make_case(nodes, (6,), constants, dtype=TensorProto.FLOAT)
    with pytest.raises(UnsupportedOperatorError, match=r"Conv at node 'the_conv'.*weights or bias depend"):
        differentiate(ir.from_proto(model), ["x"])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolution_agrees_with_automatic_padding(agrees_exactly, make_case, axes):
    # ONNX's reference evaluator pads SAME differently from the operator's text, so the oracle here is ONNX Runtime.
    @settings(max_examples=25 if axes < 3 else 8, deadline=None, derandomize=True, database=None)
    @given(
        geometries(axes),
        st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
        st.sampled_from([(1, 2, 3), (3, 1, 1), (2, 2, 1)]),
    )
    def check(geometry, auto_pad, channels):
        attributes, size = geometry
        del attributes["pads"]
        if auto_pad != "VALID":
            attributes["dilations"] = [1] * axes  # ONNX Runtime has no other with SAME
        extent = [d * (k - 1) + 1 for k, d in zip(attributes["kernel_shape"], attributes["dilations"], strict=True)]
        assume(all(n >= e for n, e in zip(size, extent, strict=True)))
        group, per_group, out_per_group = channels
        weight = integers(group * out_per_group, per_group, *attributes["kernel_shape"])
        node = helper.make_node("Conv", ["x", "w"], ["y"], group=group, auto_pad=auto_pad, **attributes)
        shape = (group * per_group, *size)
        agrees_exactly(make_case([node], shape, {"w": weight}, dtype=TensorProto.FLOAT), shape, reference=False)

    check()


@st.composite
def transposed(draw, axes):
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    stride = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilation = [draw(st.integers(1, 2)) for _ in range(axes)]
    size = [draw(st.integers(2, 4)) for _ in range(axes)]
    extra = [draw(st.integers(0, s - 1)) for s in stride]
    pads = [draw(st.integers(0, 1)) for _ in range(2 * axes)]
    for i in range(axes):
        whole = stride[i] * (size[i] - 1) + extra[i] + dilation[i] * (kernel[i] - 1) + 1
        assume(whole - pads[i] - pads[axes + i] >= 1)
    attributes = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "output_padding": extra}
    how = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID", "output_shape"]))
    if how == "pads":
        attributes["pads"] = pads
    elif how == "output_shape":
        attributes["output_shape"] = [
            stride[i] * (size[i] - 1) + extra[i] + dilation[i] * (kernel[i] - 1) + 1 - pads[i] for i in range(axes)
        ]
    else:
        assume(all(d * (k - 1) + 1 >= s for k, s, d in zip(kernel, stride, dilation, strict=True)))
        attributes.update(auto_pad=how, output_padding=[0] * axes)
    return attributes, size


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convolution_agrees_over_stride_dilation_groups_and_padding(agrees_exactly, make_case, axes):
    @settings(max_examples=40 if axes < 3 else 10, deadline=None, derandomize=True, database=None)
    @given(transposed(axes), st.sampled_from([(1, 2, 3), (2, 1, 2), (3, 1, 1)]))
    def check(geometry, channels):
        attributes, size = geometry
        group, per_group, out_per_group = channels
        weight = integers(group * per_group, out_per_group, *attributes["kernel_shape"])
        node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, **attributes)
        shape = (group * per_group, *size)
        # ONNX's reference evaluator has neither groups nor dilations here.
        agrees_exactly(make_case([node], shape, {"w": weight}, dtype=TensorProto.FLOAT), shape, reference=False)

    check()
