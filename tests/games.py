"""Models that are sums of products of their features, so that every Shapley value and interaction is known."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer

MANIFEST = """
input = { cell_order = "feature" }
outputs = [{ name = "y", kind = "regression" }]
baseline = { value = 0.0 }
normalisation = { kind = "none" }
"""
Products = Mapping[tuple[int, ...], float]
"""The coefficient of each product of features, by their indices."""


def write_game(folder: Path, features: int, products: Products) -> Explainer:
    """Write ``y = Σ c · Π x_i`` as an ONNX model without anything else, and load it."""
    nodes, summands, constants = [], [], []
    for number, (members, coefficient) in enumerate(products.items()):
        constants.append(numpy_helper.from_array(np.array(members, np.int64), f"i{number}"))
        constants.append(numpy_helper.from_array(np.array(coefficient, np.float32), f"c{number}"))
        nodes.append(helper.make_node("Gather", ["x", f"i{number}"], [f"g{number}"], axis=1))
        nodes.append(helper.make_node("ReduceProd", [f"g{number}", "axis"], [f"p{number}"], keepdims=1))
        nodes.append(helper.make_node("Mul", [f"p{number}", f"c{number}"], [f"s{number}"]))
        summands.append(f"s{number}")
    nodes.append(helper.make_node("Sum", summands, ["y"]))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    graph = helper.make_graph(
        nodes,
        "game",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "m.onnx")
    (folder / "model.toml").write_text(MANIFEST)
    return Explainer.load(folder)


def shapley_of(products: Products, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Share each product evenly among its members, from a baseline of zero: (batch, features)."""
    found = np.zeros(x.shape)
    for members, coefficient in products.items():
        found[:, list(members)] += (coefficient * x[:, list(members)].astype(np.float64).prod(axis=1) / len(members))[
            :, None
        ]
    return found


def interactions_of(products: Products, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Give each pair of a product's members its part of it, one in (members − 1): (batch, features, features)."""
    found = np.zeros((*x.shape, x.shape[1]))
    for members, coefficient in products.items():
        value = coefficient * x[:, list(members)].astype(np.float64).prod(axis=1)
        for i, j in combinations(members, 2):
            found[:, i, j] += value / (len(members) - 1)
            found[:, j, i] += value / (len(members) - 1)
    return found
