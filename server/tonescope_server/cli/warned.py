"""What explanations warn of themselves, told once for all windows: how many said it, and of their numbers the range.

Attribution on tones without signal is more than a warning: a fault of its own, or what follows from one of the data.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from tonescope.results import Explanation
from tonescope_server.checks import Finding, Severity
from tonescope_server.checks.attribution import NULL_TONE_SHARE, REMEDY
from tonescope_server.cli.console import remark

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?%?")
_Kind = tuple[str, str]  # a code, and a message with its numbers left out


@dataclass
class Warned:
    """The warnings of explanations: each code once, but for messages that differ in more than their numbers.

    Attributes:
        windows: how many were explained.
    """

    windows: int = 0
    _messages: dict[_Kind, list[str]] = field(default_factory=lambda: defaultdict(list))
    _on_nulls: list[tuple[int, float, str]] = field(default_factory=list)  # node, share, message

    @classmethod
    def of(cls, explanations: Iterable[Explanation]) -> Warned:
        """Collect the warnings of explanations."""
        found = cls()
        for each in explanations:
            found.take(each)
        return found

    def take(self, explanation: Explanation) -> None:
        """Take note of an explanation; one that failed has none."""
        if explanation.problem is not None:
            return
        self.windows += 1
        for warning in explanation.warnings:
            if warning.code == NULL_TONE_SHARE:
                self._on_nulls.append((explanation.node_id, explanation.null_tone_share or 0.0, warning.message))
                continue
            self._messages[warning.code, _NUMBER.sub("#", warning.message)].append(warning.message)

    def faults(self, found: Sequence[Finding]) -> list[Finding]:
        """Tell attribution on null tones, which answers carry one by one, as the one fault that it is.

        Args:
            found: by the checks. Where they found a fault in a node's data, or this one, its share of null tones
                follows from that, and is not told again.
        """
        faulty = {each.node_id for each in found if each.severity is Severity.FAULT}
        left = [each for each in self._on_nulls if not faulty & {None, each[0]}]
        if not left:
            return []
        nodes, shares, messages = zip(*left, strict=True)
        message = f"{len(left)} of {self.windows} windows: {_merged(messages)}"
        figures = {"windows": float(len(left)), "largest_null_tone_share": max(shares)}
        node_id = nodes[0] if len(set(nodes)) == 1 and nodes[0] else None
        return [Finding(NULL_TONE_SHARE, Severity.FAULT, message, REMEDY, figures, node_id)]

    def section(self) -> list[dict[str, Any]]:
        """Return the section ``warnings`` of a report, without ``faults``: code, message, and in how many windows."""
        return [
            {"code": code, "message": _merged(messages), "windows": len(messages)}
            for (code, _), messages in self._messages.items()
        ]

    def show(self, told: Set[str] = frozenset()) -> None:
        """Say each but for ``faults``, and for the codes that were told otherwise."""
        for each in self.section():
            if each["code"] not in told:
                remark(f"warning: {self._line(each)}")

    def _line(self, each: Mapping[str, Any]) -> str:
        return f"{each['code']}: {each['windows']} of {self.windows} windows: {each['message']}"


def _merged(messages: Sequence[str]) -> str:
    """Write messages that differ in their numbers as one, with the range of each number."""
    columns = zip(*(_NUMBER.findall(each) for each in messages), strict=True)
    numbers = iter([_range(column) for column in columns])
    return _NUMBER.sub(lambda _: next(numbers), messages[0])


def _range(numbers: Iterable[str]) -> str:
    ordered = sorted(set(numbers), key=lambda each: float(each.rstrip("%")))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
