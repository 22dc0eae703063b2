"""What explanations warn of themselves, told once for all windows: how many said it, and of their numbers the range."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from tonescope.results import Explanation
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
            self._messages[warning.code, _NUMBER.sub("#", warning.message)].append(warning.message)

    def section(self) -> list[dict[str, Any]]:
        """Return the section ``warnings`` of a report: code, message, and in how many windows."""
        return [
            {"code": code, "message": _merged(messages), "windows": len(messages)}
            for (code, _), messages in self._messages.items()
        ]

    def show(self, told: Set[str] = frozenset()) -> None:
        """Say each, but for the codes that were told otherwise."""
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
