"""The checked-in protobuf code is what ``proto/`` generates."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _generator():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("tonescope_generate", ROOT / "tests" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_checked_in_code_is_what_the_proto_files_generate(tmp_path: Path) -> None:
    generate = _generator()
    fresh = generate.generate(tmp_path)
    checked_in = sorted(
        p.relative_to(generate.CHECKED_IN) for p in (generate.CHECKED_IN / generate.PACKAGE).glob("*_pb2*")
    )
    assert fresh == checked_in, "run `make generate`"
    stale = [
        str(path)
        for path in fresh
        if (tmp_path / path).read_bytes() != (generate.CHECKED_IN / path).read_bytes()
    ]
    assert not stale, f"run `make generate`: {stale}"


def test_the_proto_files_pass_the_linter() -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run([buf, "lint", ROOT / "proto"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
