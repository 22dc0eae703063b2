"""What ``tonescope inspect`` says of an exported graph: what it explains, how, and what goes in and comes out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tonescope_server.cli.console import say
from tonescope_server.engine.export_metadata import is_exported, read_metadata


def exported_graph(path: Path) -> dict[str, Any] | None:
    """Return what an exported graph says of itself; None for any other file.

    Raises:
        ModelError: an exported graph whose metadata cannot be read.
    """
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return None
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError):
        return None  # whoever loads models says what is wrong with it
    properties = {each.key: each.value for each in proto.metadata_props}
    if not is_exported(properties):
        return None
    return {
        "is": "an exported graph",
        **read_metadata(properties),
        "bytes": path.stat().st_size,
        "opset": {each.domain or "ai.onnx": each.version for each in proto.opset_import},
        "ir_version": proto.ir_version,
        "operators": dict(Counter(node.op_type for node in proto.graph.node).most_common()),
    }


def show_exported(found: dict[str, Any]) -> None:
    """Say it in words."""
    say(f"an exported graph of tonescope {found['version']}: {found['method']} of model {found['model']}")
    say(f"model sha256 {found['model_digest']}")
    stated = ", ".join(f"{name}={_short(value)}" for name, value in found["parameters"].items()) or "none"
    say(f"parameters: {stated}")
    rules = f", rule set {found['rule_set']}" if found["rule_set"] else ""
    say(f"target: {_target(found['target'])}{rules}; {found['evaluations']} model evaluations a window")
    table = found["tone_table"]
    kinds = Counter(row["kind"] for row in table["rows"])
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    say(f"tone table {table['id']} ({table['status']}): {len(table['rows'])} {table['rows_are']}: {counts}")
    for kind, named in (("input", found["inputs"]), ("output", found["outputs"])):
        for name, text in named.items():
            say(f"{kind} {name}: {text}")
    opset = ", ".join(f"{domain} {number}" for domain, number in found["opset"].items())
    operators = ", ".join(f"{name}×{count}" for name, count in found["operators"].items())
    say(f"opset {opset}, IR version {found['ir_version']}, {found['bytes'] / 1e6:.2f} MB, {found['forms']} forms")
    say(f"operators: {operators}")
    for warning in found["warnings"]:
        say(f"warning: {warning['message']}")
    for text in found["model_warnings"]:
        say(f"warning: {text}")


def _target(target: dict[str, Any]) -> str:
    if "plus" in target:
        return f"{_target(target['plus'])} less {_target(target['minus'])}"
    index = "" if target["index"] is None else f" {target['index']}"
    return f"{target['kind']}{index} of {target['output']}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:37]}..."
