"""The ONNX loader: from a file, perhaps with weights beside it, to a checked graph in opset 18 or newer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto

from tonescope_server.errors import ManifestError, NotOnnxError
from tonescope_server.gradients.activity import branching_on, draws_at_random
from tonescope_server.gradients.rule_set import operator_name
from tonescope_server.models.architectures import Architecture, Tensors
from tonescope_server.models.loaders import LoadedGraph, batch, one_line, read_bytes, sha256
from tonescope_server.models.loaders.external import embed_external, external_tensors, location
from tonescope_server.models.loaders.finish import ONNX_ERRORS, check, finish
from tonescope_server.models.loaders.opset import convert, scale_by_channel
from tonescope_server.models.loaders.order import in_order
from tonescope_server.models.loaders.pairing import pair
from tonescope_server.models.loaders.precision import in_float32
from tonescope_server.models.loaders.safetensors import float_tensors, parse_tensors

_NO_ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({})
_NO_VALUES = np.empty(0, np.float32)
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was never fetched"),
    (b"\x80\x02", "a pickle"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "markup text"),
    (b"{", "JSON"),
)


def parse_onnx(data: bytes, where: str) -> onnx.ModelProto:
    """Read a model from bytes, without its external data.

    Raises:
        NotOnnxError: the bytes are something else; says what, where it can be told.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise NotOnnxError(f"{where}: not an ONNX model: {_what(data)}") from error
    if not proto.ir_version or not proto.graph.node:
        raise NotOnnxError(f"{where}: not an ONNX model: {_what(data)}")
    if _has_broken_text(proto):
        raise NotOnnxError(f"{where}: not a valid ONNX model: a name in it is not UTF-8")
    return proto


def _has_broken_text(message: Message) -> bool:
    """Say whether a string anywhere is not UTF-8: the library hands such a one out as bytes, where text is due."""
    for kind, value in message.ListFields():
        if kind.type == FieldDescriptor.TYPE_STRING:
            texts = [value] if isinstance(value, (str, bytes)) else value
            if any(isinstance(text, bytes) for text in texts):
                return True
        elif kind.type == FieldDescriptor.TYPE_MESSAGE:
            parts = [value] if isinstance(value, Message) else value
            if any(_has_broken_text(part) for part in parts):
                return True
    return False


def _what(data: bytes) -> str:
    if not data:
        return "the file is empty"
    kinds = (kind for signature, kind in _SIGNATURES if data.startswith(signature))
    return f"it looks like {found}" if (found := next(kinds, "")) else f"{len(data)} bytes of something else"


def load_onnx(
    path: Path,
    *,
    weights: Path | None = None,
    input_name: str = "",
    input_shape: Sequence[int] = (),
    architectures: Mapping[str, Architecture] = _NO_ARCHITECTURES,
) -> LoadedGraph:
    """Load an ONNX file.

    Args:
        path: the model.
        weights: a safetensors file that holds the weights, for a model whose external data is missing.
        input_name: the explained input; "" means the only one of a float type.
        input_shape: its shape without the batch axis; empty means the graph's own.
        architectures: asked, by the tensors' names, which tone layout is usual.

    Raises:
        NotOnnxError: not ONNX, or not valid.
        MissingWeightsError: external data is missing and nothing was paired.
        TensorMismatchError: paired weights do not fit.
        UnsupportedOperatorError: the opset is too old, or too new, to be converted.
        ManifestError: no single input to explain, or another shape than the manifest's.
    """
    where = path.name
    data = read_bytes(path)
    proto = parse_onnx(data, where)
    warnings: list[str] = []
    parts = [data]
    layouts = _layouts({tensor.name: _NO_VALUES for tensor in proto.graph.initializer}, architectures)
    if weights is None:
        parts += embed_external(proto, path.parent, where)
    else:
        parts.append(read_bytes(weights))
        tensors = parse_tensors(parts[1], weights.name)
        warnings += _embed_paired(proto, path, tensors, weights.name)
        layouts = _layouts(tensors, architectures)
    proto = scale_by_channel(in_order(proto))
    check(proto, where)
    proto = convert(in_float32(_inline(proto, where), where, warnings), where)
    proto = _any_batch(proto, input_name, input_shape, where, warnings)
    graph = finish(proto, where)
    is_random = any(draws_at_random(graph.graph))
    if is_random:
        drawn = ", ".join(sorted({operator_name(node) for node in draws_at_random(graph.graph)}))
        warnings.append(f"{where}: what it says of a window differs from run to run: it draws at random ({drawn})")
    is_coupled = _is_coupled(graph, proto, input_name, where, is_random=is_random)
    if is_coupled:
        warnings.append(f"{where}: what it says of a window depends on the others in its batch")
    return LoadedGraph(
        graph=graph,
        is_coupled=is_coupled,
        is_random=is_random,
        digest=sha256(parts),
        weights_sha256=sha256([data]),
        layouts=layouts,
        warnings=tuple(warnings),
    )


def _layouts(tensors: Tensors, architectures: Mapping[str, Architecture]) -> Mapping[int, str]:
    """Return the usual tone layouts of the one architecture whose tensor names these are."""
    found = [a.layouts for a in architectures.values() if a.matches(tensors)]
    return found[0] if len(found) == 1 else {}


def _embed_paired(proto: onnx.ModelProto, path: Path, tensors: Tensors, weights: str) -> list[str]:
    where = f"{path.name} with {weights}"
    warnings: list[str] = []
    external = external_tensors(proto)
    for tensor in external:
        location(tensor, path.parent, path.name)
    floats = float_tensors(tensors, weights, warnings)
    candidates = [tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    found, notes = pair(candidates, {tensor.name for tensor in external}, floats, where)
    for tensor in candidates:
        if tensor.name in found:
            tensor.CopyFrom(onnx.numpy_helper.from_array(floats[found[tensor.name]], tensor.name))
    embed_external(proto, path.parent, where)
    return [*warnings, *notes]


def _inline(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    try:
        return onnx.inliner.inline_local_functions(proto)
    except ONNX_ERRORS as error:
        raise NotOnnxError(f"{where}: its functions cannot be inlined: {one_line(error)}") from error


def _explained_input(proto: onnx.ModelProto, name: str, where: str) -> onnx.ValueInfoProto:
    required = batch.required_inputs(proto)
    floats = {value.name: value for value in batch.float_inputs(proto)}
    listed = ", ".join(value.name for value in required) or "none"
    if name and name not in floats:
        raise ManifestError(f'{where}: no float input "{name}" (inputs: {listed})')
    if len(required) != 1 or not floats:
        raise ManifestError(
            f"{where}: expected one input, of a float type, got {len(required)} ({listed}): "
            "nothing could feed the others"
        )
    return required[0]


def _is_coupled(graph: ir.Model, proto: onnx.ModelProto, name: str, where: str, *, is_random: bool) -> bool:
    """Tell whether windows of a batch depend on each other; of what is drawn at random, numbers cannot tell."""
    value = _explained_input(proto, name, where)
    if batch.dims(value)[0].dim_value == 1:
        return False
    own = [v for v in graph.graph.inputs if v.name == value.name]
    return any(branching_on(graph.graph, own)) or (not is_random and batch.is_coupled(proto, value))


def _any_batch(
    proto: onnx.ModelProto, name: str, shape: Sequence[int], where: str, warnings: list[str]
) -> onnx.ModelProto:
    """Make the first axis of the input symbolic, where the graph still answers every window by itself."""
    value = _explained_input(proto, name, where)
    batch.set_sizes(value, shape, where)
    original = onnx.ModelProto()
    original.CopyFrom(proto)
    fixed = batch.open_batch(proto, value)
    if not fixed or batch.loosened_graph_is_equivalent(proto, value, original, fixed):
        return proto
    if fixed != 1:
        raise ManifestError(
            f'{where}: input "{value.name}" takes batches of {fixed} only: export it with an open batch'
        )
    warnings.append(f'{where}: input "{value.name}" takes one window at a time: its batch is fixed at 1 in the graph')
    return original
