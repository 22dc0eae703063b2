"""Loaders: from a weights file to a checked graph. One file format a module.

A loader knows its format and nothing of manifests, tones or stores; ``loading`` puts those together. Pickle
is never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from tonescope_server.errors import ModelError


@dataclass(frozen=True)
class LoadedGraph:
    """What a loader returns.

    Attributes:
        graph: checked, shape-inferred, weights embedded.
        digest: sha256 over the bytes of every file it came from, in turn.
        weights_sha256: sha256 of the main file alone, which is what a manifest states.
        layouts: the usual tone layout by number of rows, where the architecture knows one.
        warnings: oddities met, one line each.
        is_coupled: whether what the graph says of a window depends on the others in its batch.
        is_random: whether the graph draws at random, so that answers differ from run to run.
    """

    graph: ir.Model
    digest: str
    weights_sha256: str
    layouts: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    is_coupled: bool = False
    is_random: bool = False


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        ModelError: it is not there or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def sha256(parts: Sequence[bytes]) -> str:
    """Hash several byte strings in turn, as one."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def one_line(error: BaseException, limit: int = 240) -> str:
    """Return an error's text on one line, cut where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
