"""Frames of several antennas: one row for each link, and the identity of each row.

A link is a pair (receiving antenna, transmitted stream), both counted from 0; the receiving antenna varies
slowest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Links = tuple[tuple[int, int], ...]
MOST_ANTENNAS = 8


def by_link(channel: npt.NDArray[Any]) -> tuple[npt.NDArray[np.complex64], Links]:
    """Lay a channel matrix out as a frame's values, and name its rows.

    Shapes:
        channel: ``[n_tones, n_rx, n_tx]`` → ``[n_rx * n_tx, n_tones]``, or ``[n_tones]`` for one link.
    """
    n_tones, n_rx, n_tx = channel.shape
    values = np.ascontiguousarray(channel.transpose(1, 2, 0).reshape(-1, n_tones), dtype=np.complex64)
    links = tuple((rx, tx) for rx in range(n_rx) for tx in range(n_tx))
    return (values[0] if len(links) == 1 else values), links
