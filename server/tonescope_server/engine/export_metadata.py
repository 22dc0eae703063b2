"""What an exported graph says of itself: written into its metadata, and read from it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tonescope_server.errors import ModelError
from tonescope_server.types import Target

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer
    from tonescope_server.engine.export import Exported
    from tonescope_server.engine.prepared import Prepared

PREFIX = "tonescope."
FORMAT_VERSION = 1
_TEXT = ("version", "model", "model_digest", "method", "rule_set")
"""What is text as it stands; all else is JSON."""


def metadata(explainer: Explainer, prepared: Prepared, made: Exported, *, plain: bool) -> dict[str, str]:
    """Return what is written: text by name, each name with the project's prefix."""
    model, table = explainer.model, explainer.model.table
    stated: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "version": version("tonescope"),
        "model": f"{model.name}/{model.version}",
        "model_digest": model.digest,
        "method": prepared.method.name,
        "parameters": dict(prepared.parameters),
        "target": _target(prepared.target),
        "rule_set": prepared.plan.rule_set,
        "forms": "plain" if plain else "fast",
        "runs": made.runs,
        "evaluations": made.evaluations,
        "batches": made.batches,
        "inputs": dict(made.inputs),
        "outputs": dict(made.outputs),
        "classes": {each.name: list(model.manifest.output(each.name).class_names) for each in model.outputs},
        "cell_order": model.manifest.input.cell_order,
        "normalisation": model.manifest.normalisation.model_dump(mode="json", exclude_defaults=True),
        "tone_table": {
            "id": table.id,
            "status": table.status,
            "rows_are": table.rows_are,
            "rows": [_row(tone) for tone in table],
        },
        "warnings": [{"code": each.code, "message": each.message} for each in prepared.standing_warnings],
        "model_warnings": list(model.warnings),
    }
    return {f"{PREFIX}{key}": value if key in _TEXT else json.dumps(value) for key, value in stated.items()}


def is_exported(properties: Mapping[str, str]) -> bool:
    """Say whether metadata is that of an exported graph."""
    return f"{PREFIX}format_version" in properties


def read_metadata(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return what an exported graph says of itself, without the prefix.

    Raises:
        ModelError: it is no exported graph, one of a later format, or its metadata is damaged.
    """
    try:
        found = {
            name.removeprefix(PREFIX): text if name.removeprefix(PREFIX) in _TEXT else json.loads(text)
            for name, text in properties.items()
            if name.startswith(PREFIX)
        }
    except ValueError as error:
        raise ModelError(f"exported graph: its metadata cannot be read: {error}") from error
    stated = found.get("format_version")
    if stated != FORMAT_VERSION:
        raise ModelError(f"exported graph: expected format version {FORMAT_VERSION}, got {stated}")
    return found


def _row(tone: Any) -> dict[str, Any]:
    row = {"subcarrier_index": tone.subcarrier_index, "kind": str(tone.kind)}
    more = {"training_field": tone.training_field, "name": tone.name}
    return row | {key: value for key, value in more.items() if value}


def _target(target: Target) -> dict[str, Any]:
    if target.plus is not None and target.minus is not None:
        return {"kind": str(target.kind), "plus": _target(target.plus), "minus": _target(target.minus)}
    index: Any = target.index
    index = index.tolist() if hasattr(index, "tolist") else list(index) if isinstance(index, tuple | list) else index
    return {"kind": str(target.kind), "output": target.output, "index": index}
