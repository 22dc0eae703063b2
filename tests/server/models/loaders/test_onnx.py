from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from tonescope_server.errors import (
    CorruptWeightsError,
    ManifestError,
    MissingWeightsError,
    ModelError,
    NotOnnxError,
    TensorMismatchError,
    UnsupportedOperatorError,
)
from tonescope_server.models.loading import load_model
from tonescope_server.models.manifest import Manifest

RANDOM = np.random.default_rng(5)
WEIGHT = RANDOM.standard_normal((20, 3)).astype(np.float32)
BIAS = RANDOM.standard_normal(3).astype(np.float32)


def dense(flatten=None):
    """A flatten and a linear layer over a (4, 5) window."""
    return [
        flatten or helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]


def windows(n=3):
    return np.random.default_rng(0).standard_normal((n, 4, 5)).astype(np.float32)


def expected(x):
    return x.reshape(len(x), -1) @ WEIGHT + BIAS


def external(name, location, *, offset=0, shape=(20, 3), length=240):
    def change(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))

    return change


@pytest.fixture
def save(save_onnx):
    def save_dense(name="m.onnx", nodes=None, tensors=None, **options):
        return save_onnx(name, nodes or dense(), tensors or {"w": WEIGHT, "b": BIAS}, **options)

    return save_dense


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


def test_missing_external_weights_are_named_with_their_tensors_and_the_way_out(shared):
    with pytest.raises(
        MissingWeightsError, match=r"count_v2\.onnx\.data is missing \(tensors enc_c1\.weight, .*safetensors"
    ):
        load_model(shared / "real/ruview/count_v1.onnx")


def test_external_weights_beside_the_model_are_embedded(save, run):
    path = save(change=external("w", "data/w.bin", offset=16))
    (path.parent / "data").mkdir()
    (path.parent / "data/w.bin").write_bytes(b"\0" * 16 + WEIGHT.tobytes())
    model = load_model(path)
    x = windows()
    np.testing.assert_allclose(run(model.graph, x)["logits"], expected(x), rtol=1e-5, atol=1e-5)
    both = path.read_bytes() + (path.parent / "data/w.bin").read_bytes()
    assert model.digest == hashlib.sha256(both).hexdigest()


def test_a_short_external_file_is_refused_by_tensor(save):
    path = save(change=external("w", "w.bin"))
    (path.parent / "w.bin").write_bytes(b"\0" * 239)
    with pytest.raises(CorruptWeightsError, match=r"tensor w: expected bytes 0 to 240 .*got a file of 239 bytes"):
        load_model(path)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w.bin", "..\\w.bin", ""])
def test_external_data_outside_the_models_folder_is_refused(location, save):
    path = save("inner/m.onnx", change=external("w", location))
    (path.parent.parent / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(ModelError, match=r"tensor w: external data .*expected a file in the model's folder"):
        load_model(path)


def test_external_data_behind_a_link_that_leaves_the_folder_is_refused(save):
    path = save("inner/m.onnx", change=external("w", "w.bin"))
    outside = path.parent.parent / "w.bin"
    outside.write_bytes(WEIGHT.tobytes())
    (path.parent / "w.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="expected a file in the model's folder"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "output"), [("count_v1", "count_logits"), ("count_v1", "conf_logits"), ("pose_v1", "keypoints")]
)
def test_published_graphs_paired_with_their_weights_agree_with_the_rebuilt_networks(name, output, shared, run):
    folder = shared / "real/ruview"
    paired = load_model(folder / f"{name}.onnx", weights=folder / f"{name}.safetensors")
    rebuilt = load_model(folder / f"{name}.safetensors")
    x = np.random.default_rng(2).standard_normal((4, 56, 20)).astype(np.float32)
    # The same weights in the same operators: only the order of a runtime's sums may differ.
    np.testing.assert_allclose(run(paired.graph, x)[output], run(rebuilt.graph, x)[output], rtol=1e-5, atol=1e-6)
    assert paired.table.id == "ruview56"
    assert not any("training runs" in warning for warning in paired.warnings)


def test_weights_of_another_training_run_replace_all_and_are_warned_of(shared, run):
    folder = shared / "real/ruview"
    other = folder / "count_v0.0.1.safetensors"
    paired = load_model(folder / "count_v1.onnx", weights=other)
    assert any("enc_c1.bias" in w and "different training runs" in w for w in paired.warnings)
    x = np.random.default_rng(2).standard_normal((2, 56, 20)).astype(np.float32)
    want = run(load_model(other).graph, x)["count_logits"]
    np.testing.assert_allclose(run(paired.graph, x)["count_logits"], want, rtol=1e-5, atol=1e-6)


def test_pairing_with_another_networks_weights_is_refused_by_shape(shared):
    folder = shared / "real/ruview"
    with pytest.raises(TensorMismatchError, match=r"fc1\.weight: expected \(256, 128\), got .*\(64, 128\)"):
        load_model(folder / "pose_v1.onnx", weights=folder / "count_v1.safetensors")


def test_an_ambiguous_pairing_is_refused_by_name(save, tmp_path):
    save_file({"one.w": WEIGHT, "two.w": WEIGHT, "b": BIAS}, tmp_path / "w.safetensors")
    with pytest.raises(TensorMismatchError, match=r"w \(20, 3\) is ambiguous: one\.w, two\.w fit"):
        load_model(save(change=external("w", "gone.bin")), weights=tmp_path / "w.safetensors")


def test_a_tensor_missing_from_the_pair_is_named(save, tmp_path):
    save_file({"net.b": BIAS}, tmp_path / "w.safetensors")
    with pytest.raises(TensorMismatchError, match=r"m\.onnx with w\.safetensors: missing w \(20, 3\)$"):
        load_model(save(change=external("w", "gone.bin")), weights=tmp_path / "w.safetensors")


def test_a_tensor_the_graph_has_no_use_for_is_named(save, tmp_path):
    save_file({"w": WEIGHT, "b": BIAS, "other": BIAS}, tmp_path / "w.safetensors")
    with pytest.raises(TensorMismatchError, match=r"extra other \(3,\)"):
        load_model(save(change=external("w", "gone.bin")), weights=tmp_path / "w.safetensors")


def test_names_are_matched_by_their_parts_and_not_by_their_letters(save, tmp_path):
    save_file({"net.xw": WEIGHT, "b": BIAS}, tmp_path / "w.safetensors")
    with pytest.raises(TensorMismatchError, match=r"missing w \(20, 3\)"):
        load_model(save(change=external("w", "gone.bin")), weights=tmp_path / "w.safetensors")


def test_a_corrupt_pair_is_named(save, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptWeightsError, match=r"^w\.safetensors: not a whole safetensors file"):
        load_model(save(change=external("w", "gone.bin")), weights=tmp_path / "w.safetensors")


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


def test_a_batch_of_another_name_is_called_batch(save):
    model = load_model(save(shape=("N", 4, 5), output_shape=("N", 3)))
    assert model.graph.graph.inputs[0].shape[0] == "batch"
    assert model.graph.graph.outputs[0].shape[0] == "batch"


@pytest.mark.parametrize("target", [[1, 20], [1, -1]])
def test_a_batch_fixed_at_one_is_opened_through_reshapes(target, save, run):
    nodes = dense(helper.make_node("Reshape", ["x", "target"], ["flat"]))
    tensors = {"w": WEIGHT, "b": BIAS, "target": np.int64(target)}

    def note(proto):
        proto.graph.value_info.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, (1, 20)))

    model = load_model(save(nodes=nodes, tensors=tensors, shape=(1, 4, 5), output_shape=(1, 3), change=note))
    x = windows()
    np.testing.assert_allclose(run(model.graph, x)["logits"], expected(x), rtol=1e-5, atol=1e-5)
    assert model.input.shape == (-1, 4, 5)
    assert model.outputs[0].shape == (-1, 3)


def test_a_batch_that_cannot_be_opened_stays_with_a_warning(save, run):
    # Subtracting the mean over axis 0 mixes the windows of a batch: only batches of one are right.
    nodes = [
        helper.make_node("ReduceMax", ["x", "zero"], ["top"], keepdims=1),
        helper.make_node("Flatten", ["top"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    tensors = {"w": WEIGHT, "b": BIAS, "zero": np.int64([0])}
    model = load_model(save(nodes=nodes, tensors=tensors, shape=(1, 4, 5)))
    assert model.input.shape == (1, 4, 5)
    assert any("takes one window at a time" in warning for warning in model.warnings)
    np.testing.assert_allclose(run(model.graph, windows(1))["logits"], expected(windows(1)), rtol=1e-5, atol=1e-5)


def test_a_graph_that_cannot_run_opened_stays_with_a_warning(save):
    # The reshape's target is computed, so it cannot be loosened, and a longer batch does not fit it.
    nodes = [
        helper.make_node("Identity", ["fixed"], ["target"]),
        *dense(helper.make_node("Reshape", ["x", "target"], ["flat"])),
    ]
    model = load_model(save(nodes=nodes, tensors={"w": WEIGHT, "b": BIAS, "fixed": np.int64([1, 20])}, shape=(1, 4, 5)))
    assert model.input.shape == (1, 4, 5)


def test_a_fixed_batch_of_several_is_refused(save):
    nodes = [
        helper.make_node("ReduceMax", ["x", "zero"], ["top"], keepdims=1),
        helper.make_node("Flatten", ["top"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    tensors = {"w": WEIGHT, "b": BIAS, "zero": np.int64([0])}
    with pytest.raises(ManifestError, match='input "x" takes batches of 4 only'):
        load_model(save(nodes=nodes, tensors=tensors, shape=(4, 4, 5)))


def test_an_open_axis_needs_a_size_from_the_manifest(save):
    path = save(shape=("batch", 4, "time"))
    with pytest.raises(ManifestError, match=r'input "x" \(batch, 4, time\): axis 2 is open: state \[input\] shape'):
        load_model(path)
    assert load_model(path, manifest=Manifest.parse({"input": {"shape": [4, 5]}})).input.shape == (-1, 4, 5)


def test_an_open_axis_gets_its_size_in_the_outputs_too(save):
    nodes = [helper.make_node("Relu", ["x"], ["logits"])]
    path = save(nodes=nodes, shape=("batch", 4, "time"), output_shape=("batch", 4, "time"))
    model = load_model(path, manifest=Manifest.parse({"input": {"shape": [4, 5]}}))
    assert model.outputs[0].shape == (-1, 4, 5)


def test_a_shape_that_contradicts_the_graph_is_refused(save):
    with pytest.raises(ManifestError, match=r"expected \(batch, 4, 5\) as in the graph, got \(batch, 5, 4\)"):
        load_model(save(), manifest=Manifest.parse({"input": {"shape": [5, 4]}}))


def test_a_model_without_a_batch_axis_is_refused(save):
    with pytest.raises(ManifestError, match=r"expected a batch axis and at least one more, got \(20\)"):
        load_model(save(shape=(20,), nodes=[helper.make_node("Relu", ["x"], ["logits"])]))


def two_inputs(kind):
    return [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4, 5)),
        helper.make_tensor_value_info("y", kind, ("batch", 4, 5)),
    ]


def test_a_second_input_is_refused_by_name(save):
    nodes = [helper.make_node("Add", ["x", "y"], ["logits"])]
    with pytest.raises(ManifestError, match=r"expected one input, of a float type, got 2 \(x, y\)"):
        load_model(save(nodes=nodes, inputs=two_inputs(TensorProto.FLOAT)))


def test_an_input_name_there_is_none_of_is_refused(save):
    with pytest.raises(ManifestError, match=r'no float input "csi" \(inputs: x\)'):
        load_model(save(), manifest=Manifest.parse({"input": {"name": "csi"}}))


def test_an_initializer_that_is_also_listed_as_an_input_is_none(save):
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4, 5)),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, (20, 3)),
    ]
    model = load_model(save(inputs=inputs))
    assert [value.name for value in model.graph.graph.inputs] == ["x"]


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


def test_original_files_are_left_as_they_were(shared):
    path = shared / "golden/A_count/model.onnx"
    before = path.read_bytes()
    load_model(path, weights=shared / "real/ruview/count_v0.0.1.safetensors")
    assert path.read_bytes() == before
    assert load_file(shared / "real/ruview/count_v0.0.1.safetensors")
    assert onnx.load(path).graph.node
