"""Reading text recordings line by line, without ever holding more than one line.

Nothing here knows a format.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MAX_LINE_BYTES = 1 << 20


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Give every line that is not blank, with its number from 1; None for one that is longer than 1 MiB."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while rest := file.readline(MAX_LINE_BYTES):
                    if rest.endswith(b"\n"):
                        break
                yield number, None
            elif stripped := line.strip():
                yield number, stripped
