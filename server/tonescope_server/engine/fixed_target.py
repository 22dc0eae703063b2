"""A target whose class is that of the windows it was asked for, whatever is predicted elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tonescope_server.types import IntArray, Target


def target_of_rows(target: Target, rows: IntArray) -> Target:
    """Return a target for points that belong to windows: an index for each window becomes one for each point.

    Args:
        target: as an ``Attribution`` has it, with its classes filled in.
        rows: the window of each point.
    """
    plus, minus = (None if each is None else target_of_rows(each, rows) for each in (target.plus, target.minus))
    index = target.index
    if isinstance(index, np.ndarray) and index.ndim == 1:
        index = index[rows]
    return replace(target, index=index, plus=plus, minus=minus)
