"""Models in half precision: differentiated as they are by the engine, and computed in float32 by the explainer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer, Target
from tonescope_server.gradients import differentiate

SOURCE = Path(__file__).resolve().parents[2] / "families.py"
SPEC = importlib.util.spec_from_file_location("tonescope_test_families_half", SOURCE)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

NARROW = {
    "float16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bfloat16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
# Without kinks on the way: rounding a weight moves no unit from one side of its bend to the other.
SMOOTH = ("mlp", "rnn", "gru", "lstm", "bilstm", "vit", "transformer")


def in_type(model, code, dtype):
    """Return the same network with every weight rounded to, and every value in, another type."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    unscaled = {node.input[2] for node in made.graph.node if node.op_type == "Resize"}
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in unscaled:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = code
    return made


def rounded(model, dtype):
    """Return the float32 network whose weights are those that another type can hold."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            near = numpy_helper.to_array(tensor).astype(dtype).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(near, tensor.name))
    return made


def windows(model, n=2):
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(1).standard_normal((n, *shape)).astype(np.float16).astype(np.float32)


def loaded(model, folder, name):
    onnx.save(model, folder / f"{name}.onnx")
    return Explainer.load(folder / f"{name}.onnx")


def distance(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


# -- the engine: in the model's own type ------------------------------------------------------------------------------


def native(model, x, dtype):
    options = ort.SessionOptions()
    # ONNX Runtime 1.31 crashes at load on some recursions in float16 where MatMuls are fused with Transposes.
    graph = ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString()
    session = ort.InferenceSession(graph, options, disabled_optimizers=["MatmulTransposeFusion"])
    cotangent = np.random.default_rng(2).standard_normal((len(x), families.CLASSES)).astype(np.float16)
    return session.run(["gradient:x"], {"x": x.astype(dtype), "cotangent:logits": cotangent.astype(dtype)})[0]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_float16_network_is_differentiated_in_its_own_type(name):
    model = families.FAMILIES[name]()
    x = windows(model)
    got = native(in_type(model, *NARROW["float16"]), x, np.float16)
    assert got.dtype == np.float16
    # Each of some ten intermediates is rounded by up to 2⁻¹¹, about 5e-4; a ReLU may bend on the other side.
    assert distance(got, native(rounded(model, np.float16), x, np.float32)) < (2e-3 if name in SMOOTH else 2e-2)


# -- the explainer: in float32 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_half_precision_network_is_explained_as_its_own_weights_in_float32(tmp_path, name, kind):
    code, dtype = NARROW[kind]
    model = families.FAMILIES[name]()
    x = windows(model)
    half = loaded(in_type(model, code, dtype), tmp_path, "half")
    wide = loaded(rounded(model, dtype), tmp_path, "wide")
    np.testing.assert_array_equal(half.gradient(x, Target.element(1)), wide.gradient(x, Target.element(1)))
    if name in SMOOTH:
        # What rounding the weights alone does: 2⁻¹² of each on average, or 2⁻⁹, through some ten layers.
        exact = loaded(model, tmp_path, "exact").gradient(x, Target.element(1))
        limit = 2e-3 if kind == "float16" else 1e-2
        assert 0 < distance(half.gradient(x, Target.element(1)), exact) < limit


@pytest.mark.parametrize("kind", [*NARROW, "float64"])
def test_what_is_computed_in_float32_says_so_and_takes_any_real_windows(tmp_path, kind):
    code, dtype = {**NARROW, "float64": (TensorProto.DOUBLE, np.dtype(np.float64))}[kind]
    model = families.count_net()
    explainer = loaded(in_type(model, code, dtype), tmp_path, "m")
    assert [w for w in explainer.model.warnings if f"m.onnx: {kind} is computed in float32" in w]
    assert explainer.model.input.dtype == "float32"
    x = windows(model)
    for method in ("input_x_gradient", "integrated_gradients", "deep_lift", "lrp", "occlusion"):
        wide = explainer.explain(x, method, Target.element(2))
        narrow = explainer.explain(x.astype(np.float16), method, Target.element(2))
        np.testing.assert_array_equal(wide.cells, narrow.cells)


def test_a_float32_network_is_left_as_it_is(tmp_path):
    assert not [w for w in loaded(families.mlp(), tmp_path, "m").model.warnings if "computed in" in w]


def test_half_precision_inside_a_float32_network_is_widened_too(tmp_path):
    weight = np.random.default_rng(3).standard_normal((6, 3)).astype(np.float16)
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 3])]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Cast", ["f"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "mixed", info, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = np.full((1, 2, 3), 1e-6, np.float32)  # rounds to a multiple of 6e-8 in float16
    explainer = loaded(model, tmp_path, "m")
    assert explainer.model.warnings
    np.testing.assert_allclose(explainer.score(x, 1), 1e-6 * weight[:, 1].astype(np.float32).sum(), rtol=1e-6)


# -- float64, as far as ONNX Runtime has kernels ----------------------------------------------------------------------


def test_the_engine_differentiates_float64_where_onnx_runtime_has_the_kernels():
    generator = np.random.default_rng(0)
    w = generator.standard_normal((5, 3))
    info = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, ["b", d]) for n, d in (("x", 5), ("y", 3))]
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a"]), helper.make_node("Tanh", ["a"], ["y"])]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    x = generator.standard_normal((2, 5))
    got = session.run(["gradient:x"], {"x": x, "cotangent:y": np.ones((2, 3))})[0]
    np.testing.assert_allclose(got, (1 - np.tanh(x @ w) ** 2) @ w.T, rtol=1e-12)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_float64_network_is_explained_in_float32(tmp_path, name):
    model = families.FAMILIES[name]()
    x = windows(model)
    wide = loaded(families.in_float64(model), tmp_path, "wide").gradient(x.astype(np.float64), Target.element(1))
    np.testing.assert_array_equal(wide, loaded(model, tmp_path, "plain").gradient(x, Target.element(1)))


def test_bfloat16_constants_are_typed():
    info = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, ["b", 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = differentiate(ir.from_proto(model), ["x"])
    assert {v.const_value.dtype for v in found.graph.initializers.values()} == {ir.DataType.BFLOAT16}
