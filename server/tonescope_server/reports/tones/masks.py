"""The tones that a device is to send, in a form that it can read: JSON, and a header for C.

The format is described in ``docs/tones.md``; what changes in it raises ``VERSION``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tonescope_server.csi.tones import ToneTable
from tonescope_server.types import IntArray

FORMAT = "tonescope-tone-mask"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Mask:
    """A set of tones.

    Shapes:
        rows: ``[k]``, ascending.

    Attributes:
        table: the tones of the layout that the rows are of.
    """

    table: ToneTable
    rows: IntArray

    @property
    def k(self) -> int:
        """Count the tones."""
        return len(self.rows)

    @property
    def bits(self) -> bytes:
        """Give one bit a row: row r is bit r mod 8 (the least significant is 0) of byte r // 8."""
        chosen = np.zeros(len(self.table), np.uint8)
        chosen[self.rows] = 1
        return np.packbits(chosen, bitorder="little").tobytes()

    def as_json(self) -> dict[str, Any]:
        """Return what a mask file holds."""
        tones = [self.table.tones[row] for row in self.rows.tolist()]
        return {
            "format": FORMAT,
            "version": VERSION,
            "tone_layout": self.table.id,
            "n_tones": len(self.table),
            "k": self.k,
            "rows": [tone.row for tone in tones],
            "subcarrier_indices": [tone.subcarrier_index for tone in tones],
            "offset_mhz": [None if tone.offset_hz is None else tone.offset_hz * 1e-6 for tone in tones],
            "frequency_mhz": [self.table.frequency_mhz(tone) for tone in tones],
            "training_fields": [tone.training_field for tone in tones],
            "mask_hex": self.bits.hex(),
        }


def mask_of(table: ToneTable, order: IntArray, k: int) -> Mask:
    """Return the first ``k`` rows of a ranking."""
    return Mask(table, np.sort(order[:k]))


def c_header(masks: Sequence[Mask], remark: str) -> str:
    """Write masks of one layout as a header for C: for each K the bits and, most device code being by row, the rows.

    Args:
        masks: of one tone table.
        remark: what the comment at the top says.
    """
    table = masks[0].table
    n_bytes = len(masks[0].bits)
    said = remark.replace("*/", "* /")  # would end the comment
    lines = [
        f"/* {said} */",
        "#ifndef TONESCOPE_TONES_H",
        "#define TONESCOPE_TONES_H",
        "",
        "#include <stdint.h>",
        "",
        f'#define TONESCOPE_TONE_LAYOUT "{table.id}"',
        f"#define TONESCOPE_N_TONES {len(table)}",
        "/* Whether row r is chosen: row r is bit r % 8 of byte r / 8. */",
        "#define TONESCOPE_HAS_TONE(mask, r) (((mask)[(r) / 8] >> ((r) % 8)) & 1)",
        "",
    ]
    for mask in masks:
        found = [table.tones[row].subcarrier_index for row in mask.rows.tolist()]
        indices = [index for index in found if index is not None]
        octets = ", ".join(f"0x{byte:02x}" for byte in mask.bits)
        rows = ", ".join(str(row) for row in mask.rows.tolist())
        lines += [
            f"/* {_indices_text(indices, mask)} */",
            f"static const uint8_t tonescope_mask_{mask.k}[{n_bytes}] = {{{octets}}};",
            f"static const uint16_t tonescope_rows_{mask.k}[{mask.k}] = {{{rows}}};",
            "",
        ]
    return "\n".join([*lines, "#endif", ""])


def _indices_text(indices: Sequence[int], mask: Mask) -> str:
    if len(indices) < mask.k:
        return f"the {mask.k} chosen rows; their subcarriers are not known"
    return f"subcarriers {', '.join(f'{index:+d}' for index in sorted(indices))}"
