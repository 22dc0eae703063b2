"""The safetensors loader: named tensors, given their wiring by an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from tonescope_server.errors import CorruptWeightsError, ManifestError, TensorMismatchError
from tonescope_server.models.architectures import Architecture, FloatTensors, Tensors
from tonescope_server.models.loaders import LoadedGraph, one_line, read_bytes, sha256
from tonescope_server.models.loaders.finish import finish

_DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def parse_tensors(data: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    """Read every tensor of a safetensors file; bfloat16 becomes float32, exactly.

    Raises:
        CorruptWeightsError: the file is truncated or damaged, holds no tensor, or one of an unknown type.
    """
    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        reason = one_line(error).removeprefix("Error while deserializing: ")
        raise CorruptWeightsError(f"{where}: not a whole safetensors file ({len(data)} bytes): {reason}") from error
    if not entries:
        raise CorruptWeightsError(f"{where}: a safetensors file without tensors")
    # The library gives them in an order that changes from run to run; messages and graphs must not.
    return {name: _array(name, entry, where) for name, entry in sorted(entries, key=lambda pair: pair[0])}


def _array(name: str, entry: Mapping[str, Any], where: str) -> npt.NDArray[Any]:
    if entry["dtype"] == "BF16":
        widened = np.frombuffer(entry["data"], "<u2").astype(np.uint32) << 16
        return widened.view(np.float32).reshape(entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise CorruptWeightsError(f"{where}: {name}: element type {entry['dtype']} is not supported")
    array = np.frombuffer(entry["data"], np.dtype(_DTYPES[entry["dtype"]]).newbyteorder("<"))
    return array.reshape(entry["shape"])


def float_tensors(tensors: Tensors, where: str, warnings: list[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors in float32, with a warning where that rounds.

    Raises:
        TensorMismatchError: a tensor of integers.
    """
    wrong = [f"{name} is {array.dtype}" for name, array in tensors.items() if array.dtype.kind != "f"]
    if wrong:
        raise TensorMismatchError(f"{where}: expected tensors of a float type, but {', '.join(wrong)}")
    wide = [name for name, array in tensors.items() if array.dtype == np.float64]
    if wide:
        warnings.append(f"{where}: float64 weights are rounded to float32 ({len(wide)}, {wide[0]} first)")
    return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}


def choose_architecture(
    tensors: Tensors, architectures: Mapping[str, Architecture], name: str, where: str
) -> Architecture:
    """Return the architecture of that name, or with no name the only one that goes with the tensors.

    Raises:
        ManifestError: no architecture of that name.
        TensorMismatchError: none goes with the tensors, or several do.
    """
    if name:
        if name not in architectures:
            known = ", ".join(sorted(architectures)) or "none"
            raise ManifestError(f'{where}: no architecture "{name}" (known: {known})')
        return architectures[name]
    found = [architecture for architecture in architectures.values() if architecture.matches(tensors)]
    if len(found) == 1:
        return found[0]
    if any(architecture.matches_adapter(tensors) for architecture in architectures.values()) and not found:
        raise TensorMismatchError(
            f"{where}: expected a model, got an adapter: load the weights it belongs to, and give it as their adapter"
        )
    names = list(tensors)
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    which = ", ".join(sorted(a.name for a in found or architectures.values())) or "none"
    verdict = "several architectures go" if found else "no architecture goes"
    raise TensorMismatchError(
        f"{where}: {verdict} with its tensors ({shown}): state [model] architecture, one of: {which}"
    )


def load_safetensors(
    path: Path,
    architectures: Mapping[str, Architecture],
    *,
    architecture: str = "",
    adapter: Path | None = None,
    frames: int = 20,
) -> LoadedGraph:
    """Build the graph of a safetensors file.

    Args:
        path: the weights.
        architectures: what they may be, by name.
        architecture: which of them; "" means the only one that matches.
        adapter: a safetensors file with an adapter for the architecture.
        frames: frames in a window, for networks that take any number.

    Raises:
        CorruptWeightsError: a file is truncated or damaged.
        TensorMismatchError: a tensor is missing, extra or mis-shaped, or no architecture goes with the file.
        ManifestError: no architecture of that name.
    """
    data = read_bytes(path)
    raw = parse_tensors(data, path.name)
    warnings: list[str] = []
    chosen = choose_architecture(raw, architectures, architecture, path.name)
    tensors = float_tensors(raw, path.name, warnings)
    parts = [data]
    room: FloatTensors | None = None
    if adapter is not None:
        parts.append(read_bytes(adapter))
        room = float_tensors(parse_tensors(parts[1], adapter.name), adapter.name, warnings)
    try:
        graph = chosen.build(tensors, room, frames=frames)
    except (TensorMismatchError, CorruptWeightsError) as error:
        raise type(error)(f"{path.name}: {error}") from error
    return LoadedGraph(
        graph=finish(graph, path.name),
        digest=sha256(parts),
        weights_sha256=sha256([data]),
        layouts=chosen.layouts,
        warnings=tuple(warnings),
    )
