"""Windows of the training data, in a file beside the manifest."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tonescope_server.errors import ManifestError
from tonescope_server.models.loading import load_model


@pytest.fixture
def load(save_onnx, tmp_path):
    """Load a model of 4 tones by 5 frames, written frame by frame, beside a file of windows."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    save_onnx("m.onnx", nodes, {"w": np.ones((20, 2), np.float32)})

    def load_with(content, name="background.npy"):
        (tmp_path / "model.toml").write_text(
            '[input]\ncell_order = "frame_tone"\n[window]\nframes = 5\n[baseline]\nbackground = "background.npy"\n'
        )
        if isinstance(content, np.ndarray | np.generic):
            np.save(tmp_path / name, content)
        elif content is not None:
            (tmp_path / name).write_bytes(content)
        return load_model(tmp_path)

    return load_with


def test_windows_are_read_in_the_models_own_type(load):
    windows = np.random.default_rng(0).standard_normal((3, 4, 5))
    found = load(windows).background
    np.testing.assert_array_equal(found, windows.astype(np.float32))
    assert found.dtype == np.float32
    assert not found.flags.writeable


def test_one_value_a_tone_is_held_over_all_frames_in_the_order_of_the_cells(load):
    rows = np.arange(8.0).reshape(2, 4)
    found = load(rows).background
    for window, row in zip(found, rows, strict=True):
        np.testing.assert_array_equal(window.ravel(), np.tile(row, 5))  # frame by frame


def test_a_model_whose_manifest_names_none_has_none(save_onnx):
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    path = save_onnx("m.onnx", nodes, {"w": np.ones((20, 2), np.float32)})
    assert load_model(path).background is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"not an array", "not a .npy file"),
        (b"", "not a .npy file"),
        (np.zeros((0, 4, 5)), r"got \(0, 4, 5\)"),
        (np.zeros((3, 5, 4)), r"expected windows \(n, 4, 5\) or \(n, 4\), n at least 1, got \(3, 5, 4\)"),
        (np.zeros((3, 5)), r"got \(3, 5\)"),
        (np.full((1, 4, 5), np.nan), "expected finite numbers"),
        (np.full((1, 4, 5), 1e300), "expected finite numbers"),
        (np.zeros((1, 4, 5), np.complex64), r"expected an array of real numbers, got complex64"),
        (np.ones(()), r"expected an array of real numbers, got float64 \(\)"),
    ],
)
def test_a_file_that_holds_no_such_windows_is_refused_in_one_line(load, content, message):
    with pytest.raises(ManifestError, match=message) as caught:
        load(content)
    assert "\n" not in str(caught.value)


def test_objects_are_never_unpickled(load):
    with pytest.raises(ManifestError, match=r"not a \.npy file"):
        load(np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize("key", ["dataset_mean", "empty_room"])
def test_a_mean_needs_a_value_for_each_tone(save_onnx, tmp_path, key):
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    save_onnx("m.onnx", nodes, {"w": np.ones((20, 2), np.float32)})
    (tmp_path / "model.toml").write_text(f"[baseline]\n{key} = [0.0, 1.0, 2.0]\n")
    with pytest.raises(ManifestError, match=rf"baseline\.{key}: expected a value for each of 4 tones, got 3"):
        load_model(tmp_path)
