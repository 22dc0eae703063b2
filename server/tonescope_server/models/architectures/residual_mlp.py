"""A residual MLP over a feature vector, with its hidden states named.

``h0 = fin(x)``; ``h_{k+1} = h_k + f2(GELU(f1(LayerNorm(h_k))))`` for each block k; then a last layer
normalisation and a linear head. Tensors, each with ``.weight`` and ``.bias``:

    fin            (width, features)
    blocks.<k>.n   (width,)             the block's layer normalisation, eps 1e-5
    blocks.<k>.f1  (inner, width)
    blocks.<k>.f2  (width, inner)
    norm           (width,)
    head           (outputs, width)

Every block has its own ``inner``. The graph's input is ``features`` (batch, features), its output
``logits`` (batch, outputs), and its states are ``h0`` … ``hK``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

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

_BLOCK = re.compile(r"blocks\.(0|[1-9]\d{0,2})\.")


class ResidualMlp:
    """A residual MLP over a feature vector: output ``logits`` (batch, outputs)."""

    name: ClassVar[str] = "residual_mlp"
    summary: ClassVar[str] = "residual MLP (LayerNorm, GELU) over a feature vector, hidden states h0 … hK"
    layouts: ClassVar[Mapping[int, str]] = MappingProxyType({})

    def matches(self, tensors: Tensors) -> bool:
        """Say whether the file has an input layer, a head and numbered blocks."""
        return "fin.weight" in tensors and any(_BLOCK.match(name) for name in tensors)

    def matches_adapter(self, tensors: Tensors) -> bool:
        """Say no: this network has no adapters."""
        return False

    def build(
        self,
        tensors: Tensors,
        adapter: Tensors | None = None,
        *,
        frames: int = 20,
    ) -> ir.Model:
        """Build the graph; see :class:`Architecture`. ``frames`` has no bearing on it."""
        if adapter is not None:
            raise TensorMismatchError(f"{self.name}: takes no adapter, got one with {', '.join(adapter)}")
        # Gaps in the numbering surface as missing tensors, each with its name.
        blocks = 1 + max((int(found[1]) for name in tensors if (found := _BLOCK.match(name))), default=-1)
        sizes = check_tensors(self.name, tensors, _shapes(blocks))
        tape = LayerTape(tensors)
        x = window_input("features", sizes["features"])
        state = tape.linear(x, "fin", "h0")
        for k in range(blocks):
            normed = tape.layer_norm(state, f"blocks.{k}.n", f"n{k}")
            inner = tape.gelu(tape.linear(normed, f"blocks.{k}.f1", f"z{k}"), f"a{k}")
            update = tape.linear(inner, f"blocks.{k}.f2", f"u{k}")
            state = tape.op("Add", [state, update], f"h{k + 1}")
        logits = tape.linear(tape.layer_norm(state, "norm", "n_out"), "head", "logits")
        return tape.model(self.name, [x], [logits])


def _shapes(blocks: int) -> dict[str, Shape]:
    shapes = linear_shapes("fin", "features", "width")
    for k in range(blocks):
        shapes |= {f"blocks.{k}.n.weight": ("width",), f"blocks.{k}.n.bias": ("width",)}
        shapes |= linear_shapes(f"blocks.{k}.f1", "width", f"inner{k}")
        shapes |= linear_shapes(f"blocks.{k}.f2", f"inner{k}", "width")
    shapes |= {"norm.weight": ("width",), "norm.bias": ("width",)}
    return shapes | linear_shapes("head", "width", "outputs")


@hookimpl
def tonescope_architectures() -> list[Architecture]:
    """Offer the residual MLP."""
    return [ResidualMlp()]
