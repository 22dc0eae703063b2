"""The template of a plugin, copied and renamed as its page says, works at once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .environments import Environment

TEMPLATE = Path(__file__).resolve().parents[2] / "templates" / "method"


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the template, and put another name in place of its own everywhere."""
    folder = tmp_path_factory.mktemp("copy") / "sideways"
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("my_method", "sideways").replace("MyMethod", "Sideways"), encoding="utf-8")
        path.rename(path.with_name(path.name.replace("my_method", "sideways")))
    return folder


@pytest.fixture(scope="module")
def environment(renamed: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install(renamed)
    return made


def test_nothing_of_the_old_name_is_left(renamed: Path) -> None:
    assert {path.name for path in renamed.rglob("*.py")} == {"sideways.py", "test_sideways.py"}
    assert not any(re.search("my_?method", path.read_text(), re.IGNORECASE) for path in renamed.rglob("*.*"))


def test_its_own_tests_pass_in_an_environment_of_its_own(environment: Environment, renamed: Path) -> None:
    said = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=renamed)
    assert "2 passed" in said


def test_its_method_is_listed_under_its_new_name_with_its_parameter(environment: Environment) -> None:
    said = environment.tonescope("methods", "sideways")
    assert "plugin sideways 0.1.0" in said
    assert "reference" in said
