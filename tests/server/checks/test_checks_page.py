"""``docs/checks.md`` against the code: every finding there is, with its severity."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
LISTED = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE, re.MULTILINE))


def codes_in_code() -> set[str]:
    """Return the values of the constants that are named as what they hold, which is how codes are written."""
    found = set()
    for path in (ROOT / "server" / "tonescope_server" / "checks").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                if node.value.value in names:
                    found.add(node.value.value)
    return found


def severities_in_code() -> set[tuple[str, str]]:
    """Return code and severity of every ``Finding(…)`` that names its code."""
    found = set()
    for path in (ROOT / "server" / "tonescope_server" / "checks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_finding = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
            if is_finding and isinstance(node.args[0], ast.Name) and isinstance(node.args[1], ast.Attribute):
                found.add((node.args[0].id, node.args[1].attr.lower()))
    return found


def test_the_codes_listed_are_those_there_are() -> None:
    assert set(LISTED) == codes_in_code()


def test_the_severities_listed_are_those_that_are_given() -> None:
    given = {(code, severity) for code, severity in severities_in_code() if code in LISTED}
    assert len(given) >= 18
    assert {(code, LISTED[code]) for code, _ in given} == given
