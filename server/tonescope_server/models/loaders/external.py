"""External data of ONNX files: finding it, keeping it inside the model's folder, embedding it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto

from tonescope_server.errors import CorruptWeightsError, MissingWeightsError, ModelError
from tonescope_server.models.loaders import read_bytes


def all_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model: initializers and attributes, subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: object) -> Iterator[TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graph_tensors(graph)


def external_tensors(proto: onnx.ModelProto) -> list[TensorProto]:
    """Return the tensors whose data lies in other files."""
    return [tensor for tensor in all_tensors(proto) if tensor.data_location == TensorProto.EXTERNAL]


def location(tensor: TensorProto, folder: Path, where: str) -> Path:
    """Return the file that a tensor's data lies in.

    Raises:
        ModelError: the tensor names no file, or one outside the model's folder.
    """
    named = _entries(tensor).get("location", "")
    pure = PurePosixPath(named)
    path = folder / named if "\x00" not in named else folder
    leaves = pure.is_absolute() or PureWindowsPath(named).is_absolute() or ".." in PureWindowsPath(named).parts
    if not named or path == folder or leaves or not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{where}: tensor {tensor.name}: external data {named!r}: expected a file in the model's folder"
        )
    return path


def embed_external(proto: onnx.ModelProto, folder: Path, where: str) -> list[bytes]:
    """Read the external data into the tensors themselves.

    Returns:
        The bytes of each file read, in order of their names.

    Raises:
        MissingWeightsError: files are not there; names them, their tensors and the way out.
        CorruptWeightsError: a file is too short.
        ModelError: a file lies outside the model's folder.
    """
    tensors = external_tensors(proto)
    paths = [location(tensor, folder, where) for tensor in tensors]
    absent = {tensor.name: path for tensor, path in zip(tensors, paths, strict=True) if not path.is_file()}
    if absent:
        raise MissingWeightsError(_missing(absent, folder, where))
    contents = {path: read_bytes(path) for path in sorted(set(paths))}
    for tensor, path in zip(tensors, paths, strict=True):
        _embed(tensor, contents[path], f"{where}: tensor {tensor.name}")
    return list(contents.values())


def _missing(absent: Mapping[str, Path], folder: Path, where: str) -> str:
    files = ", ".join(sorted({path.relative_to(folder).as_posix() for path in absent.values()}))
    names = list(absent)
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return (
        f"{where}: external weight file {files} is missing (tensors {shown}): put it beside the model, or "
        "pair the model with a safetensors file of its weights (weights=…)"
    )


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _embed(tensor: TensorProto, content: bytes, where: str) -> None:
    entries = _entries(tensor)
    try:
        start = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else len(content) - start
    except ValueError as error:
        raise CorruptWeightsError(f"{where}: offset or length is not a number: {entries}") from error
    if start < 0 or length < 0 or start + length > len(content):
        raise CorruptWeightsError(
            f"{where}: expected bytes {start} to {start + length} of {entries['location']}, "
            f"got a file of {len(content)} bytes"
        )
    tensor.raw_data = content[start : start + length]
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
