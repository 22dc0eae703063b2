from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from tonescope_server.errors import CorruptWeightsError, ManifestError, TensorMismatchError
from tonescope_server.models.architectures import built_in_architectures
from tonescope_server.models.loaders.safetensors import choose_architecture, load_safetensors, parse_tensors
from tonescope_server.models.loading import load_model


def load(path, **options):
    return load_safetensors(path, built_in_architectures(), **options)


@pytest.mark.parametrize("keep", [0, 5, 200, -1, -100])
def test_a_truncated_file_is_refused_in_one_line(keep, weights, write):
    path = write("count.safetensors", weights.count())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptWeightsError, match=r"^count\.safetensors: not a whole safetensors file") as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_a_damaged_header_is_refused_in_one_line(weights, write):
    path = write("count.safetensors", weights.count())
    data = bytearray(path.read_bytes())
    data[8:40] = b"\xff" * 32
    path.write_bytes(data)
    with pytest.raises(CorruptWeightsError, match=r"^count\.safetensors: not a whole safetensors file"):
        load_model(path)


def test_the_trained_weights_cut_short_are_refused(shared, tmp_path):
    path = tmp_path / "count_v1.safetensors"
    path.write_bytes((shared / "real/ruview/count_v1.safetensors").read_bytes()[:-4])
    with pytest.raises(CorruptWeightsError, match="not a whole safetensors file"):
        load_model(path)


def test_a_file_without_tensors_is_refused(tmp_path):
    path = tmp_path / "empty.safetensors"
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(CorruptWeightsError, match=r"empty\.safetensors: a safetensors file without tensors"):
        load_model(path)


def test_tensors_that_no_architecture_knows_are_listed(weights, write):
    path = write("odd.safetensors", {"layer.a": weights.tensor(2), "layer.b": weights.tensor(2)})
    with pytest.raises(TensorMismatchError, match=r"no architecture goes .*layer\.a, layer\.b.*state \[model\] archit"):
        load_model(path)


def test_several_matching_architectures_are_refused(weights):
    count = built_in_architectures()["csi_count_net"]
    with pytest.raises(TensorMismatchError, match="several architectures go with its tensors"):
        choose_architecture(weights.count(), {"a": count, "b": count}, "", "w.safetensors")


def test_an_unknown_architecture_is_refused_with_those_known(weights, write):
    with pytest.raises(ManifestError, match=r'no architecture "resnet" \(known: csi_count_net, csi_pose_net'):
        load_model(write("count.safetensors", weights.count()), architecture="resnet")


def test_an_architecture_that_is_stated_is_taken_at_its_word(weights, write):
    path = write("count.safetensors", weights.count())
    with pytest.raises(TensorMismatchError, match=r"^count\.safetensors: csi_pose_net: missing head\.fc1\.weight"):
        load_model(path, architecture="csi_pose_net")


def test_integer_tensors_are_refused_by_name(weights, write):
    tensors = weights.count() | {"enc.c1.bias": np.zeros(5, np.int32)}
    with pytest.raises(TensorMismatchError, match=r"expected tensors of a float type, but enc\.c1\.bias is int32"):
        load_model(write("count.safetensors", tensors))


def test_double_weights_are_rounded_with_a_warning(weights, write):
    tensors = {name: array.astype(np.float64) for name, array in weights.count().items()}
    loaded = load(write("count.safetensors", tensors))
    assert loaded.warnings == (
        "count.safetensors: float64 weights are rounded to float32 (14, conf_head.fc1.bias first)",
    )


def test_bfloat16_is_widened_exactly():
    header = json.dumps({"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    data = struct.pack("<Q", len(header)) + header + struct.pack("<3H", 0x3F80, 0xC040, 0x3DCD)
    np.testing.assert_array_equal(parse_tensors(data, "w")["w"], np.float32([1.0, -3.0, 0.10009765625]))


def test_an_element_type_of_no_use_is_refused_by_name():
    header = json.dumps({"w": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}}).encode()
    with pytest.raises(CorruptWeightsError, match="w: element type F8_E5M2 is not supported"):
        parse_tensors(struct.pack("<Q", len(header)) + header + b"ab", "file")


def test_an_adapter_changes_the_digest_but_not_the_hash_of_the_weights(weights, write):
    path, room = write("pose.safetensors", weights.pose()), write("room.safetensors", weights.adapter())
    alone, together = load(path), load(path, adapter=room)
    assert alone.digest == alone.weights_sha256 == together.weights_sha256
    assert together.digest != alone.digest


def test_the_digest_of_a_single_file_is_its_sha256(shared):
    model = load_model(shared / "real/ruview/count_v1.safetensors")
    assert model.digest.startswith("3299643351")
    assert model.digest.endswith("5513c")
