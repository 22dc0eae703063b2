"""What was found of one stream so far: what of it is new, and how often each finding appeared.

Most of it is found by the stream's checks; some goes with the answers to single windows, and is only counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tonescope_server.checks import Finding, Severity

AGAIN_S = 60.0
MOST = 64  # findings of one stream that are kept apart: a sender that invents nodes does not fill the memory

_Key = tuple[str, int | None]


class Findings:
    """Says each finding once for each node. One that goes away and comes back is said again, a minute later at least.

    Attributes:
        counts: by code, how often it appeared, said or not; one that lasts counts once.
    """

    def __init__(self) -> None:
        self._present: set[_Key] = set()
        self._said: dict[_Key, float] = {}
        self._with_answers: dict[_Key, float] = {}
        self.counts: Counter[str] = Counter()

    def take(self, found: Sequence[Finding], now: float) -> list[Finding]:
        """Take in all that the checks found this time; return what is to be said.

        Notes are for reports: a stream of which every window is alike may be a quiet room.

        Args:
            found: what holds now; what is not in it went away.
            now: seconds, from anywhere.
        """
        graver = {(each.code, each.node_id): each for each in found if each.severity is not Severity.NOTE}
        new = [(key, each) for key, each in graver.items() if key not in self._present and self._has_room(key)]
        self._present = set(graver)
        say = []
        for key, each in new:
            if now - self._with_answers.get(key, -np.inf) >= AGAIN_S:
                self.counts[each.code] += 1
            last = self._said.get(key)
            if last is None or now - last >= AGAIN_S:
                self._said[key] = now
                say.append(each)
        return say

    def count(self, code: str, node: int, now: float) -> int:
        """Count a fault that an answer carries; return 1 where it is new, and 0 while it lasts.

        It lasts while no minute passes without it.
        """
        key = code, node
        last = self._with_answers.get(key)
        if last is None and len(self._with_answers) >= MOST:
            return 0
        self._with_answers[key] = now
        if key in self._present or (last is not None and now - last < AGAIN_S):
            return 0
        self.counts[code] += 1
        return 1

    def _has_room(self, key: _Key) -> bool:
        return key in self._said or len(self._said) < MOST
