"""Commands run as they are, in this process; a daemon of their own where they need one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tonescope_server.cli import console, main
from tonescope_server.cli.demo import own_daemon
from tonescope_server.demo import recording_path, store_path


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    for name in ("TONESCOPE_STORE", "TONESCOPE_SERVER"):
        monkeypatch.delenv(name, raising=False)
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 200)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["tonescope", *map(str, arguments)])
        code = main()
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must fail with one line on stderr, no traceback, and nothing on stdout; return the line."""

    def refused(*arguments: object) -> str:
        ran = run(*arguments)
        assert ran.code == 1, ran
        lines = ran.err.splitlines()
        assert len(lines) == 1, ran.err
        assert lines[0].startswith("tonescope: ")
        assert "Traceback" not in ran.err + ran.out
        return lines[0]

    return refused


@pytest.fixture(scope="session")
def recording() -> Path:
    return recording_path()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A daemon with the bundled store."""
    with own_daemon(store_path()) as listening:
        yield listening


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """Five windows for the tiny model of 56 tones × 4 frames."""
    path = tmp_path / "windows.npy"
    np.save(path, np.random.default_rng(2).standard_normal((5, 56, 4)).astype(np.float32))
    return path


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(records: list[Any], name: str = "made.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write
