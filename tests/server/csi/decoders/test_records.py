from __future__ import annotations

from pathlib import Path

import pytest

from tonescope_server.csi.decoders._records import MAX_RECORD_BYTES, Truncated, records


def read(path: Path, data: bytes, skip: int = 0) -> list[tuple[int, bytes]]:
    path.write_bytes(data)
    return list(records(path, 1, lambda prefix: prefix[0], skip))


def test_records_come_with_the_offset_they_start_at(tmp_path: Path):
    assert read(tmp_path / "r", b"xx\3ab\1\2c", 2) == [(2, b"\3ab"), (5, b"\1"), (6, b"\2c")]


def test_a_file_that_ends_within_a_record_says_so(tmp_path: Path):
    (_, whole), (at, cut) = read(tmp_path / "r", b"\2a\5bc")
    assert not isinstance(whole, Truncated)
    assert (at, cut) == (2, b"\5bc")
    assert isinstance(cut, Truncated)


@pytest.mark.parametrize("size", [0, MAX_RECORD_BYTES + 1, None])
def test_an_impossible_size_ends_the_reading(tmp_path: Path, size: int | None):
    path = tmp_path / "r"
    path.write_bytes(b"abc" * 9)
    (only,) = records(path, 1, lambda prefix: size)
    assert isinstance(only[1], Truncated)
