"""Stores of linear models: one output, ``x · w``, so that every attribution is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_linear(folder: Path, weights: npt.NDArray[np.float32], manifest: str) -> Path:
    """Write a model whose input has the shape of ``weights``; return the store."""
    shape: Sequence[int] = weights.shape
    flat = numpy_helper.from_array(weights.reshape(-1, 1).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [flat],
    )
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "m.onnx")
    kind = '\n[normalisation]\nkind = "none"\n' if "[normalisation]" not in manifest else ""
    (folder / "model.toml").write_text(f'{manifest}{kind}\n[[outputs]]\nname = "y"\nkind = "regression"\n')
    return folder.parent
