"""What a loaded model is: one graph, its manifest, and what its input cells mean.

Files are read in ``loading``; nothing here does I/O, and nothing here runs the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from tonescope_server.csi.cells import CellMap
from tonescope_server.csi.tones import ToneTable
from tonescope_server.models.manifest import NORMALISATION_GUESS, Manifest
from tonescope_server.types import FloatArray


@dataclass(frozen=True)
class TensorSpec:
    """A graph input, an output or an internal value.

    Attributes:
        name: the value's name in the graph.
        dtype: its NumPy name, such as ``"float32"``; "" where shape inference could not tell.
        shape: the size of each axis, −1 for one that varies (the batch axis); () also where the rank is not
            known.
        op_type: the operator that produces it; "" for a graph input.
        node: the name of the node that produces it; "" for a graph input.
        module: the path of the module it comes from, such as ``"encoder.layers.0.relu"``, where the exporter recorded
            one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    op_type: str = ""
    node: str = ""
    module: str = ""

    @classmethod
    def of(cls, value: ir.Value) -> TensorSpec:
        """Describe a value of a graph."""
        dtype = value.dtype
        known = dtype is not None and dtype is not ir.DataType.UNDEFINED
        producer = value.producer()
        return cls(
            name=value.name or "",
            dtype=dtype.numpy().name if dtype is not None and known else "",
            shape=tuple(d if isinstance(d, int) else -1 for d in value.shape or ()),
            op_type=producer.op_type if producer is not None else "",
            node=(producer.name or "") if producer is not None else "",
            module=_module(producer) if producer is not None else "",
        )


def _module(node: ir.Node) -> str:
    """Return the innermost module that torch's exporter says a node comes from; "" where it says nothing."""
    # The list runs from the model itself, named '', inwards, and ends in the name of the operation.
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    return scopes[-2] if len(scopes) > 1 else ""


@dataclass(frozen=True)
class Model:
    """A model ready to be explained. Treat ``graph`` as immutable: clone it before changing anything.

    Attributes:
        name: its name in the store, or the stem of its file.
        version: its version; "1" where nothing says otherwise.
        digest: sha256, in hexadecimal, over the bytes of every weight file in turn (weights, then external
            data or paired weights, then the adapter). For a model of one file it is that file's sha256.
        graph: ONNX, opset 18 or newer, weights embedded, shapes inferred, functions inlined, first axis
            symbolic.
        manifest: the manifest as resolved: every guess is filled in and is also in ``warnings``.
        input: the input that is explained; its first axis is −1, or 1 where the graph allows no other batch.
        outputs: the graph's outputs; the first is the default target's.
        table: the tones of a window's rows.
        cells: how the flat cells of one window map to frames and tones.
        warnings: guesses and oddities met while loading, one line each.
        is_coupled: whether what the graph says of a window depends on the others in its batch.
        is_random: whether the graph draws at random, so that answers differ from run to run.
        background: the windows of the manifest's ``baseline.background``, ``(n, *input shape)``; None where it names
            none.
    """

    name: str
    version: str
    digest: str
    graph: ir.Model
    manifest: Manifest
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    table: ToneTable
    cells: CellMap
    warnings: tuple[str, ...] = ()
    background: FloatArray | None = None
    is_coupled: bool = False
    is_random: bool = False

    @property
    def wants_windows_alone(self) -> bool:
        """Whether a window, or a point made from one, must be a batch of its own to be answered for itself."""
        return self.is_coupled or self.input.shape[0] == 1

    def warnings_for(self, normalise: str | None) -> tuple[str, ...]:
        """Return the warnings that hold for a request: what it says itself is not guessed.

        Args:
            normalise: the normalisation that was asked for; "" or None where that was left to the manifest.
        """
        return warnings_for(self.warnings, normalise)


def warnings_for(warnings: Iterable[str], normalise: str | None) -> tuple[str, ...]:
    """Return those of a model's warnings that hold for a request: see ``Model.warnings_for``."""
    return tuple(text for text in warnings if not (normalise and text == NORMALISATION_GUESS))


def output_specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Describe several values, in order."""
    return tuple(TensorSpec.of(value) for value in values)
