"""Graphs without weights, paired with safetensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from tonescope_server.errors import CorruptWeightsError, TensorMismatchError
from tonescope_server.models.loading import load_model

from .dense import BIAS, WEIGHT, external


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


def test_original_files_are_left_as_they_were(shared):
    path = shared / "golden/A_count/model.onnx"
    before = path.read_bytes()
    load_model(path, weights=shared / "real/ruview/count_v0.0.1.safetensors")
    assert path.read_bytes() == before
    assert load_file(shared / "real/ruview/count_v0.0.1.safetensors")
    assert onnx.load(path).graph.node
