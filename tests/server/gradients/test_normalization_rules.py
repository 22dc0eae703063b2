from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.gradients import differentiate


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


X = random(2, 4, 3, 2) * 2 + 1


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization_agrees(agrees, make_case, axis, bias):
    shape = X.shape[axis % 4 :]
    constants = {"scale": random(*shape, seed=1)}
    if bias:
        constants["bias"] = random(*shape, seed=2)
    node = helper.make_node("LayerNormalization", ["x", *constants], ["y"], axis=axis, epsilon=1e-3)
    agrees(make_case([node], X.shape[1:], constants), X)


def test_layer_normalization_differentiates_a_scale_that_depends_on_the_input(agrees, make_case):
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["row"], keepdims=1),
        helper.make_node("Sigmoid", ["row"], ["scale"]),
        helper.make_node("LayerNormalization", ["x", "scale"], ["n"], axis=-1),
        helper.make_node("Mul", ["n", "x"], ["y"]),
    ]
    agrees(make_case(nodes, (4, 3), {"axes": np.array([1])}), random(2, 4, 3))


@pytest.mark.parametrize("axis", [-1, 2])
def test_layer_normalization_of_float32_agrees_with_its_composition(make_case, axis):
    """In float32 the kernel itself is asked for what it normalised with; central differences need float64."""
    shape = X.shape[axis % 4 :]
    axes = np.arange(axis % 4, 4)
    node = helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["y"], axis=axis, epsilon=1e-3)
    scale, bias = random(*shape, seed=1), random(*shape, seed=2)
    composed = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["variance"], keepdims=1),
        helper.make_node("Add", ["variance", "epsilon"], ["more"]),
        helper.make_node("Sqrt", ["more"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["unit"]),
        helper.make_node("Mul", ["unit", "s"], ["scaled"]),
        helper.make_node("Add", ["scaled", "t"], ["y"]),
    ]
    more = {"axes": axes, "epsilon": np.array(1e-3), "s": scale, "t": bias}
    same_as_composed(make_case, node, {"scale": scale, "bias": bias}, composed, more)


def test_layer_normalization_takes_the_gradient_of_a_mean_as_it_is(agrees, make_case):
    """What flows back from a mean is left unexpanded: also to a scale and a bias that depend on the input."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["row"], keepdims=1),
        helper.make_node("LayerNormalization", ["x", "row", "row"], ["n"], axis=-1),
        helper.make_node("ReduceMean", ["n", "axes"], ["y"], keepdims=1),
    ]
    agrees(make_case(nodes, (4, 3), {"axes": np.array([1])}), random(2, 4, 3))


@pytest.mark.parametrize("twice", [True, False])
def test_a_convolution_takes_the_factor_of_the_normalisation_after_it(agrees, make_case, twice):
    """Not where something else reads the convolution's result too: then its cotangent is a sum."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["c"], pads=[1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"], epsilon=1e-3),
        helper.make_node("Mul", ["n", "c" if twice else "n"], ["y"]),
    ]
    constants = {
        n: np.random.default_rng(i).uniform(0.5, 1.5, 4) for i, n in enumerate(("scale", "bias", "mean", "var"))
    }
    model = make_case(nodes, (3, 6), {"w": random(4, 3, 3), **constants})
    agrees(model, random(2, 3, 6))


def test_the_gradient_by_a_convolutions_result_still_has_the_factor_after_it(make_case):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["y"], epsilon=0.0),
    ]
    constants = {"w": random(4, 3, 3), "scale": np.array([1.0, 2, 3, 4]), "var": np.array([4.0, 4, 1, 1])}
    constants |= {"bias": random(4), "mean": random(4, seed=1)}
    constants = {k: v.astype(np.float32) for k, v in constants.items()}
    model = make_case(nodes, (3, 6), constants, dtype=TensorProto.FLOAT)
    session = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["c"])).SerializeToString())
    x = random(1, 3, 6).astype(np.float32)
    got = session.run(["gradient:c"], {"x": x, "cotangent:y": np.ones((1, 4, 6), np.float32)})[0]
    np.testing.assert_array_equal(got[0], np.repeat([[0.5], [1], [3], [4]], 6, axis=1))


def test_rms_normalization_agrees(agrees, make_case):
    node = helper.make_node("RMSNormalization", ["x", "scale"], ["y"], axis=-1)
    agrees(make_case([node], (4, 3), {"scale": random(3)}, opset=23), random(2, 4, 3))


def test_instance_normalization_agrees(agrees, make_case):
    node = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], epsilon=1e-3)
    agrees(make_case([node], X.shape[1:], {"scale": random(4), "bias": random(4, seed=1)}), X)


def gradients(model, x):
    """Return the output and its gradient for a fixed cotangent, both from ONNX Runtime."""
    session = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    y = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    cotangent = random(*y.shape, seed=8).astype(np.float32)
    return y, session.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]


def same_as_composed(make_case, node, constants, composed, more, opset=18):
    """Compare a fused operator with the same thing composed of operators whose rules are checked by differences.

    ONNX's reference evaluator computes these operators in float32, or wrongly, so differences are no oracle here.
    """
    x = X.astype(np.float32)
    float32 = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in {**constants, **more}.items()}
    fused = make_case([node], x.shape[1:], {k: float32[k] for k in constants}, dtype=TensorProto.FLOAT, opset=opset)
    spelled = make_case(composed, x.shape[1:], {k: float32[k] for k in more}, dtype=TensorProto.FLOAT)
    for got, want in zip(gradients(fused, x), gradients(spelled, x), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_group_normalization_agrees(make_case):
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=2, epsilon=1e-3)
    scale, bias = random(4), random(4, seed=1)
    composed = [
        helper.make_node("Reshape", ["x", "grouped"], ["g"]),
        helper.make_node("InstanceNormalization", ["g", "one", "zero"], ["n"], epsilon=1e-3),
        helper.make_node("Reshape", ["n", "back"], ["b"]),
        helper.make_node("Mul", ["b", "s"], ["m"]),
        helper.make_node("Add", ["m", "t"], ["y"]),
    ]
    each = [v.reshape(4, 1, 1) for v in (scale, bias)]
    more = {
        "grouped": np.array([0, 2, -1]), "back": np.array([0, 4, 3, 2]),
        "one": np.ones(2), "zero": np.zeros(2), "s": each[0], "t": each[1],
    }  # fmt: skip
    same_as_composed(make_case, node, {"scale": scale, "bias": bias}, composed, more, opset=21)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization_agrees(agrees, make_case, p):
    # Positive operands: ONNX's reference evaluator leaves the absolute value out of the 1-norm.
    node = helper.make_node("LpNormalization", ["x"], ["y"], axis=2, p=p)
    agrees(make_case([node], (4, 3)), np.abs(random(2, 4, 3)) + 0.1)


def test_mean_variance_normalization_agrees(make_case):
    composed = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["c"]),
        helper.make_node("Mul", ["c", "c"], ["q"]),
        helper.make_node("ReduceMean", ["q", "axes"], ["v"], keepdims=1),
        helper.make_node("Sqrt", ["v"], ["s"]),
        helper.make_node("Div", ["c", "s"], ["y"]),
    ]
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[2, 3])
    same_as_composed(make_case, node, {}, composed, {"axes": np.array([2, 3])})


@pytest.mark.parametrize("size", [1, 3])
def test_local_response_normalization_agrees(make_case, size):
    band = (np.abs(np.subtract.outer(np.arange(4), np.arange(4))) <= size // 2).astype(float)
    composed = [
        helper.make_node("Mul", ["x", "x"], ["q"]),
        helper.make_node("Conv", ["q", "band"], ["s"]),
        helper.make_node("Add", ["s", "k"], ["u"]),
        helper.make_node("Pow", ["u", "beta"], ["p"]),
        helper.make_node("Mul", ["x", "p"], ["y"]),
    ]
    more = {"band": (0.3 / size * band)[:, :, None, None], "k": np.array(1.2), "beta": np.array(-0.6)}
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.3, beta=0.6, bias=1.2)
    same_as_composed(make_case, node, {}, composed, more)


EQUATIONS = ["bij,jk->bik", "bij,kj->bk", "bij,ij->b", "bij->bj", "bij,bkj->bik", "...ij,jk->...ik", "bij,j->b"]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_agrees(agrees, make_case, equation):
    sizes = {"b": 2, "i": 3, "j": 4, "k": 5}
    operands = equation.split("->")[0].split(",")
    names, constants = ["x"], {}
    if len(operands) == 2 and operands[1] == "bkj":
        names.append("x")
    elif len(operands) == 2:
        constants["w"] = random(*(sizes[c] for c in operands[1]), seed=1)
        names.append("w")
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    agrees(make_case([node], (3, 4), constants), random(2, 3, 4))


RESIZES = {
    "nearest": ({"mode": "nearest"}, [1, 1, 2, 3]),
    "nearest, down": ({"mode": "nearest", "nearest_mode": "floor"}, [1, 1, 0.5, 0.7]),
    "linear": ({"mode": "linear"}, [1, 1, 2, 1.5]),
    "linear, aligned": ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, [1, 1, 2, 1.5]),
    "cubic": ({"mode": "cubic"}, [1, 1, 2, 1.5]),
    "linear, antialiased": ({"mode": "linear", "antialias": 1}, [1, 1, 0.5, 0.5]),
}


@pytest.mark.parametrize("name", RESIZES)
def test_resize_agrees(agrees, make_case, name):
    attributes, scales = RESIZES[name]
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], **attributes)
    agrees(make_case([node], (1, 4, 5), {"s": np.array(scales, np.float32)}), random(1, 1, 4, 5))


def test_resize_agrees_for_sizes_along_chosen_axes(agrees, make_case):
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear", axes=[2, 3])
    agrees(make_case([node], (1, 4, 5), {"s": np.array([7, 3])}), random(1, 1, 4, 5))


CONV_TRANSPOSES = {
    "plain": {},
    "strided, padded": {"strides": [2, 3], "pads": [1, 0, 0, 1]},
    "output padding": {"strides": [2, 2], "output_padding": [1, 0]},
    "dilated": {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
    "output shape": {"strides": [2, 2], "output_shape": [8, 9]},
    "same": {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
}


@pytest.mark.parametrize("name", CONV_TRANSPOSES)
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolution_agrees(agrees_exactly, make_case, name, group):
    weight = np.random.default_rng(1).integers(-3, 4, (2, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, **CONV_TRANSPOSES[name])
    # ONNX's reference evaluator is wrong about groups here, so ONNX Runtime says what the Jacobian is.
    agrees_exactly(make_case([node], (2, 4, 5), {"w": weight}, dtype=TensorProto.FLOAT), (2, 4, 5), reference=False)


def test_global_max_pool_agrees(agrees, make_case):
    agrees(make_case([helper.make_node("GlobalMaxPool", ["x"], ["y"])], X.shape[1:]), X)
