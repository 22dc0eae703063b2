"""The axis of tones, which pictures of them share: where each row stands, what is null or missing, its frequency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from tonescope_server.pictures.colours import MISSING_PATCH, NULL_PATCH
from tonescope_server.pictures.rows import Row, Rows

MOST_NAMES = 40


def fields_of(table: Rows) -> list[list[Row]]:
    """Split the tones by training field, each in the order of the spectrum."""
    names = list(dict.fromkeys(tone.training_field for tone in table.tones))
    parts = [[tone for tone in table.tones if tone.training_field == name] for name in names]
    return [sorted(part, key=x_of) for part in parts]


def x_of(tone: Row) -> int:
    """Give the place of a row on the axis: its subcarrier index, or, where that is not known, its row."""
    return tone.row if tone.subcarrier_index is None else tone.subcarrier_index


def field_name(tones: Sequence[Row], fields: Sequence[Sequence[Row]]) -> str:
    """Name the training field of an axis, where there are several."""
    return tones[0].training_field if len(fields) > 1 else ""


def hatch(axes: Axes, tones: Sequence[Row]) -> None:
    """Hatch the null tones, and dot the indices that the layout does not have."""
    nulls = {x_of(tone) for tone in tones if tone.kind == "null"}
    for x in range(x_of(tones[0]), x_of(tones[-1]) + 1):
        if x in nulls:
            axes.axvspan(x - 0.5, x + 0.5, **NULL_PATCH)
    for x in missing(tones):
        axes.axvspan(x - 0.5, x + 0.5, **MISSING_PATCH)


def missing(tones: Sequence[Row]) -> set[int]:
    """Give the indices between the first and the last that belong to no tone, where only some are left out."""
    indices = [x_of(tone) for tone in tones]
    absent = set(range(indices[0], indices[-1] + 1)) - set(indices)
    return absent - {0} if len(absent) < len(indices) // 2 else set()


def index_label(tones: Sequence[Row]) -> str:
    """Say what the axis counts."""
    if any(tone.name for tone in tones):
        return "feature" if len(tones) <= MOST_NAMES else "feature (row)"
    known = all(tone.subcarrier_index is not None for tone in tones)
    return "subcarrier index (DC = 0)" if known else "row (tone identity unknown)"


def label_frequency(
    axes: Axes, tones: Sequence[Row], centre_mhz: float | None, field_name: str = "", below: bool = True
) -> None:
    """Label the index below and, where it is known, the frequency or the offset in MHz above."""
    if below:
        axes.set_xlabel(index_label(tones))
    if any(tone.name for tone in tones) and len(tones) <= MOST_NAMES:
        axes.set_xticks([x_of(tone) for tone in tones], [tone.name for tone in tones], rotation=30, ha="right")
    name = f"{field_name.upper().replace('_', '-')}: " if field_name else ""
    spacing = _spacing_mhz(tones)
    if spacing is None:
        axes.set_title(name.rstrip(": "), fontsize=9)
        return
    first = tones[0]
    shift = (centre_mhz or 0.0) + (first.offset_hz or 0.0) * 1e-6 - x_of(first) * spacing
    top = axes.secondary_xaxis("top", functions=line(spacing, shift))
    top.ticklabel_format(useOffset=False)
    is_absolute = centre_mhz is not None
    top.set_xlabel(f"{name}frequency (MHz)" if is_absolute else f"{name}offset from the centre frequency (MHz)")


def line(slope: float, shift: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Give a straight line and its inverse, for an axis in other units."""
    return (lambda x: x * slope + shift), (lambda y: (y - shift) / slope)


def _spacing_mhz(tones: Sequence[Row]) -> float | None:
    ends = tones[0], tones[-1]
    if any(tone.offset_hz is None or tone.subcarrier_index is None for tone in tones) or x_of(ends[0]) == x_of(ends[1]):
        return None
    return ((ends[1].offset_hz or 0.0) - (ends[0].offset_hz or 0.0)) * 1e-6 / (x_of(ends[1]) - x_of(ends[0]))
