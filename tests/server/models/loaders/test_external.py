"""External data: embedded, checked, and never read from outside the model's folder."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tonescope_server.errors import CorruptWeightsError, MissingWeightsError, ModelError
from tonescope_server.models.loading import load_model

from .dense import WEIGHT, expected, external, windows


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
