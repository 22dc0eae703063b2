"""Architectures: from the named tensors of a safetensors file to a graph.

A weights file holds numbers and no wiring, so an architecture supplies the wiring, and says precisely which
tensor does not fit. Reading files is ``loaders``' business; the shared way to check tensors and emit nodes
is ``_layers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Tensors = Mapping[str, npt.NDArray[Any]]
"""The tensors of one weights file, by name."""

FloatTensors = Mapping[str, npt.NDArray[np.float32]]


class Architecture(Protocol):
    """A kind of network that can be rebuilt from its weights."""

    @property
    def name(self) -> str:
        """The name a manifest uses."""

    @property
    def summary(self) -> str:
        """One line: what the network is."""

    @property
    def layouts(self) -> Mapping[int, str]:
        """The tone layout that windows of so many rows usually have in this family: a guess, warned of."""

    def matches(self, tensors: Tensors) -> bool:
        """Say whether these tensors look like this network's, by the names that set it apart.

        A file with a tensor missing still matches, so that :meth:`build` can name the tensor.
        """

    def matches_adapter(self, tensors: Tensors) -> bool:
        """Say whether these tensors look like an adapter of this network."""

    def build(self, tensors: Tensors, adapter: Tensors | None = None, *, frames: int = 20) -> ir.Model:
        """Build the graph.

        Shapes:
            The input is ``(batch, rows, frames)`` for a network that convolves over time; ``frames`` is
            what the manifest says, as the weights do not tell. A network of another kind ignores it.

        Raises:
            TensorMismatchError: tensors missing, extra or mis-shaped, each named.
        """


def built_in_architectures() -> dict[str, Architecture]:
    """Return the project's own architectures by name, for use without a plugin host."""
    from tonescope_server.models.architectures import csi_cnn, residual_mlp

    found = [*csi_cnn.tonescope_architectures(), *residual_mlp.tonescope_architectures()]
    return {architecture.name: architecture for architecture in found}
