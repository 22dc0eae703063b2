"""Regenerate the Python protobuf code from ``proto/``: run by ``make generate``, checked by a test.

Generated code is checked in, so that no user needs a compiler, and is never edited.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PACKAGE = Path("tonescope") / "v1"
CHECKED_IN = ROOT / "clients" / "python"


def generate(out: Path) -> list[Path]:
    """Write the messages, the services and their stubs below ``out``; return their paths relative to it."""
    out.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / PACKAGE).glob("*.proto"))
    services = [name for name in sources if name.endswith("_service.proto")]
    _protoc(f"--python_out={out}", sources)
    _protoc(f"--mypy_out=quiet:{out}", sources)
    _protoc(f"--grpc_python_out={out}", services)
    _protoc(f"--mypy_grpc_out=quiet:{out}", services)
    return sorted(path.relative_to(out) for path in (out / PACKAGE).glob("*_pb2*"))


def _protoc(output: str, sources: list[str]) -> None:
    """Run the compiler with one output plugin."""
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    includes = [f"--proto_path={PROTO}", f"--proto_path={files('grpc_tools') / '_proto'}"]
    if protoc.main(["protoc", *plugins, *includes, output, *sources]) != 0:
        raise SystemExit(f"protoc {output} failed on {', '.join(sources)}")


def main() -> int:
    """Regenerate the checked-in code and remove what no longer has a source."""
    fresh = set(generate(CHECKED_IN))
    for path in (CHECKED_IN / PACKAGE).glob("*_pb2*"):
        if path.relative_to(CHECKED_IN) not in fresh:
            path.unlink()
    print(f"{len(fresh)} files in {(CHECKED_IN / PACKAGE).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
