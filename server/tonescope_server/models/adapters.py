"""Adapters that lie beside weights: which file is one, which weights it fits, and the manifest that joins the two.

They are never joined unasked: the weights are a model without it, and an adapter was trained for one place. How one is
merged is the architecture's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from tonescope_server.models.architectures import Architecture

_ADAPTERS = ".safetensors"


def is_adapter(path: Path, architectures: Mapping[str, Architecture]) -> bool:
    """Say whether a file holds an adapter of some architecture and no model of any; False where it cannot be read."""
    if path.suffix != _ADAPTERS:
        return False
    tensors, known = _outline(path), architectures.values()
    return any(a.matches_adapter(tensors) for a in known) and not any(a.matches(tensors) for a in known)


def joining_line(adapter: Path, others: Iterable[Path], architectures: Mapping[str, Architecture]) -> str:
    """Return the line of a ``model.toml`` that makes one model of an adapter and the weights it fits.

    Args:
        adapter: the adapter's file.
        others: what may be its weights; where not just one of them fits, the line has a blank to fill in.
        architectures: what is known, by name.
    """
    fits = fitting(adapter, others, architectures)
    weights = fits[0].name if len(fits) == 1 else "…"
    named = {"weights": weights, "adapter": adapter.name}
    return f"model = {{ {', '.join(f'{key} = {_quoted(name)}' for key, name in named.items())} }}"


def fitting(adapter: Path, others: Iterable[Path], architectures: Mapping[str, Architecture]) -> list[Path]:
    """Return the weights, of several files, whose architecture takes the adapter."""
    factors = _outline(adapter)
    takers = [each for each in architectures.values() if each.matches_adapter(factors)]
    weights = [path for path in others if path.suffix == _ADAPTERS and path != adapter]
    return [path for path in weights if any(each.matches(_outline(path)) for each in takers)]


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _outline(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return a safetensors file's names and shapes, without its numbers; nothing where it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return {}
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
