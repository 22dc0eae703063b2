"""The dilated 1-D CNN over CSI windows, with its two heads: person count and pose.

Encoder: three convolutions over time (dilations 1, 2, 4; the length is kept), ReLU after each, then the
    mean over time.
The count network has two heads of two linear layers (class logits, confidence logit); the pose network has
one, with a sigmoid, and may carry a low-rank adapter trained for one room.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.errors import TensorMismatchError
from tonescope_server.marker import hookimpl
from tonescope_server.models.architectures import Architecture, Tensors
from tonescope_server.models.architectures._layers import (
    LayerTape,
    Shape,
    check_tensors,
    linear_shapes,
    window_input,
)

INPUT = "csi_window"

_ENCODER: dict[str, Shape] = {
    "enc.c1.weight": ("c1", "rows", "kernel"),
    "enc.c1.bias": ("c1",),
    "enc.c2.weight": ("c2", "c1", "kernel"),
    "enc.c2.bias": ("c2",),
    "enc.c3.weight": ("c3", "c2", "kernel"),
    "enc.c3.bias": ("c3",),
}
_COUNT: dict[str, Shape] = {
    **_ENCODER,
    **linear_shapes("count_head.fc1", "c3", "count_hidden"),
    **linear_shapes("count_head.fc2", "count_hidden", "classes"),
    **linear_shapes("conf_head.fc1", "c3", "conf_hidden"),
    **linear_shapes("conf_head.fc2", "conf_hidden", 1),
}
_POSE: dict[str, Shape] = {
    **_ENCODER,
    **linear_shapes("head.fc1", "c3", "hidden"),
    **linear_shapes("head.fc2", "hidden", "coordinates"),
}
# The first 56 tones of the legacy training field of an ESP32, which is what this family's recorder keeps.
_LAYOUTS: Mapping[int, str] = MappingProxyType({56: "ruview56"})


class CountNet:
    """Person count: outputs ``count_logits`` (batch, classes) and ``conf_logits`` (batch, 1)."""

    name: ClassVar[str] = "csi_count_net"
    summary: ClassVar[str] = "dilated 1-D CNN over a CSI window with a class head and a confidence head"
    layouts: ClassVar[Mapping[int, str]] = _LAYOUTS

    def matches(self, tensors: Tensors) -> bool:
        """Say whether the file has the two heads of this network."""
        return _has(tensors, "count_head.") and _has(tensors, "conf_head.", "enc.")

    def matches_adapter(self, tensors: Tensors) -> bool:
        """Say no: this network has no adapters."""
        return False

    def build(self, tensors: Tensors, adapter: Tensors | None = None, *, frames: int = 20) -> ir.Model:
        """Build the graph; see :class:`Architecture`."""
        if adapter is not None:
            raise TensorMismatchError(f"{self.name}: takes no adapter, got one with {', '.join(adapter)}")
        sizes = _check(self.name, tensors, _COUNT)
        tape = LayerTape(tensors)
        window = window_input(INPUT, sizes["rows"], frames)
        pooled = _encode(tape, window)
        hidden = tape.op("Relu", [tape.linear(pooled, "count_head.fc1", "count_z")], "count_h")
        count = tape.linear(hidden, "count_head.fc2", "count_logits")
        hidden = tape.op("Relu", [tape.linear(pooled, "conf_head.fc1", "conf_z")], "conf_h")
        confidence = tape.linear(hidden, "conf_head.fc2", "conf_logits")
        return tape.model(self.name, [window], [count, confidence])


class PoseNet:
    """Pose: output ``keypoints`` (batch, coordinates), x and y of each joint in turn, each in [0, 1]."""

    name: ClassVar[str] = "csi_pose_net"
    summary: ClassVar[str] = "dilated 1-D CNN over a CSI window with a keypoint head, and its low-rank adapter"
    layouts: ClassVar[Mapping[int, str]] = _LAYOUTS

    def matches(self, tensors: Tensors) -> bool:
        """Say whether the file has the one head of this network."""
        return _has(tensors, "head.fc", "enc.")

    def matches_adapter(self, tensors: Tensors) -> bool:
        """Say whether the file holds low-rank factors of the head's layers and nothing else."""
        return bool(tensors) and all(name in _adapter_shapes({}) for name in tensors)

    def build(self, tensors: Tensors, adapter: Tensors | None = None, *, frames: int = 20) -> ir.Model:
        """Build the graph, with the adapter merged into the head; see :class:`Architecture`."""
        sizes = _check(self.name, tensors, _POSE)
        merged = dict(tensors)
        if adapter is not None:
            check_tensors(f"{self.name} adapter", adapter, _adapter_shapes(sizes))
            for layer in ("fc1", "fc2"):
                weight = f"head.{layer}.weight"
                merged[weight] = _merge(tensors[weight], adapter[f"{layer}.a"], adapter[f"{layer}.b"])
        tape = LayerTape(merged)
        window = window_input(INPUT, sizes["rows"], frames)
        hidden = tape.op("Relu", [tape.linear(_encode(tape, window), "head.fc1", "z")], "h")
        keypoints = tape.op("Sigmoid", [tape.linear(hidden, "head.fc2", "keypoint_logits")], "keypoints")
        return tape.model(self.name, [window], [keypoints])


def _has(tensors: Tensors, *prefixes: str) -> bool:
    return all(any(name.startswith(prefix) for name in tensors) for prefix in prefixes)


def _check(owner: str, tensors: Tensors, expected: Mapping[str, Shape]) -> dict[str, int]:
    sizes = check_tensors(owner, tensors, expected)
    if sizes["kernel"] % 2 == 0:
        raise TensorMismatchError(f"{owner}: enc.c1.weight: expected an odd kernel, got {sizes['kernel']}")
    return sizes


def _encode(tape: LayerTape, window: ir.Value) -> ir.Value:
    x = window
    for layer, dilation in enumerate((1, 2, 4), start=1):
        x = tape.op("Relu", [tape.conv1d(x, f"enc.c{layer}", f"c{layer}", dilation)], f"h{layer}")
    axes = tape.constant("axes_time", np.asarray([2], np.int64))
    return tape.op("ReduceMean", [x, axes], "pooled", keepdims=0)


def _adapter_shapes(sizes: Mapping[str, int]) -> dict[str, Shape]:
    inner: int | str = sizes.get("hidden", "hidden")
    return {
        "fc1.a": (sizes.get("c3", "c3"), "rank1"),
        "fc1.b": ("rank1", inner),
        "fc2.a": (inner, "rank2"),
        "fc2.b": ("rank2", sizes.get("coordinates", "coordinates")),
    }


def _merge(
    weight: npt.NDArray[np.float32], a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Fold ``y + (x·A)·B`` into ``y = x·Wᵀ + b``: ``W' = W + (A·B)ᵀ``, summed in float64 and rounded once."""
    delta = a.astype(np.float64) @ b.astype(np.float64)
    return (weight.astype(np.float64) + delta.T).astype(np.float32)


@hookimpl
def tonescope_architectures() -> list[Architecture]:
    """Offer both networks."""
    return [CountNet(), PoseNet()]
