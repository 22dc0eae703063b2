"""What to change: the lines of ``model.toml`` that put a finding right, and what to do where it is not the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from tonescope_server.checks.attribution import NULL_TONE_SHARE
from tonescope_server.checks.finding import Finding
from tonescope_server.checks.layout import (
    FRAME_MAJOR,
    LAYOUT_MISMATCH,
    TONE_MAJOR,
    Reading,
    declared_reading,
    orders_of,
)
from tonescope_server.checks.normalisation import WRONG_NORMALISATION
from tonescope_server.checks.weights import NULL_ROWS_TRAINED
from tonescope_server.csi.cells import FRAME_TONE
from tonescope_server.models.model import Model

LAYOUT_UNKNOWN = "LAYOUT_UNKNOWN"
ORDER_DOUBTED = "ORDER_DOUBTED"
NORMALISATION_UNKNOWN = "NORMALISATION_UNKNOWN"
_BY_READING = (FRAME_MAJOR, TONE_MAJOR, LAYOUT_MISMATCH, LAYOUT_UNKNOWN, ORDER_DOUBTED, NULL_TONE_SHARE)

Changes = Mapping[tuple[str, str], str]
"""New values by (table, key)."""


def advise(finding: Finding, model: Model, best: Reading | None, weights_agree: bool | None) -> tuple[Finding, str]:
    """Say what puts a finding right.

    Args:
        finding: what was found.
        model: whose manifest may have to change.
        best: the reading that fits; None where none does.
        weights_agree: whether the first layer's weights agree with the declared order: they do where rows that the
            manifest calls null never had a signal in training. None where they do not tell.

    Returns:
        The finding, its remedy made sharper where more is known than the check knew; and lines of ``model.toml``, ""
        where the manifest need not change.
    """
    if finding.code == WRONG_NORMALISATION:
        return finding, toml({("normalisation", "kind"): "recording"})
    if finding.code == NORMALISATION_UNKNOWN:
        return finding, toml({("normalisation", "kind"): "recording"})
    if finding.code not in _BY_READING or best is None:
        return finding, ""
    declared = declared_reading(model.cells)
    changes = changes_to(best, declared)
    if finding.code == NULL_TONE_SHARE:  # what follows from the layout, which has its own finding with its own remedy
        if weights_agree and best.cell_order != declared.cell_order:
            return replace(finding, remedy="this follows from the layout of the windows; change that"), ""
        return finding, toml(changes)
    if finding.code == ORDER_DOUBTED:  # here the zeros fit either order, and the best reading is the declared one
        return finding, toml({("input", "cell_order"): orders_of(declared)[1]})
    if best.cell_order == declared.cell_order:
        return finding, toml(changes)
    if weights_agree:
        return replace(finding, remedy=_rearrange(declared)), ""
    if weights_agree is False:
        remedy = (
            f"the model was trained on such windows (see {NULL_ROWS_TRAINED}): say so in model.toml, and it is served "
            "as trained, its attribution folded to the right tones"
        )
    else:
        remedy = f"where the model was trained on such windows, say so in model.toml; else {_rearrange(declared)}"
    return replace(finding, remedy=remedy), toml(changes)


def changes_to(best: Reading, declared: Reading) -> Changes:
    """List what a manifest must say for a reading to be the declared one."""
    changes = {}
    if best.cell_order != declared.cell_order:
        changes["input", "cell_order"] = best.cell_order
    if best.layout != declared.layout:
        changes["tones", "layout"] = best.layout
    return changes


def toml(changes: Changes) -> str:
    """Write changes as the lines of a manifest."""
    tables: dict[str, list[str]] = {}
    for (table, key), value in changes.items():
        tables.setdefault(table, []).append(f"{key} = {json.dumps(value)}")
    return "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())


def _rearrange(declared: Reading) -> str:
    """Say how to lay windows out as the manifest declares, where they are in the other order."""
    first, second = declared.n_frames, declared.n_tones
    if declared.cell_order == FRAME_TONE:
        first, second = second, first
    return (
        "lay the windows out as the model takes them (numpy: "
        f"x.reshape(len(x), {first}, {second}).swapaxes(1, 2).reshape(x.shape)); the manifest is right"
    )
