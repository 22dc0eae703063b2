"""What the checks of one stream found so far: what of it is new, and how often each finding appeared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
            self.counts[each.code] += 1
            last = self._said.get(key)
            if last is None or now - last >= AGAIN_S:
                self._said[key] = now
                say.append(each)
        return say

    def _has_room(self, key: _Key) -> bool:
        return key in self._said or len(self._said) < MOST
