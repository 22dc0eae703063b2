"""Reading binary recordings record by record, without ever holding more than one record.

Nothing here knows a format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

MAX_RECORD_BYTES = 1 << 20


class Truncated(bytes):
    """What was left of a file that ends within a record."""


def records(
    path: Path, prefix_bytes: int, size_of: Callable[[bytes], int | None], skip_bytes: int = 0
) -> Iterator[tuple[int, bytes]]:
    """Give every record with the offset it starts at; the last may be ``Truncated``.

    Args:
        path: the file.
        prefix_bytes: how much of a record says its size.
        size_of: the size in bytes of a whole record by that prefix; None or an impossible size ends the reading
            with the rest of the file as one ``Truncated`` record, since nothing tells where the next one starts.
        skip_bytes: what comes before the first record.
    """
    with path.open("rb") as file:
        file.seek(skip_bytes)
        at = skip_bytes
        while prefix := file.read(prefix_bytes):
            size = size_of(prefix) if len(prefix) == prefix_bytes else None
            if size is None or not prefix_bytes <= size <= MAX_RECORD_BYTES:
                yield at, Truncated(prefix)
                return
            record = prefix + _exactly(file, size - prefix_bytes)
            if len(record) < size:
                yield at, Truncated(record)
                return
            yield at, record
            at += size


def _exactly(file: BinaryIO, size: int) -> bytes:
    return file.read(size) if size else b""
