"""Which cells of a window belong together: tones, bands, frames, links, slabs along an axis, series over time.

What is done to the cells of a part is the affair of the method.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tonescope_server import plugin
from tonescope_server.errors import ParameterError
from tonescope_server.types import IntArray

Masks = npt.NDArray[np.bool_]
"""Which cells each part has, ``(parts, cells)``."""


def of_tones(windows: plugin.Windows, size: int, stride: int) -> Masks:
    """Return slabs of tones that are neighbours in the tone table."""
    return slabs(windows.tone_of_cell, size, stride, windows.n_tones)


def of_frames(windows: plugin.Windows, size: int, stride: int, *, name: str = "size") -> Masks:
    """Return slabs of frames that follow each other."""
    return slabs(windows.frame_of_cell, size, stride, name=name)


def of_links(windows: plugin.Windows, size: int = 1, stride: int = 1) -> Masks:
    """Return slabs of antenna links that are neighbours in the window."""
    return slabs(link_of_cell(windows), size, stride)


def of_components(windows: plugin.Windows, size: int, stride: int) -> Masks:
    """Return slabs of the components of a complex value."""
    given = windows.component_of_cell
    return slabs(np.zeros_like(windows.tone_of_cell) if given is None else given, size, stride)


def of_axis(windows: plugin.Windows, axis: int, size: int, stride: int) -> Masks:
    """Return slabs along an axis of the input; axis 0 is the batch."""
    return slabs(row_of_cell(windows, axis, "along"), size, stride)


def of_bands(windows: plugin.Windows, size: int, stride: int) -> Masks:
    """Return bands of tones that are neighbours in frequency: group after group, each in the order of the spectrum.

    A group that is smaller than a band (the null tones, mostly) is a band as a whole.
    """
    largest = max(len(group) for group in windows.tone_groups)
    if size > largest:
        raise ParameterError(f"parameter 'size': expected at most {largest}, got {size}")
    bands = []
    for group in windows.tone_groups:
        place = np.full(windows.n_tones, -1, np.int64)  # of each tone in the group
        place[group] = np.arange(len(group))
        bands.append(slabs(place[windows.tone_of_cell], min(size, len(group)), stride, len(group)))
    return np.concatenate(bands)


def slabs(index: IntArray, size: int, stride: int, count: int | None = None, *, name: str = "size") -> Masks:
    """Return, per slab of ``size`` neighbouring indices, which cells have one of them.

    The last slab is cut short where the indices end, so that none of them goes without for lying at the end.

    Raises:
        ParameterError: a slab is larger than all there is; ``name`` is the parameter that says so.
    """
    total = int(index.max()) + 1 if count is None else count
    if size > total:
        raise ParameterError(f"parameter '{name}': expected at most {total}, got {size}")
    starts = np.arange(0, min(total - size + stride, total), stride)
    found: Masks = (index[None] >= starts[:, None]) & (index[None] < starts[:, None] + size)
    return found


def link_of_cell(windows: plugin.Windows) -> IntArray:
    """Return the antenna link of each cell; zeros where there is one."""
    given = windows.link_of_cell
    return np.zeros_like(windows.tone_of_cell) if given is None else given


def row_of_cell(windows: plugin.Windows, axis: int, name: str) -> IntArray:
    """Return each cell's place along an axis of the input.

    Raises:
        ParameterError: the input has no such axis; ``name`` is the parameter that named it.
    """
    shape = windows.x.shape[1:]
    if not 1 <= axis <= len(shape):
        raise ParameterError(f"parameter '{name}': expected an axis from 1 to {len(shape)}, got {axis}")
    found: IntArray = np.indices(shape, np.int64)[axis - 1].ravel()
    return found


def cells_of_series(windows: plugin.Windows) -> IntArray:
    """Return the cells of each tone, link and component in the order of time, ``(series, frames)``."""
    frames = int(windows.frame_of_cell.max()) + 1
    order = np.lexsort((np.arange(windows.frame_of_cell.size), windows.frame_of_cell, windows.tone_of_cell))
    return order.reshape(windows.n_tones, frames, -1).swapaxes(1, 2).reshape(-1, frames).astype(np.int64)


def place_of_tone(windows: plugin.Windows) -> IntArray:
    """Return each tone's place in the order of the spectrum, group after group, ``(n_tones,)``."""
    found = np.empty(windows.n_tones, np.int64)
    found[np.concatenate(windows.tone_groups)] = np.arange(windows.n_tones)
    return found


def refuse_stride(size: int, stride: int, left: IntArray, what: str) -> None:
    """Refuse a stride that steps over something.

    Raises:
        ParameterError: always; it names what would be left.
    """
    names = np.unique(left).tolist()
    shown = f"{', '.join(map(str, names[:8]))}{', …' if len(names) > 8 else ''}"
    raise ParameterError(
        f"parameter 'stride': expected at most the size, {size}, got {stride}: {what} {shown} would never be hidden"
    )
