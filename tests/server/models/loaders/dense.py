"""A linear layer over a window of 4 tones and 5 frames, as an ONNX model, and what it computes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

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
