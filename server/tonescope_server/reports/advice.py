"""What to change: the lines of ``model.toml`` that put a finding right, and what to do where it is not the manifest.

No line and no rearrangement is given that leaves attribution on null tones once it is made (``mending``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tonescope_server.checks.finding import Finding
from tonescope_server.checks.layout import (
    FRAME_MAJOR,
    LAYOUT_MISMATCH,
    TONE_MAJOR,
    TONES_ROLLED,
    Reading,
    declared_reading,
    orders_of,
)
from tonescope_server.checks.normalisation import WRONG_NORMALISATION
from tonescope_server.checks.weights import NULL_ROWS_TRAINED
from tonescope_server.csi.cells import FRAME_TONE
from tonescope_server.models.model import Model
from tonescope_server.reports.mending import Mended, is_clean, roll_to, rows_of

LAYOUT_UNKNOWN = "LAYOUT_UNKNOWN"
ORDER_DOUBTED = "ORDER_DOUBTED"
NORMALISATION_UNKNOWN = "NORMALISATION_UNKNOWN"
_BY_READING = (FRAME_MAJOR, TONE_MAJOR, LAYOUT_MISMATCH, TONES_ROLLED)

Changes = Mapping[tuple[str, str], str]
"""New values by (table, key)."""


@dataclass(frozen=True)
class Known:
    """What is known beyond a single finding.

    Attributes:
        best: the reading that fits; None where none does.
        weights_agree: whether the first layer's weights agree with the declared order: they do where rows that the
            manifest calls null never had a signal in training. None where they do not tell.
        mended: what each remedy leaves on null tones; None where the declared reading fits, or none.
        own_statistics_help: whether z-scores by the recording's own statistics leave nothing wrong.
        is_windows: whether the data came as windows; else as frames, which are laid out and normalised here.
        order_of_parts: an order of cells that was tried and leaves nothing on null tones, for windows of components or
            links that are not laid out as declared; "" where there is none.
    """

    best: Reading | None = None
    weights_agree: bool | None = None
    mended: Mended | None = None
    own_statistics_help: bool = False
    is_windows: bool = False
    order_of_parts: str = ""


def advise(finding: Finding, model: Model, known: Known) -> tuple[Finding, str]:
    """Say what puts a finding right.

    Args:
        finding: what was found.
        model: whose manifest may have to change.
        known: what else is known.

    Returns:
        The finding, its remedy made sharper where more is known than the check knew; and lines of ``model.toml``, ""
        where the manifest need not change.
    """
    declared = declared_reading(model.cells)
    if finding.code == NORMALISATION_UNKNOWN or (finding.code == WRONG_NORMALISATION and known.own_statistics_help):
        return finding, toml({("normalisation", "kind"): "recording"})
    if finding.code == ORDER_DOUBTED:  # here the zeros fit either order, and the best reading is the declared one
        return finding, toml({("input", "cell_order"): orders_of(declared)[1]})
    if finding.code in (FRAME_MAJOR, TONE_MAJOR, LAYOUT_MISMATCH) and known.order_of_parts:
        return finding, toml({("input", "cell_order"): known.order_of_parts})
    if model.cells.has_parts:
        return finding, ""
    if finding.code in (FRAME_MAJOR, TONE_MAJOR) and not declared.table.knows_nulls:
        # Told by neighbours: there is no null tone to try a remedy on.
        other = replace(declared, cell_order=orders_of(declared)[1])
        return _either_way(finding, declared), toml(changes_to(other, declared))
    if known.best is None:
        return finding, ""
    if finding.code == LAYOUT_UNKNOWN:
        return finding, toml(changes_to(known.best, declared))
    if finding.code in _BY_READING and known.mended is not None:
        return _by_reading(finding, model, known, known.best, known.mended)
    return finding, ""


def _by_reading(finding: Finding, model: Model, known: Known, best: Reading, mended: Mended) -> tuple[Finding, str]:
    """Choose between a change of the manifest and one of the data, of those that were tried and help."""
    declared = declared_reading(model.cells)
    lines, of_manifest = toml(changes_to(best, declared)), is_clean(mended.declared)
    of_data = is_clean(mended.rearranged) or is_clean(mended.anew)
    other_order = best.cell_order != declared.cell_order
    if of_data and (not of_manifest or (other_order and known.weights_agree)):
        return replace(finding, remedy=_rearrange(model, best, mended)), ""
    if not of_manifest:
        return replace(finding, remedy=_neither(mended, known.is_windows)), ""
    then = f" ({mended.declared})"
    if not other_order:
        return replace(finding, remedy=" and ".join(best.differs(declared)) + then), lines
    if known.weights_agree is None:
        return _either_way(finding, declared), lines
    said = (
        f"the model was trained on such windows (see {NULL_ROWS_TRAINED}): say so in model.toml, and it is served as "
        "trained, its attribution folded to the right tones"
        if known.weights_agree is False
        else " and ".join(best.differs(declared))
    )
    return replace(finding, remedy=said + then), lines


def _either_way(finding: Finding, declared: Reading) -> Finding:
    remedy = f"where the model was trained on such windows, say so in model.toml; else {_reshape(declared)}"
    return replace(finding, remedy=remedy)


def _neither(mended: Mended, is_windows: bool) -> str:
    tried = [] if mended.declared is None else [f"if that is declared: {mended.declared}"]
    tried += [] if mended.rearranged is None else [f"if laid out as the manifest says: {mended.rearranged}"]
    left = "; ".join(tried) or "what was lost cannot be put back"
    why = (
        "the windows were normalised before they were laid out rightly: lay the raw amplitudes out as the manifest "
        "says, and normalise the raw amplitudes anew"
        if is_windows
        else "see where the frames are read, and by which rows mean and std were measured"
    )
    return f"no line of model.toml alone puts this right ({left}); {why}"


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


def _rearrange(model: Model, best: Reading, mended: Mended) -> str:
    """Say how to lay data out as the manifest declares, and what that leaves on null tones."""
    declared = declared_reading(model.cells)
    rows = rows_of(best, model.table)
    assert rows is not None  # it was tried
    by = roll_to(rows)
    if best.cell_order != declared.cell_order:
        how = _reshape(declared)
        how += "" if by == 0 else f', and its rows in the order of "{declared.layout}"'
    elif by is not None:
        how = f'bring the rows into the order of "{declared.layout}" (numpy: np.roll(x, {by}, axis=…) along the rows)'
        how += "; the manifest is right"
    else:
        how = f'bring the rows into the order of "{declared.layout}"; the manifest is right'
    if is_clean(mended.rearranged):
        return f"{how} ({mended.rearranged})"
    return f"{how}; but do so before the amplitudes are normalised ({mended.anew})"


def _reshape(declared: Reading) -> str:
    """Say how to lay windows out as the manifest declares, where they are in the other order."""
    first, second = declared.n_frames, declared.n_tones
    if declared.cell_order == FRAME_TONE:
        first, second = second, first
    return (
        "lay the windows out as the model takes them (numpy: "
        f"x.reshape(len(x), {first}, {second}).swapaxes(1, 2).reshape(x.shape)); the manifest is right"
    )
