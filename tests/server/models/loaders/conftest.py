"""The dense model on disk, changed as a test wants it."""

from __future__ import annotations

import pytest

from .dense import BIAS, WEIGHT, dense


@pytest.fixture
def save(save_onnx):
    def save_dense(name="m.onnx", nodes=None, tensors=None, **options):
        return save_onnx(name, nodes or dense(), tensors or {"w": WEIGHT, "b": BIAS}, **options)

    return save_dense
