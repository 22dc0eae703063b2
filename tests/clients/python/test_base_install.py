"""The client needs gRPC and NumPy alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BLOCKED = """
import sys

class Blocker:
    names = {"tonescope_server", "tonescope_plugins", "onnx", "onnxruntime", "onnx_ir", "safetensors", "pluggy",
             "pydantic", "pydantic_settings", "typer", "rich", "structlog", "prometheus_client", "matplotlib", "scipy",
             "grpc_health", "grpc_reflection", "grpc_status"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)
        return None

sys.meta_path.insert(0, Blocker())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BLOCKED + code], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_client_imports_with_every_package_of_the_daemon_blocked() -> None:
    done = python("import tonescope, tonescope.aio; print(tonescope.connect('localhost:1').address)")
    assert done.stderr == ""
    assert done.stdout == "localhost:1\n"


def test_the_blocker_blocks() -> None:
    assert "blocked" in python("import tonescope_server").stderr


def test_the_command_without_the_server_extra_names_it_in_one_line() -> None:
    code = "Blocker.names -= {'tonescope_server'}; from tonescope_server._entry import main; raise SystemExit(main())"
    done = python(code)
    assert done.returncode == 2
    assert "pip install 'tonescope[server]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


_CTRL_C_AT = """
import sys
class Pressed:
    def find_spec(self, name, *rest):
        if name == {name!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
from tonescope_server._entry import main
raise SystemExit(main())
"""


@pytest.mark.parametrize("name", ["tonescope_server.cli", "typer", "tonescope_server.cli.methods"])
def test_ctrl_c_while_the_command_still_imports_leaves_no_traceback(name: str) -> None:
    code = _CTRL_C_AT.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code, "methods"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
