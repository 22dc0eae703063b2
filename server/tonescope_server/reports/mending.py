"""What would be left of a fault if it were mended so: each remedy is tried on the data before it is given.

A remedy is judged by what it leaves: attribution on tones that carry no signal, and faults of layout or normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tonescope_server.checks.layout import Reading
from tonescope_server.checks.normalisation import WRONG_NORMALISATION
from tonescope_server.checks.series import Declared
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import ToneTable
from tonescope_server.engine.explainer import Explainer
from tonescope_server.models.model import Model
from tonescope_server.reports.consequences import OF_THE_LAYOUT
from tonescope_server.reports.dataset import Dataset
from tonescope_server.reports.findings import check_data
from tonescope_server.reports.readings import MOST_SHARE, Tried, explained, null_share
from tonescope_server.types import FloatArray, IntArray

ROUNDING = 1e-3  # deviations: what float32 leaves of a zero that was normalised


@dataclass(frozen=True)
class Outcome:
    """What a remedy leaves.

    Attributes:
        share: of the attribution, on null tones; None where there is none to have.
        faults: the codes of what is still wrong with the data.
    """

    share: float | None
    faults: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Say whether nothing is left on null tones, and nothing is at fault."""
        return not self.faults and (self.share is None or self.share <= MOST_SHARE)

    def __str__(self) -> str:
        share = "" if self.share is None else f"on null tones then: {self.share:.1%}"
        return ", ".join([share, *self.faults] if share else self.faults)


@dataclass(frozen=True)
class Mended:
    """What each remedy leaves; None for one that cannot be tried.

    Attributes:
        declared: with the reading that fits declared in the manifest; None for one that no manifest can declare.
        rearranged: with the data laid out as the manifest declares.
        anew: the same, and normalised only then, where windows come normalised.
    """

    declared: Outcome | None = None
    rearranged: Outcome | None = None
    anew: Outcome | None = None


def is_clean(outcome: Outcome | None) -> bool:
    """Say whether a remedy helps; one that cannot be tried is not known to."""
    return outcome is not None and outcome.is_clean


def mend(explainer: Explainer, data: Dataset, normalise: str, hop: int, best: Tried) -> Mended:
    """Try each remedy for data that is to be read otherwise than declared."""
    model = explainer.model
    raw = _undone(data, model, normalise)
    laid_out = rearranged(data, best.reading, model)
    anew = None if raw is None else rearranged(raw, best.reading, model)
    return Mended(
        _if_declared(data, model, normalise, best),
        None if laid_out is None else _outcome(explainer, laid_out, normalise, hop),
        None if anew is None else _outcome(explainer, anew, "manifest", hop),
    )


def _if_declared(data: Dataset, model: Model, normalise: str, best: Tried) -> Outcome | None:
    reading = best.reading
    if reading.rolled or reading.header_rows:
        return None
    cells = cell_map(model.cells.shape, reading.table, reading.cell_order, model.cells.n_frames)
    other = replace(model, table=reading.table, cells=cells)
    return Outcome(best.share_if_declared, _faults(data, other, normalise))


def _outcome(explainer: Explainer, data: Dataset, normalise: str, hop: int) -> Outcome:
    return Outcome(share_of(explainer, data, normalise, hop), _faults(data, explainer.model, normalise))


def _faults(data: Dataset, model: Model, normalise: str) -> tuple[str, ...]:
    """List what is still wrong with how data is laid out and normalised; what else is wrong is not to be mended so."""
    codes = (finding.code for finding in check_data(data, model, normalise))
    return tuple(dict.fromkeys(code for code in codes if code in (*OF_THE_LAYOUT, WRONG_NORMALISATION)))


def share_of(explainer: Explainer, data: Dataset, normalise: str, hop: int) -> float | None:
    """Return the null-tone share of data as it is declared; None where there is none to have."""
    cells = explainer.model.cells
    made = explained(explainer, data, normalise, hop, cells)
    return null_share(made.attribution, cells.null_cells) if len(made.windows) and cells.table.knows_nulls else None


def share_in_order(explainer: Explainer, data: Dataset, normalise: str, hop: int, cell_order: str) -> float | None:
    """Return the null-tone share of windows of components or links, were this order of cells declared."""
    declared = explainer.model.cells
    cells = cell_map(declared.shape, declared.table, cell_order, declared.n_frames, declared.links, declared.components)
    made = explained(explainer, data, normalise, hop, cells)
    return null_share(made.attribution, cells.null_cells) if len(made.windows) else None


def rearranged(data: Dataset, reading: Reading, model: Model) -> Dataset | None:
    """Lay data out as a model's manifest declares; None where tones are lost, or another layout has others.

    Args:
        data: that is to be read otherwise.
        reading: how.
        model: says how it ought to be.
    """
    rows = rows_of(reading, model.table)
    if rows is None:
        return None
    if data.cells is None:
        frames = [f for f in data.frames if f.values.shape[-1] == len(rows)]
        return replace(data, frames=tuple(replace(f, values=f.values[..., rows]) for f in frames))
    frames_of = reading.frames(data.cells.reshape(len(data.cells), -1))[..., rows]
    return replace(data, cells=np.stack([model.cells.arrange(frames) for frames in frames_of]))


def rows_of(reading: Reading, table: ToneTable) -> IntArray | None:
    """Return which row of a reading holds each tone of a table; None where one is nowhere."""
    if reading.header_rows or len(reading.table) != len(table):
        return None
    row_of_tone = np.argsort(reading.tone_of_row)
    if reading.layout == table.id:
        return np.asarray(row_of_tone, np.int64)
    tone_of = {tone.subcarrier_index: tone.row for tone in reading.table}
    wanted = [tone.subcarrier_index for tone in table]
    if None in tone_of or len(tone_of) != len(table) or set(wanted) != set(tone_of):
        return None
    rows: IntArray = row_of_tone[[tone_of[index] for index in wanted]]
    return rows


def roll_to(rows: IntArray) -> int | None:
    """Return by how much ``numpy.roll`` brings rows into that order; None where it cannot."""
    by = -int(rows[0])
    n = len(rows)
    return (by + n // 2) % n - n // 2 if np.array_equal(np.roll(np.arange(n), by), rows) else None


def _undone(data: Dataset, model: Model, normalise: str) -> Dataset | None:
    """Take the manifest's normalisation back; None where the data is not normalised, or by what nobody knows."""
    stated = Declared.of(model)
    if data.cells is None or normalise not in ("", "none") or stated.normalisation != "manifest":
        return None
    if stated.mean is None or stated.std is None:
        return None
    lying: npt.NDArray[np.float32] = data.cells.reshape(len(data.cells), *model.cells.shape)
    std = stated.std + stated.eps
    frames = model.cells.frames(lying) * std + stated.mean
    frames = np.where(np.abs(frames) < ROUNDING * std, 0, frames)  # what was zero is so again
    raw: FloatArray = np.stack([model.cells.arrange(each) for each in frames.astype(np.float32)])
    return replace(data, cells=raw)
