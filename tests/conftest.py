"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

# The same examples in every run: a test that fails now and then tells nobody anything.
settings.register_profile("tonescope", derandomize=True, deadline=None, database=None)
settings.load_profile("tonescope")

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and reference vectors; it is no part of the repository."""
    path = Path(os.environ.get("TONESCOPE_SHARED") or _BESIDE_THE_REPOSITORY)
    if not path.is_dir():
        pytest.skip(f"needs the shared folder of real data and golden vectors: {path} is not there")
    return path


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of models that take no time: ``tiny``, ``ruleless`` (no gradient) and ``broken`` (not ONNX).

    Each takes windows of 56 tones (layout ruview56) × 4 frames and knows three classes, the last never trained.
    """
    root = tmp_path_factory.mktemp("store")
    _write_model(root / "tiny", activation="Relu")
    _write_model(root / "ruleless", activation="Hardmax")
    _write_model(root / "broken", activation="Relu")
    (root / "broken" / "model.onnx").write_bytes(b"this is not a model")
    return root


_MANIFEST = """
[model]
description = "a tiny classifier"
[input]
cell_order = "tone_frame"
[tones]
layout = "ruview56"
[window]
frames = 4
hop = 2
[normalisation]
kind = "none"
[[outputs]]
name = "logits"
kind = "logits"
class_names = ["empty", "one", "two"]
trained_classes = [0, 1]
"""


def _write_model(folder: Path, activation: str) -> None:
    random = np.random.default_rng(3)
    first = numpy_helper.from_array(random.standard_normal((224, 16)).astype(np.float32) / 8, "w1")
    second = numpy_helper.from_array(random.standard_normal((16, 3)).astype(np.float32), "w2")
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["hidden"]),
        helper.make_node(activation, ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 56, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [first, second],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    (folder / "model.toml").write_text(_MANIFEST)
