"""Pairing an ONNX graph with the safetensors file its weights went missing from.

Exporters rename: ``enc.c1.weight`` becomes ``enc_c1.weight`` or just ``c1.weight``. Names are compared by
their parts, a shorter one matching the end of a longer one, and by shape. Whatever is ambiguous is refused,
never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from tonescope_server.errors import TensorMismatchError

Floats = Mapping[str, npt.NDArray[np.float32]]


def pair(
    initializers: Iterable[TensorProto], missing: set[str], tensors: Floats, where: str
) -> tuple[dict[str, str], list[str]]:
    """Match graph initializers with tensors.

    Args:
        initializers: the graph's float initializers.
        missing: names of those whose data is not there.
        tensors: what the safetensors file holds.
        where: opens every message.

    Returns:
        Tensor name by initializer name, for every initializer that has one, and warnings. Initializers the
        graph holds itself are matched as well, so that all weights come from one file and not from two
        training runs.

    Raises:
        TensorMismatchError: names each tensor that is missing, extra, ambiguous or mis-shaped.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in initializers}
    found: dict[str, str] = {}
    faults: list[str] = []
    for name, shape in shapes.items():
        named = [other for other in tensors if _same(name, other)]
        fitting = [other for other in named if tensors[other].shape == shape]
        if len(fitting) == 1:
            found[name] = fitting[0]
        elif name in missing:
            faults.append(_fault(name, shape, named, fitting, tensors))
    used = list(found.values())
    faults += [f"{other} fits several of the graph's" for other in sorted({o for o in used if used.count(o) > 1})]
    faults = faults or [f"extra {other} {tensors[other].shape}" for other in tensors if other not in used]
    if faults:
        raise TensorMismatchError(f"{where}: {'; '.join(faults)}")
    return found, _differences(initializers, missing, found, tensors, where)


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[._/:\-]+", name.lower()) if part]


def _same(name: str, other: str) -> bool:
    """Say whether the parts of one name are those of the other, or its last ones."""
    short, long = sorted((_parts(name), _parts(other)), key=len)
    return bool(short) and long[-len(short) :] == short


def _fault(name: str, shape: tuple[int, ...], named: list[str], fitting: list[str], tensors: Floats) -> str:
    if fitting:
        return f"{name} {shape} is ambiguous: {', '.join(fitting)} fit"
    if named:
        got = ", ".join(f"{other} {tensors[other].shape}" for other in named)
        return f"{name}: expected {shape}, got {got}"
    return f"missing {name} {shape}"


def _differences(
    initializers: Iterable[TensorProto],
    missing: set[str],
    found: Mapping[str, str],
    tensors: Floats,
    where: str,
) -> list[str]:
    differing = [
        tensor.name
        for tensor in initializers
        if tensor.name in found and tensor.name not in missing and not _equal(tensor, tensors[found[tensor.name]])
    ]
    if not differing:
        return []
    return [
        f"{where}: the graph's own {', '.join(differing)} differ from the paired weights, "
        "which are used throughout: the two files come from different training runs"
    ]


def _equal(tensor: TensorProto, array: npt.NDArray[np.float32]) -> bool:
    try:
        return np.array_equal(onnx.numpy_helper.to_array(tensor), array)
    except (ValueError, TypeError):  # a damaged tensor is no equal, and is replaced anyway
        return False
