"""Environments of their own for plugins: all that is here is there too; what is installed there is nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path


class Environment:
    """A virtual environment in a folder, on top of the one that runs the tests."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        names = {"base": str(folder), "platbase": str(folder)}
        here = Path(sysconfig.get_path("purelib", "venv", names))
        # Not merely on the path: the project may itself be installed by a .pth file of that folder.
        below = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        lines = [f"import site; site.addsitedir({path!r})" for path in sorted(below)]
        (here / "below.pth").write_text("\n".join(lines) + "\n")
        self.folder = folder
        self.python = Path(sysconfig.get_path("scripts", "venv", names)) / "python"

    def install(self, project: Path) -> None:
        """Install a project from a copy of its folder, with what is here already: no registry is asked."""
        copy = self.folder / "src" / project.name
        shutil.copytree(project, copy)
        self.run("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", str(copy))

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run Python and return what it prints."""
        done = subprocess.run(
            [self.python, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=cwd, env=_clean()
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def tonescope(self, *arguments: str) -> str:
        """Run tonescope's command line and return what it prints."""
        return self.run("-m", "tonescope_server.cli", *arguments)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start tonescope's command line, and leave it running."""
        command = [str(self.python), "-m", "tonescope_server.cli", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_clean())


def _clean() -> dict[str, str]:
    """Return the environment without what would have Python look elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
