"""Who a row is, in words and tables: row, signed subcarrier index, MHz, what it carries, training field; or a feature.

Drawing over the band is in ``band`` and ``pictures``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from tonescope.results import Explanation, Tone, ToneTable
from tonescope_server.csi.cells import CellMap

FEATURES = "rows are engineered features, not tones: the model has no tone axis, and is attributed per feature"


def tone_text(tone: Tone | None, row: int) -> str:
    """Name a row in a word: a tone's signed index, a feature's name, or the row where neither is known."""
    if tone is not None and tone.name:
        return tone.name
    if tone is None or tone.subcarrier_index is None:
        return f"row {row}"
    return f"{tone.subcarrier_index:+d}" if tone.subcarrier_index else "0"


def megahertz_text(tone: Tone | None) -> str:
    """Say where a tone lies: its frequency, else signed its offset from the centre; "" where neither is known."""
    if tone is None or tone.offset_hz is None:
        return ""
    if tone.frequency_mhz is not None:
        return f"{tone.frequency_mhz:.4f}"
    return f"{tone.offset_hz * 1e-6:+.4f}" if tone.offset_hz else "0"


def identity_text(tone: Tone | None, row: int) -> str:
    """Say in a few words who a row is: ``"-7 at 2434.8125 MHz, row 57, pilot"``."""
    name, mhz = tone_text(tone, row), megahertz_text(tone)
    if tone is None or name == f"row {row}":
        return name
    if tone.name:
        return f"{name}, row {row}"
    parts = [f"{name} at {mhz} MHz" if mhz else name, f"row {row}", tone.kind, field_text(tone)]
    return ", ".join(part for part in parts if part)


def field_text(tone: Tone | None) -> str:
    """Name the training field as 802.11 writes it."""
    return tone.training_field.upper().replace("_", "-") if tone is not None else ""


def identity_of(table: ToneTable, row: int) -> dict[str, Any]:
    """Return who a row is, for JSON."""
    tone = table.tones[row] if row < len(table) else None
    return {
        "row": row,
        "tone": tone_text(tone, row),
        "subcarrier_index": None if tone is None else tone.subcarrier_index,
        "frequency_mhz": None if tone is None else tone.frequency_mhz,
        "offset_hz": None if tone is None else tone.offset_hz,
        "kind": "unknown" if tone is None else tone.kind,
        "training_field": "" if tone is None else tone.training_field,
    }


def identity_table(table: ToneTable, rows: Sequence[int], columns: Mapping[str, npt.NDArray[Any]]) -> Table:
    """List rows with all that is known of each, and further columns of numbers: one for each row of the table."""
    if table.rows_are == "features":
        shown = Table("row", "feature", *columns, box=None)
        for row in rows:
            name = table.tones[row].name or "—"
            shown.add_row(str(row), name, *(f"{values[row]:.3g}" for values in columns.values()))
        return shown
    is_absolute = table.centre_mhz is not None
    heading = "MHz" if is_absolute else "MHz from centre"
    shown = Table("row", "subcarrier", heading, "carries", "field", *columns, box=None)
    for row in rows:
        tone = table.tones[row] if row < len(table) else None
        index = "—" if tone is None or tone.subcarrier_index is None else tone_text(tone, row)
        kind = "unknown" if tone is None else tone.kind
        numbers = (f"{values[row]:.3g}" for values in columns.values())
        shown.add_row(str(row), index, megahertz_text(tone) or "—", kind, field_text(tone) or "—", *numbers)
    return shown


def declared_table(found: Sequence[Explanation], cells: CellMap, top: int) -> Table | None:
    """List the strongest declared rows beside what their cells really hold; None where there are none.

    A declared row is one of the axis that the model's shape calls tones. Where the cells lie in another order than
    that shape says, such a row is made of pieces of several tones.
    """
    declared = [np.asarray(each.declared_rows) for each in found if each.declared_rows is not None]
    if not declared or cells.declared_row_of_cell is None:
        return None
    mean = np.abs(np.stack(declared)).mean(axis=0)
    table = found[0].tone_table
    shown = Table("declared row", "mean |attribution|", "frames", "tones it holds", box=None)
    for row in np.argsort(-mean, kind="stable")[:top]:
        held = cells.declared_row_of_cell == row
        frames, tones = np.unique(cells.frame_of_cell[held]), list(dict.fromkeys(cells.tone_of_cell[held].tolist()))
        named = [tone_text(table.tones[each] if len(table) else None, each) for each in tones]
        text = named[0] if len(named) == 1 else f"{len(named)}: {named[0]} … {named[-1]}"
        span = f"{frames[0]}" if len(frames) == 1 else f"{frames[0]}–{frames[-1]}"
        shown.add_row(str(row), f"{mean[row]:.3g}", span, text)
    return shown


def parts_of(each: Explanation) -> list[tuple[str, npt.NDArray[Any]]]:
    """List what each antenna link and component has of every tone's attribution, by name."""
    table, parts = each.tone_table, np.asarray(each.parts)
    links, components = table.links or ("",), table.components or ("",)
    return [
        (" ".join(word for word in (link, component) if word), parts[i, k])
        for i, link in enumerate(links)
        for k, component in enumerate(components)
    ]


def parts_table(found: Sequence[Explanation], top: int) -> Table | None:
    """List the antenna links and components with their share of Σ|attribution| and their strongest tones."""
    parts = [np.asarray(each.parts) for each in found if each.parts is not None]
    if not parts:
        return None
    table, mean = found[0].tone_table, np.abs(np.stack(parts)).mean(axis=0)
    total = float(mean.sum()) or 1.0
    shown = Table("link", "component", "share of Σ|attribution|", "strongest tones", box=None)
    for link, component in np.ndindex(mean.shape[:2]):
        values = mean[link, component]
        rows = np.argsort(-values, kind="stable")[:top].tolist()
        names = table.links[link] if table.links else "—", table.components[component] if table.components else "—"
        tones = " ".join(tone_text(table.tones[row] if len(table) else None, row) for row in rows)
        shown.add_row(*names, f"{values.sum() / total:.1%}", tones)
    return shown


def declared_rows_of(cells: CellMap) -> list[dict[str, Any]] | None:
    """List, for JSON, the frames and the rows of the tone table that each declared row holds."""
    declared = cells.declared_row_of_cell
    if declared is None:
        return None
    held = (declared == row for row in range(int(declared.max()) + 1))
    return [
        {"row": row, "frames": np.unique(cells.frame_of_cell[at]), "tone_rows": np.unique(cells.tone_of_cell[at])}
        for row, at in enumerate(held)
    ]
