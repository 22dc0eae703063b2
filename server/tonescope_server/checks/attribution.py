"""Attribution on tones that carry no signal: about none, where cells are what the manifest says they are."""

from __future__ import annotations

import numpy as np

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.csi.cells import FRAME_TONE, TONE_FRAME, CellMap, cell_map
from tonescope_server.types import FloatArray

NULL_TONE_SHARE = "NULL_TONE_SHARE"
LARGEST_SHARE = 0.01
REMEDY = (
    "see to input.cell_order, tones.layout and normalisation; by a method of bare gradients (saliency), the "
    "model itself weighs rows that hold nothing: use input_x_gradient"
)


def null_share(magnitude: FloatArray, cells: CellMap) -> float | None:
    """Return the part of attribution magnitudes on null tones; None where there is none, or no tone is known as null.

    Shapes:
        magnitude: |attribution|, ``[n_windows, n_cells]``, or ``[n_windows, n_tones]`` where there are no cells.
    """
    null = cells.null_cells if magnitude.shape[1] == cells.n_cells else cells.table.null_mask
    total = float(magnitude.sum(dtype=np.float64))
    if total == 0 or not cells.table.knows_nulls:
        return None
    return float(magnitude[:, null].sum(dtype=np.float64)) / total


def shares_by_order(attribution: FloatArray, cells: CellMap) -> dict[str, float]:
    """Return the null-tone share over windows, were their cells in each of the orders; the declared one comes first.

    Shapes:
        attribution: per cell, ``[n_windows, *shape]``.
    """
    magnitude = np.abs(attribution.reshape(len(attribution), -1))
    found = {}
    for order in dict.fromkeys((cells.cell_order, TONE_FRAME, FRAME_TONE)):
        other = cells if order == cells.cell_order else cell_map(cells.shape, cells.table, order, cells.n_frames)
        share = null_share(magnitude, other)
        if share is not None:
            found[order] = share
    return found


def check_null_share(
    tones: FloatArray, attribution: FloatArray | None, cells: CellMap, node_id: int | None = None
) -> list[Finding]:
    """Tell attribution on tones that carry no signal, with what it would be under the other cell orders.

    Args:
        tones: attribution per tone, ``[n_windows, n_tones]``.
        attribution: per cell, ``[n_windows, *shape]``; None for a method that is defined per tone only.
        cells: the declared map.
        node_id: whose windows they are.
    """
    magnitude = np.abs(tones if attribution is None else attribution.reshape(len(attribution), -1))
    share = null_share(magnitude, cells)
    if share is None or share <= LARGEST_SHARE:
        return []
    one_order = cells.n_frames == 1 or cells.has_parts
    by_order = {} if attribution is None or one_order else shares_by_order(attribution, cells)
    others = {order: value for order, value in by_order.items() if order != cells.cell_order}
    fitting = [order for order, value in others.items() if value <= LARGEST_SHARE]
    message = f"{share:.1%} of the attribution over {len(tones)} windows lies on tones that carry no signal"
    if others:
        message += "; " + ", ".join(f'as "{order}" it would be {value:.1%}' for order, value in others.items())
    remedy = f'input.cell_order = "{fitting[0]}"' if fitting else REMEDY
    figures = {"null_tone_share": share} | {f"null_tone_share_as_{order}": value for order, value in others.items()}
    return [Finding(NULL_TONE_SHARE, Severity.FAULT, message, remedy, figures, node_id)]
