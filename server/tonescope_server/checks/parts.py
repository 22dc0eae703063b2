"""Windows of components or links: each link's amplitudes are checked as those of plain windows are.

The amplitude of I and Q is their modulus, whatever their sign; of amplitude and phase it is the first. What phases
ought to look like, and by what complex values were divided, is not known, and not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from math import prod

import numpy as np
import numpy.typing as npt

from tonescope_server.checks import layout
from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.layout import FRAME_MAJOR, LAYOUT_MISMATCH, TONE_MAJOR, Reading, Signature
from tonescope_server.checks.series import Declared
from tonescope_server.csi.cells import COMPONENT, FRAME, FRAME_TONE, LINK, TONE, TONE_FRAME, CellMap, cell_map
from tonescope_server.types import BoolArray, FloatArray

IQ = ("real", "imaginary")
_OF_THE_ORDER = (FRAME_MAJOR, TONE_MAJOR, LAYOUT_MISMATCH)

CheckPlain = Callable[[FloatArray, Declared], list[Finding]]


def check_parts(cells: npt.NDArray[np.float32], declared: Declared, check: CheckPlain) -> list[Finding]:
    """Check windows with components or links.

    Args:
        cells: ``[n_windows, *shape]``.
        declared: what the manifest says.
        check: checks plain windows of amplitudes against what is declared of them.

    Returns:
        What was found: what all links share once, the rest under the link's name.
    """
    plain = replace(declared, cells=_plain(declared.cells), mean=None, std=None)
    if declared.cells.components == IQ:  # moduli are no z-scores, whatever their parts are
        plain = replace(plain, normalisation="none")
    planes = amplitudes(cells, declared.cells, declared.cells.cell_order)
    by_link = [check(plane, plain) for plane in planes]
    if any(finding.code in _OF_THE_ORDER for found in by_link for finding in found):
        fitting = fitting_orders(cells, declared.cells)
        if fitting:
            return [_other_order(fitting, declared.cells)]
    return _told_once(by_link, declared.cells.links)


def amplitudes(cells: npt.NDArray[np.float32], declared: CellMap, cell_order: str) -> list[FloatArray]:
    """Take the amplitudes of each link out of windows, were their cells in this order.

    Shapes:
        cells: ``[n, *shape]`` → one of ``[n, n_tones, n_frames]`` for each link, or with frames first where the order
            has them first.
    """
    axes = cell_order.split("_")
    by_axis = cells.reshape(len(cells), *(_sizes(declared)[axis] for axis in axes))
    last = (FRAME, TONE) if _frames_first(cell_order) else (TONE, FRAME)
    wanted = [axis for axis in (LINK, COMPONENT, *last) if axis in axes]
    parts = by_axis.transpose(0, *(1 + axes.index(axis) for axis in wanted))
    if COMPONENT in axes:
        at = wanted.index(COMPONENT) + 1
        is_iq = declared.components == IQ
        parts = np.asarray(np.sqrt(np.square(parts).sum(axis=at)) if is_iq else parts.take(0, axis=at))
    links = parts.swapaxes(0, 1) if LINK in axes else parts[None]
    return [np.ascontiguousarray(link, dtype=np.float32) for link in links]


def like_declared(declared: CellMap) -> list[str]:
    """List the other orders of cells whose null cells are those of the declared one, so that zeros do not tell them."""
    null = _null_cells(declared, declared.cell_order)
    return [order for order in _other_orders(declared) if np.array_equal(_null_cells(declared, order), null)]


def fitting_orders(cells: npt.NDArray[np.float32], declared: CellMap) -> list[str]:
    """List the orders under which what never carries signal are the null tones, in every link."""
    if not declared.table.knows_nulls or len(cells) < layout.FEWEST_WINDOWS:
        return []

    def fits(order: str) -> bool:
        plain = FRAME_TONE if _frames_first(order) else TONE_FRAME
        reading = Reading(plain, declared.table.id, declared.n_tones, declared.n_frames)
        planes = amplitudes(cells, declared, order)
        return all(Signature.of(plane.reshape(len(plane), -1)).fits(reading) for plane in planes)

    return [order for order in _other_orders(declared) if fits(order)]


def _other_order(fitting: list[str], declared: CellMap) -> Finding:
    best, ours = _frames_first(fitting[0]), _frames_first(declared.cell_order)
    code = LAYOUT_MISMATCH if best == ours else FRAME_MAJOR if best else TONE_MAJOR
    names = " or ".join(f'"{order}"' for order in fitting)
    message = (
        f'the cells that never carry signal are no tones in the declared order "{declared.cell_order}"; they are the '
        f'null tones of "{declared.table.id}" in {names}'
    )
    return Finding(code, Severity.FAULT, message, f"input.cell_order = {names}")


def _told_once(by_link: list[list[Finding]], links: tuple[str, ...]) -> list[Finding]:
    if len(by_link) == 1:
        return by_link[0]
    found: list[Finding] = []
    for code in dict.fromkeys(finding.code for each in by_link for finding in each):
        with_it = [(name, f) for name, each in zip(links, by_link, strict=True) for f in each if f.code == code]
        name, first = with_it[0]
        of_all = len({name for name, _ in with_it}) == len(links)
        where = "each link, as" if of_all else "link" if len(with_it) == 1 else f"{len(with_it)} links, as"
        found.append(replace(first, message=f"{where} '{name}': {first.message}"))
    return found


def _plain(declared: CellMap) -> CellMap:
    frames_first = _frames_first(declared.cell_order)
    sizes = (declared.n_frames, declared.n_tones) if frames_first else (declared.n_tones, declared.n_frames)
    return cell_map(sizes, declared.table, FRAME_TONE if frames_first else TONE_FRAME, declared.n_frames)


def _frames_first(cell_order: str) -> bool:
    axes = cell_order.split("_")
    return axes.index(FRAME) < axes.index(TONE)


def _other_orders(declared: CellMap) -> list[str]:
    """List all other orders, that in which only tones and frames change places first."""
    axes = declared.cell_order.split("_")
    swapped = "_".join({TONE: FRAME, FRAME: TONE}.get(axis, axis) for axis in axes)
    others = ["_".join(each) for each in permutations(axes)]
    return list(dict.fromkeys(order for order in (swapped, *others) if order != declared.cell_order))


def _sizes(declared: CellMap) -> dict[str, int]:
    return {
        TONE: declared.n_tones,
        FRAME: declared.n_frames,
        LINK: declared.n_links,
        COMPONENT: declared.n_components,
    }


def _null_cells(declared: CellMap, cell_order: str) -> BoolArray:
    axes, sizes = cell_order.split("_"), _sizes(declared)
    after = prod(sizes[axis] for axis in axes[axes.index(TONE) + 1 :])
    before = prod(sizes[axis] for axis in axes[: axes.index(TONE)])
    null: BoolArray = np.tile(np.repeat(declared.table.null_mask, after), before)
    return null
