"""Which tones lie side by side in frequency. What each tone is belongs to ``tones``."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from tonescope_server.csi.tones import Tone, ToneKind, ToneTable
from tonescope_server.types import IntArray


def tone_groups(table: ToneTable) -> tuple[IntArray, ...]:
    """List the rows of a table in groups, each in the order of the spectrum.

    A group is one training field; its null tones are a group of their own, so that what is found of a band of tones
    never spreads to tones that carry no signal. Rows whose subcarrier index is not known stand in the table's order.
    """
    ordered = sorted(table, key=lambda tone: (*_group(tone), _place(tone), tone.row))
    return tuple(np.array([tone.row for tone in tones], np.int64) for _, tones in groupby(ordered, key=_group))


def _group(tone: Tone) -> tuple[str, bool, bool]:
    return tone.training_field, tone.kind is ToneKind.NULL, tone.subcarrier_index is None


def _place(tone: Tone) -> int:
    return tone.row if tone.subcarrier_index is None else tone.subcarrier_index
