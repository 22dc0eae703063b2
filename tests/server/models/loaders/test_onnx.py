from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tonescope_server.errors import NotOnnxError, UnsupportedOperatorError
from tonescope_server.models.loading import load_model

from .dense import BIAS, WEIGHT, dense, expected, windows


def test_a_plain_model_computes_what_it_computed(save, run):
    model = load_model(save())
    x = windows()
    np.testing.assert_allclose(run(model.graph, x)["logits"], expected(x), rtol=1e-5, atol=1e-5)
    assert (model.input.name, model.input.dtype, model.input.shape) == ("x", "float32", (-1, 4, 5))
    assert [(o.name, o.shape, o.op_type) for o in model.outputs] == [("logits", (-1, 3), "Gemm")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04rest", "a zip archive, such as a PyTorch checkpoint"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "markup text"),
        (b'{"a": 1}', "JSON"),
        (bytes(range(256)), "256 bytes of something else"),
    ],
)
def test_what_is_not_onnx_is_refused_with_what_it_looks_like(data, reason, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(NotOnnxError, match=rf"^m\.onnx: not an ONNX model: .*{reason}") as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_a_truncated_model_is_refused(save):
    path = save()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(NotOnnxError, match=r"^m\.onnx: not an? "):
        load_model(path)


def test_a_graph_that_breaks_the_rules_is_refused_in_one_line(save):
    nodes = [helper.make_node("Gemm", ["nowhere", "w", "b"], ["logits"])]
    with pytest.raises(NotOnnxError, match=r"m\.onnx: not a valid ONNX model: .*nowhere") as error:
        load_model(save(nodes=nodes, output_shape=("batch", 3)))
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_text_is_refused(save):
    path = save(tensors={"w": WEIGHT, "b": BIAS, "unused_name": BIAS})
    path.write_bytes(path.read_bytes().replace(b"unused_name", b"unused\xff\xfe\xfd\xfc\xfb"))
    with pytest.raises(NotOnnxError, match="a name in it is not UTF-8"):
        load_model(path)


def test_shapes_that_contradict_each_other_are_refused(save):
    with pytest.raises(NotOnnxError, match=r"m\.onnx: its shapes contradict each other"):
        load_model(save(tensors={"w": WEIGHT[:19], "b": BIAS}, output_shape=("batch", 3)))


def test_an_old_opset_is_converted(save, run):
    # ReduceMean took its axes as an attribute before opset 18.
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["flat"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    model = load_model(save(nodes=nodes, tensors={"w": WEIGHT[:5], "b": BIAS}, opset=11))
    assert model.graph.opset_imports[""] == 18
    x = windows()
    np.testing.assert_allclose(run(model.graph, x)["logits"], x.mean(axis=1) @ WEIGHT[:5] + BIAS, rtol=1e-5, atol=1e-5)


def test_an_opset_that_cannot_be_converted_is_refused_by_name(save):
    statistics = {name: np.ones(4, np.float32) for name in "smuv"}
    nodes = [helper.make_node("BatchNormalization", ["x", *statistics], ["logits"], is_test=0)]
    with pytest.raises(
        UnsupportedOperatorError, match=r"m\.onnx: opset 6 cannot be converted to 18: Attribute is_test must not"
    ):
        load_model(save(nodes=nodes, tensors=statistics, opset=6))


def test_an_opset_from_the_future_is_refused(save):
    with pytest.raises((UnsupportedOperatorError, NotOnnxError), match="999"):
        load_model(save(opset=999))


def test_constants_become_initializers(save):
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT, "w"))
    model = load_model(save(nodes=[constant, *dense()], tensors={"b": BIAS}))
    assert "Constant" not in {node.op_type for node in model.graph.graph}
    assert "w" in model.graph.graph.initializers


def test_functions_are_inlined(save, run):
    def add_function(proto):
        body = [helper.make_node("Gemm", ["v", "w", "b"], ["r"])]
        opsets = [helper.make_opsetid("", 18)]
        proto.functions.append(helper.make_function("own", "Dense", ["v", "w", "b"], ["r"], body, opsets))
        proto.opset_import.append(helper.make_opsetid("own", 1))

    nodes = [dense()[0], helper.make_node("Dense", ["flat", "w", "b"], ["logits"], domain="own")]
    model = load_model(save(nodes=nodes, change=add_function))
    assert [node.op_type for node in model.graph.graph] == ["Flatten", "Gemm"]
    x = windows()
    np.testing.assert_allclose(run(model.graph, x)["logits"], expected(x), rtol=1e-5, atol=1e-5)


def test_an_operator_of_an_unknown_domain_still_loads(save):
    nodes = [dense()[0], helper.make_node("Odd", ["flat"], ["logits"], domain="elsewhere")]

    def declare(proto):
        proto.opset_import.append(helper.make_opsetid("elsewhere", 1))

    model = load_model(save(nodes=nodes, output_shape=("batch", 3), change=declare))
    assert model.outputs[0].op_type == "Odd"


@pytest.mark.parametrize(
    "case", ["A_count", "C_resnet_small", "D_vit_small", "E_bilstm", "H_mlp_ln", "I_residual_mlp", "J_dwsep"]
)
def test_golden_models_give_their_golden_outputs(case, shared, run):
    folder = shared / "golden" / case
    golden = np.load(folder / "golden.npz")
    model = load_model(folder / "model.onnx")
    name = model.outputs[0].name
    got = run(model.graph, golden["x"])[name]
    np.testing.assert_allclose(got, golden[f"forward.{name}"], rtol=1e-4, atol=1e-5)
    assert all(value.shape is not None for node in model.graph.graph for value in node.outputs if value.name)
