"""The lift of 1-D layers: it changes speed and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate
from tonescope_server.gradients.differentiate import values_by_name
from tonescope_server.gradients.prepass import infer_shapes, lift_1d, remove_unused

# Both graphs are float32; only the order of sums differs between the 3-D and the 4-D kernels.
SAME = {"rtol": 1e-5, "atol": 1e-5}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lifted(model, keep=()):
    graph = infer_shapes(ir.from_proto(model))
    count = lift_1d(graph.graph, keep)
    onnx.checker.check_model(ir.to_proto(graph))
    return graph, count


def run(graph, x, names=None, **feeds):
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    return session.run(names, {"x": x, **feeds})


def kinds(graph):
    return [node.op_type for node in graph.graph]


CONV = {
    "plain": ({}, (4, 3, 3)),
    "pads, uneven": ({"pads": [2, 0]}, (4, 3, 3)),
    "stride": ({"strides": [2], "pads": [1, 1]}, (4, 3, 3)),
    "dilation": ({"dilations": [2], "pads": [2, 2]}, (4, 3, 3)),
    "groups": ({"group": 3, "pads": [1, 1]}, (6, 1, 3)),
    "same padding": ({"auto_pad": "SAME_UPPER", "strides": [2]}, (4, 3, 4)),
    "kernel of one": ({}, (4, 3, 1)),
}
AFTER = {
    "nothing": ([], {}),
    "activation": ([("Relu", [], {})], {}),
    "clip": ([("Clip", ["low", "high"], {})], {"low": np.float32(-0.5), "high": np.float32(0.5)}),
    "batch normalisation": (
        [("BatchNormalization", ["s", "b", "m", "v"], {"epsilon": 1e-3})],
        {k: np.abs(random(4, seed=i)) + 0.5 for i, k in enumerate("sbmv")},
    ),
    "max pool": ([("MaxPool", [], {"kernel_shape": [3], "strides": [2], "pads": [1, 0]})], {}),
    "average pool": (
        [("AveragePool", [], {"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 0, "ceil_mode": 0})],
        {},
    ),
    "mean that keeps its axis": ([("ReduceMean", ["axes"], {"keepdims": 1})], {"axes": np.array([2])}),
    "mean that loses its axis": ([("ReduceMean", ["axes"], {"keepdims": 0})], {"axes": np.array([-1])}),
    "sum that loses its axis": ([("ReduceSum", ["axes"], {"keepdims": 0})], {"axes": np.array([2])}),
    "mean over channels": ([("ReduceMean", ["axes"], {"keepdims": 0})], {"axes": np.array([1])}),
    "mean over both": ([("ReduceMean", ["axes"], {"keepdims": 0})], {"axes": np.array([1, 2])}),
    "transpose": ([("Transpose", [], {"perm": [0, 2, 1]})], {}),
    "global pool": ([("GlobalAveragePool", [], {})], {}),
    "second layer": ([("Relu", [], {}), ("Conv", ["w2"], {"pads": [1, 1]})], {"w2": random(2, 4, 3, seed=9)}),
}


def chain(make_case, steps, constants, shape=(3, 9)):
    nodes, last = [], "x"
    for i, (op_type, more, attributes) in enumerate(steps):
        made = "y" if i == len(steps) - 1 else f"v{i}"
        nodes.append(helper.make_node(op_type, [last, *more], [made], name=f"node_{i}", **attributes))
        last = made
    return make_case(nodes, shape, constants, dtype=TensorProto.FLOAT)


def both_agree(model, x):
    """Outputs and input gradients are the same with and without the lift."""
    graph, count = lifted(model)
    plain = ir.from_proto(model)
    (want,) = run(plain, x)
    (got,) = run(graph, x)
    np.testing.assert_allclose(got, want, **SAME)
    cotangent = random(*want.shape, seed=5)
    gradients = [
        run(differentiate(m, ["x"]), x, ["gradient:x"], **{"cotangent:y": cotangent})[0] for m in (graph, plain)
    ]
    np.testing.assert_allclose(*gradients, **SAME)
    return graph, count


@pytest.mark.parametrize("name", CONV)
def test_a_lifted_convolution_computes_the_same(make_case, name):
    attributes, shape = CONV[name]
    constants = {"w": random(*shape), "b": random(shape[0])}
    model = chain(make_case, [("Conv", ["w", "b"], attributes), ("Relu", [], {})], constants)
    graph, count = both_agree(model, random(3, 3, 9, seed=2))
    assert count == 1
    convolution = next(n for n in graph.graph if n.op_type == "Conv")
    assert len(convolution.inputs[0].shape) == 4


@pytest.mark.parametrize("name", AFTER)
def test_what_follows_a_lifted_convolution_computes_the_same(make_case, name):
    steps, constants = AFTER[name]
    model = chain(make_case, [("Conv", ["w"], {"pads": [1, 1]}), *steps], {"w": random(4, 3, 3), **constants})
    both_agree(model, random(3, 3, 9, seed=2))


def test_a_residual_sum_stays_lifted(make_case):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c1"], pads=[1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "v"], ["c2"], pads=[1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["sum"]),
        helper.make_node("Sub", ["sum", "c1"], ["less"]),
        helper.make_node("Mul", ["less", "sum"], ["more"]),
        helper.make_node("ReduceMean", ["more", "axes"], ["y"], keepdims=0),
    ]
    constants = {"w": random(4, 3, 3), "v": random(4, 4, 3, seed=1), "axes": np.array([2])}
    graph, count = both_agree(make_case(nodes, (3, 9), constants, dtype=TensorProto.FLOAT), random(3, 3, 9, seed=2))
    assert count == 2
    assert "Squeeze" not in kinds(graph)  # inside a lifted region nothing goes back to 3-D


def test_a_sum_with_something_3_d_computes_the_same(make_case):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
        helper.make_node("Add", ["c", "per_channel"], ["shifted"]),
        helper.make_node("Add", ["shifted", "x"], ["y"]),
    ]
    model = make_case(nodes, (3, 9), {"w": random(3, 3, 3), "per_channel": random(3, 1)}, dtype=TensorProto.FLOAT)
    both_agree(model, random(2, 3, 9, seed=2))


def test_a_count_net_shaped_region_is_squeezed_nowhere(make_case):
    steps, constants = [], {}
    for i, dilation in enumerate((1, 2, 4)):
        steps += [("Conv", [f"w{i}"], {"pads": [dilation] * 2, "dilations": [dilation]}), ("Relu", [], {})]
        constants[f"w{i}"] = random(3, 3, 3, seed=i)
    steps.append(("ReduceMean", ["axes"], {"keepdims": 0}))
    graph, count = both_agree(chain(make_case, steps, {**constants, "axes": np.array([2])}), random(2, 3, 9, seed=4))
    assert count == 3
    assert "Squeeze" not in kinds(graph)


def test_an_output_inside_a_lifted_region_keeps_its_shape_and_name(make_case):
    model = chain(make_case, [("Conv", ["w"], {"pads": [1, 1]}), ("Relu", [], {})], {"w": random(4, 3, 3)})
    model.graph.output.append(helper.make_tensor_value_info("v0", TensorProto.FLOAT, None))
    graph, _ = lifted(model)
    assert [v.name for v in graph.graph.outputs] == ["y", "v0"]
    x = random(2, 3, 9, seed=3)
    for got, want in zip(run(graph, x), run(ir.from_proto(model), x), strict=True):
        np.testing.assert_allclose(got, want, **SAME)


@pytest.mark.parametrize("tap", ["v0", "v1", "v2", "v3", "v4"])
def test_a_kept_value_has_the_gradient_and_shape_it_had_before(make_case, tap):
    # The kept value feeds two layers, so that a gradient that missed one path would show.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["v0"], pads=[1, 1]),
        helper.make_node("Sigmoid", ["v0"], ["v1"]),
        helper.make_node("Conv", ["v1", "v"], ["v2"], pads=[1, 1]),
        helper.make_node("Add", ["v2", "v1"], ["v3"]),
        helper.make_node("ReduceMean", ["v3", "axes"], ["v4"], keepdims=1),
        helper.make_node("Mul", ["v4", "v4"], ["y"]),
    ]
    constants = {"w": random(4, 3, 3), "v": random(4, 4, 3, seed=1), "axes": np.array([2])}
    model = make_case(nodes, (3, 9), constants, dtype=TensorProto.FLOAT)
    graph, _ = lifted(model, keep=[tap])
    x, cotangent = random(2, 3, 9, seed=2), random(2, 4, 1, seed=8)
    got, want = (
        run(differentiate(m, [tap]), x, [f"gradient:{tap}"], **{"cotangent:y": cotangent})[0]
        for m in (graph, ir.from_proto(model))
    )
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, **SAME)
    assert np.abs(want).max() > 1e-3


def test_a_value_that_is_not_kept_is_lifted_away(make_case):
    model = chain(make_case, [("Conv", ["w"], {}), ("Relu", [], {})], {"w": random(4, 3, 3)})
    assert "v0" not in values_by_name(lifted(model)[0].graph)
    assert "v0" in values_by_name(lifted(model, keep=["v0"])[0].graph)


@pytest.mark.parametrize(
    ("node", "shape", "constants"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (9,), {"w": random(9, 3)}),
        (helper.make_node("Conv", ["x", "w"], ["y"]), (3, 5, 5), {"w": random(4, 3, 3, 3)}),
        (helper.make_node("Relu", ["x"], ["y"]), (3, 9), {}),
    ],
)
def test_a_model_without_1_d_layers_is_left_as_it_is(make_case, node, shape, constants):
    graph = infer_shapes(ir.from_proto(make_case([node], shape, constants, dtype=TensorProto.FLOAT)))
    before = ir.to_proto(graph).SerializeToString()
    assert lift_1d(graph.graph) == 0
    assert ir.to_proto(graph).SerializeToString() == before


def test_a_max_pool_that_also_gives_indices_is_left_as_it_is(make_case):
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2])]
    graph, count = lifted(make_case(nodes, (3, 8), dtype=TensorProto.FLOAT))
    assert count == 0
    assert "Unsqueeze" not in kinds(graph)


def test_an_error_names_the_models_own_node_of_a_lifted_layer(make_case):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["w"]),
        helper.make_node("Conv", ["c", "w"], ["y"], name="the_conv"),
    ]
    constants = {"shape": np.array([2, 1, 3]), "c": random(1, 1, 8)}
    graph, count = lifted(make_case(nodes, (6,), constants, dtype=TensorProto.FLOAT))
    assert count == 1
    with pytest.raises(UnsupportedOperatorError, match="'the_conv'"):
        differentiate(graph, ["x"])


def test_unused_nodes_and_initializers_are_removed(make_case):
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Mul", ["x", "c"], ["nobody"])]
    graph = ir.from_proto(make_case(nodes, (3,), {"c": random(3)}, dtype=TensorProto.FLOAT))
    remove_unused(graph.graph)
    assert kinds(graph) == ["Relu"]
    assert not graph.graph.initializers


def test_the_open_size_of_a_reshape_is_recognised_as_the_batch(make_case):
    """Two values of one batch must not look as if one might be broadcast to the other."""
    constants = {"heads": np.array([-1, 2, 3, 4]), "flat": np.array([-1, 12]), "mixed": np.array([-1, 4])}
    nodes = [
        helper.make_node("Reshape", ["x", "heads"], ["split"]),
        helper.make_node("Transpose", ["split"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "mixed"], ["rows"]),
        helper.make_node("Reshape", ["turned", "flat"], ["y"]),
    ]
    model = infer_shapes(ir.from_proto(make_case(nodes, (6, 4), constants)))
    shapes = {v.name: [d if isinstance(d, int) else d.value for d in v.shape] for n in model.graph for v in n.outputs}
    assert shapes["turned"] == ["batch", 3, 2, 4]
    assert shapes["rows"][0] != "batch"
    assert shapes["y"][0] != "batch"  # twice as many rows


def test_a_size_that_inference_made_up_for_a_broadcast_is_recognised_as_the_batch(make_case):
    """As attention writes it: heads split off by −1, multiplied, joined by −1, and added to what came in."""
    constants = {"heads": np.array([-1, 6, 2, 2]), "flat": np.array([-1, 6, 4]), "column": np.ones((1, 6, 1))}
    nodes = [
        helper.make_node("Reshape", ["x", "heads"], ["left"]),
        helper.make_node("Reshape", ["x", "heads"], ["right"]),
        helper.make_node("MatMul", ["left", "right"], ["mixed"]),
        helper.make_node("Reshape", ["mixed", "flat"], ["joined"]),
        helper.make_node("Mul", ["column", "joined"], ["scaled"]),
        helper.make_node("Add", ["x", "scaled"], ["y"]),
    ]
    model = ir.from_proto(make_case(nodes, (6, 4), constants))
    assert any(str(v.shape[0]).startswith("unk__") for n in model.graph for v in n.outputs)  # else nothing is made up
    shapes = {v.name: v.shape[0] for n in infer_shapes(model).graph for v in n.outputs}
    assert {str(size) for size in shapes.values()} == {"batch"}


def test_the_batch_of_a_resized_image_is_recognised(make_case):
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"])]
    model = ir.from_proto(make_case(nodes, (2, 3, 4), {"scales": np.array([1, 1, 2, 2], np.float32)}))
    assert str(model.graph.outputs[0].shape[0]).startswith("unk__")  # else inference knows by itself
    assert [str(d) for d in infer_shapes(model).graph.outputs[0].shape] == ["batch", "2", "6", "8"]


def test_sizes_that_may_differ_keep_their_names(make_case):
    """A run of rows that is not the batch must not be taken for it, or broadcasting would be overlooked."""
    nodes = [
        helper.make_node("Reshape", ["x", "mixed"], ["rows"]),
        helper.make_node("Reshape", ["x", "flat"], ["whole"]),
        helper.make_node("Add", ["rows", "whole"], ["y"]),
    ]
    constants = {"mixed": np.array([-1, 4]), "flat": np.array([-1, 24, 1])}
    model = infer_shapes(ir.from_proto(make_case(nodes, (6, 4), constants)))
    shapes = {v.name: [str(d) for d in v.shape] for n in model.graph for v in n.outputs}
    assert shapes["whole"] == ["batch", "24", "1"]
    assert shapes["rows"][0] != "batch"
    assert len(shapes["y"]) == 3
    assert shapes["y"][0] == "batch"


def test_shapes_cut_out_at_a_computed_place_are_known(make_case):
    """As torch's older exporter writes attention: the end of the slice is a Reshape of a constant."""
    constants = {"zero": np.array([0]), "two": np.array([2]), "as_list": np.array([-1]), "tail": np.array([2, 6])}
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["two", "as_list"], ["end"]),
        helper.make_node("Slice", ["shape", "zero", "end"], ["lead"]),
        helper.make_node("Concat", ["lead", "tail"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    model = ir.from_proto(make_case(nodes, (3, 12), constants))
    for value in model.graph.outputs:
        value.shape = None
    infer_shapes(model)
    assert len(values_by_name(model.graph)["y"].shape) == 4
