"""Which reading of the cells makes sense: by their zeros, and by where the model's attribution then lies.

A reading says which tone each cell is: an order of cells with a tone layout. Attribution on tones that carry no signal
is nonsense, so that each reading is tried as if the manifest declared it, and its null-tone share is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tonescope_server.checks.layout import Reading, Signature, declared_reading, orders_of, tiers
from tonescope_server.csi.cells import FEATURE, CellMap, cell_map
from tonescope_server.csi.tones import certain_nulls, layouts_of_length
from tonescope_server.engine.explainer import Explainer
from tonescope_server.reports.dataset import Dataset, Windows, cut_windows
from tonescope_server.types import BoolArray, FloatArray, IntArray

MOST_SHARE = 0.01
MOST_WINDOWS = 256  # explained; more of one recording change no share in its second digit
FEWEST_WINDOWS = 8  # as the zero signature takes
BATCH = 64

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explained:
    """What the model makes of windows in one order of cells.

    Shapes:
        windows.cells: ``[n, *shape]``.
        gradient, attribution: ``[n, n_cells]``: of the predicted class (or mean output), and input × gradient.
    """

    windows: Windows
    gradient: FloatArray
    attribution: FloatArray

    @property
    def raw(self) -> FloatArray:
        """The windows before they were normalised, ``[n, n_cells]``."""
        return self.windows.raw.reshape(len(self.windows), -1)


@dataclass(frozen=True)
class Tried:
    """How one reading does.

    Attributes:
        reading: the reading.
        is_declared: whether the manifest declares it.
        fits_zeros: whether the cells that never carry signal are the nulls of this reading; None where there are too
            few windows to say.
        nulls_alive: cells that should be null and carry signal.
        tones_dead: cells that should carry signal and never do.
        null_cells: the part of the cells that are null: what the shares below would be by chance.
        share_now: the part of Σ|input × gradient|, as the model is fed now, on what this reading says are null tones;
            None where the cells were laid out here, in the declared order: then another order says nothing of them.
        share_if_declared: the same, were this reading declared: rows normalised, and frames laid out, by its order.
        gradient_share: likewise of Σ|gradient|: what the model would make of signal there. It does not need one.
    """

    reading: Reading
    is_declared: bool
    fits_zeros: bool | None
    nulls_alive: int
    tones_dead: int
    null_cells: float
    share_now: float | None
    share_if_declared: float
    gradient_share: float

    @property
    def is_sensible(self) -> bool:
        """Say whether the zeros fit, as far as they can be told, and the attribution keeps off the nulls."""
        return self.fits_zeros is not False and self.share_if_declared <= MOST_SHARE


@dataclass(frozen=True, eq=False)
class Trial:
    """Every reading that was tried, and what the tries were made of.

    Attributes:
        tried: the readings that know of null tones, the declared one first where it does.
        by_order: by order of cells, what the model makes of the windows were that order declared.
        now: the same as things are.
    """

    tried: tuple[Tried, ...]
    by_order: Mapping[str, Explained]
    now: Explained

    @property
    def declared(self) -> Tried | None:
        """The declared reading; None where its layout knows of no nulls."""
        return next((each for each in self.tried if each.is_declared), None)

    @property
    def fitting(self) -> tuple[Tried, ...]:
        """The readings that the zeros fit, the declared one first where it is among them."""
        return tuple(each for each in self.tried if each.fits_zeros)

    @property
    def best(self) -> Tried | None:
        """The reading to go by: of those that fit, the first; None where the zeros fit none, or cannot tell."""
        return next(iter(self.fitting), None)


def try_readings(explainer: Explainer, data: Dataset, normalise: str, hop: int) -> Trial:
    """Try every order of cells with every layout of equal length; other readings where none of these fits the zeros.

    Those others are tones rolled by a few rows, and header bytes read as tones.

    Raises:
        UnsupportedOperatorError: the model cannot be differentiated.
    """
    cells = explainer.model.cells
    declared = declared_reading(cells)
    now = explained(explainer, data, normalise, hop, cells)
    by_order = {declared.cell_order: now}
    is_plain = not cells.has_parts and (cells.cell_order != FEATURE or cells.table.knows_nulls)
    if not is_plain or not len(now.windows):
        return Trial((), by_order, now)
    for order in orders_of(declared)[1:]:
        other = cell_map(cells.shape, cells.table, order, cells.n_frames)
        by_order[order] = explained(explainer, data, normalise, hop, other)
    laid_out_here = data.cells is None
    found = []
    for reading in candidates(declared, by_order):
        tried = _try(reading, reading == declared, by_order[reading.cell_order])
        folds_now = not laid_out_here or reading.cell_order == declared.cell_order
        found.append(replace(tried, share_now=null_share(now.attribution, reading.null_cells) if folds_now else None))
    return Trial(tuple(found), by_order, now)


def candidates(declared: Reading, by_order: Mapping[str, Explained]) -> list[Reading]:
    """List the readings to try that know of null tones, the declared one first; see ``try_readings``."""
    # Nulls that need not be zero are fitted by any data: such a layout is tried only where it is declared.
    layouts = [table.id for table in layouts_of_length(declared.n_tones) if certain_nulls(table).any()]
    layouts += [declared.layout] if declared.table.knows_nulls and declared.layout not in layouts else []
    plain = [replace(declared, cell_order=order, layout=layout) for order in by_order for layout in layouts]
    known = [declared] if declared.table.knows_nulls else []
    plain = [*known, *(reading for reading in plain if reading != declared)]
    if not known or any(_fits(reading, by_order) for reading in plain):
        return plain
    shifted = [r for tier in tiers(declared, tuple(by_order)) for r in tier if r.rolled or r.header_rows]
    return [*plain, *(reading for reading in shifted if _fits(reading, by_order))]


def explained(explainer: Explainer, data: Dataset, normalise: str, hop: int, cells: CellMap) -> Explained:
    """Explain the windows of a data set, evenly spread where there are many, as if ``cells`` were the declared map."""
    windows = cut_windows(data, explainer, normalise, hop, cells)
    if len(windows) > MOST_WINDOWS:
        chosen: IntArray = np.linspace(0, len(windows) - 1, MOST_WINDOWS).round().astype(np.int64)
        windows = windows.only(chosen)
    n = len(windows)
    parts = [explainer.gradient(windows.cells[start : start + BATCH]) for start in range(0, n, BATCH)]
    flat = windows.cells.reshape(n, -1)
    gradient = np.concatenate(parts).reshape(n, -1) if parts else np.zeros_like(flat)
    return Explained(windows, gradient, gradient * flat)


def null_share(values: FloatArray, null: BoolArray) -> float:
    """Return the part of Σ|values| on null cells; 0 where there is nothing to have a part of.

    Shapes:
        values: ``[n, n_cells]``; null: ``[n_cells]``.
    """
    by_cell: Float64Array = np.abs(values).sum(axis=0, dtype=np.float64)
    total = float(by_cell.sum())
    return float(by_cell[null].sum()) / total if total else 0.0


def _fits(reading: Reading, by_order: Mapping[str, Explained]) -> bool:
    raw = by_order[reading.cell_order].raw
    return len(raw) >= FEWEST_WINDOWS and Signature.of(raw).fits(reading)


def _try(reading: Reading, is_declared: bool, made: Explained) -> Tried:
    signature = Signature.of(made.raw)
    alive, dead = signature.misfit(reading)
    return Tried(
        reading=reading,
        is_declared=is_declared,
        fits_zeros=signature.fits(reading) if len(made.raw) >= FEWEST_WINDOWS else None,
        nulls_alive=alive,
        tones_dead=dead,
        null_cells=float(reading.null_cells.mean()),
        share_now=None,
        share_if_declared=null_share(made.attribution, reading.null_cells),
        gradient_share=null_share(made.gradient, reading.null_cells),
    )
