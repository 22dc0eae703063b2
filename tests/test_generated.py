"""The checked-in protobuf code is what ``proto/`` generates, and the table of operators what the code says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from tonescope_server.plugin.host import PluginHost

ROOT = Path(__file__).resolve().parent.parent


def _script(name):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location(f"tonescope_{name}", ROOT / "tests" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_checked_in_code_is_what_the_proto_files_generate(tmp_path: Path) -> None:
    generate = _script("generate")
    fresh = generate.generate(tmp_path)
    checked_in = sorted(
        p.relative_to(generate.CHECKED_IN) for p in (generate.CHECKED_IN / generate.PACKAGE).glob("*_pb2*")
    )
    assert fresh == checked_in, "run `make generate`"
    stale = [str(path) for path in fresh if (tmp_path / path).read_bytes() != (generate.CHECKED_IN / path).read_bytes()]
    assert not stale, f"run `make generate`: {stale}"


def test_the_proto_files_pass_the_linter() -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run([buf, "lint", ROOT / "proto"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_operators_is_what_the_code_says() -> None:
    operators = _script("operators")
    assert operators.DOCUMENT.read_text(encoding="utf-8") == operators.table(PluginHost.load()), "run `make generate`"
