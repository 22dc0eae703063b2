"""Frames to send, and the windows that the tiny model makes of them."""

from __future__ import annotations

import numpy as np

from tonescope import Frame, Retry

FAST = Retry(first_s=0.02, cap_s=0.2)


def frames(n: int, node: int = 0, start: int = 0) -> list[Frame]:
    random = np.random.default_rng(5)
    return [Frame(amplitude=random.random(56, dtype=np.float32), node_id=node, sequence=start + i) for i in range(n)]


def expected_windows(n: int) -> list[tuple[int, int]]:
    """Windows of 4 frames, every 2."""
    return [(i, i + 3) for i in range(0, n - 3, 2)]
