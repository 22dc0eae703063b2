"""Counters and clocks of few bits that start again from zero: carried on without a jump.

Nothing here knows a format.
"""

from __future__ import annotations

from collections.abc import Hashable


class WrappingCounter:
    """Carry a counter on over its wraps; one that falls by less than half its period is taken as it is.

    Args:
        period: the value at which it starts again.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._last: dict[Hashable, tuple[int, int]] = {}

    def unwrapped(self, value: int, key: Hashable = None) -> int:
        """Give the value, plus a period for every wrap seen under this key."""
        last, turns = self._last.get(key, (value, 0))
        if last - value > self._period // 2:
            turns += 1
        elif value - last > self._period // 2 and turns:
            turns -= 1  # a late one, from before the wrap
        self._last[key] = (value, turns)
        return value + turns * self._period
