"""Exported graphs, run without this project: on plain ONNX Runtime, and on onnx's reference evaluator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime as ort

Results = Mapping[str, npt.NDArray[Any]]
# The same operators on the same kernels, but for what ONNX Runtime folds or fuses where a value is constant.
SAME_KERNELS = 1e-6


def proto_of(made) -> onnx.ModelProto:
    return ir.to_proto(made.graph)


def on_runtime(proto: onnx.ModelProto, **feeds: npt.NDArray[Any]) -> Results:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def on_reference(proto: onnx.ModelProto, **feeds: npt.NDArray[Any]) -> Results:
    names = [o.name for o in proto.graph.output]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # NumPy's of overflow and of 0/0 that a Where leaves out
        return dict(zip(names, onnx.reference.ReferenceEvaluator(proto).run(names, feeds), strict=True))


def differences(results: Results, attribution) -> dict[str, float]:
    """Return how far a graph's results are from an attribution, each relative to its largest value.

    A convergence delta, and what biases absorbed, are differences of scores, and have their rounding.
    """
    said = {
        "cells": attribution.cells,
        "tones": attribution.tones,
        "score": attribution.score,
        "convergence_delta": attribution.convergence_delta,
        "standard_error": attribution.standard_error,
        "units": attribution.units,
        **{f"map:{name}": value for name, value in attribution.maps.items()},
        **attribution.prediction.outputs,
    }
    stated = {name: value for name, value in said.items() if value is not None}
    assert set(results) == set(stated)
    found = {}
    for name, value in stated.items():
        assert results[name].shape == value.shape, name
        assert results[name].dtype == value.dtype, name
        of = [value, attribution.score, attribution.tones] if name in ("convergence_delta", "map:bias") else [value]
        scale = max(float(np.abs(each).max()) for each in of) or 1.0
        found[name] = float(np.abs(results[name] - value).max()) / scale
    return found


def off(results: Results, attribution) -> float:
    """Return the largest of these differences."""
    return max(differences(results, attribution).values())
