"""Where commands write: results to stdout, progress and remarks to stderr. What they say belongs to each command.

Nothing that is written is read as markup, in lines as in the cells of tables: names, descriptions and errors come from
files and daemons, and ``[model]`` or ``:key:`` in them stays as it is. What is to be styled is a ``Text``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from tonescope_server.errors import ConfigurationError, NonFiniteError

out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextmanager
def progress(description: str, total: int | None, show: bool = True) -> Iterator[Bar]:
    """Show a progress bar while the block runs; nothing where stderr is not a terminal."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not (show and err.is_terminal),
    )
    with bar:
        yield Bar(bar, bar.add_task(description, total=total))


class Bar:
    """One progress bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, by: int = 1) -> None:
        """Move on."""
        self._bar.advance(self._task, by)

    def say(self, description: str) -> None:
        """Change what the bar says."""
        self._bar.update(self._task, description=description)


def say(text: str | Text) -> None:
    """Say something, in as many lines as it has: none is broken where the terminal ends."""
    out.print(text, soft_wrap=True)


def remark(text: str) -> None:
    """Say something on the side."""
    err.print(text, soft_wrap=True)


def listed(counts: Mapping[str, int]) -> str:
    """Say counts in one line: ``"2 short, 1 vitals"``, or ``"none"``."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def plain(value: Any) -> Any:
    """Turn results into what JSON has: arrays into lists, dataclasses into objects, errors into reason and message."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Exception):
        return {"reason": getattr(value, "reason", ""), "message": str(value)}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain(each) for each in value]
    return value


def write_json(value: Any, path: Path) -> None:
    """Write JSON to a file, or to stdout for ``-``.

    Raises:
        ConfigurationError: the file cannot be written.
        NonFiniteError: a number in it is NaN or infinity, which JSON does not have.
    """
    try:
        text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise NonFiniteError(
            f"{path}: expected finite numbers, got NaN or infinity: values so large that the model's own overflow"
        ) from error
    if str(path) == "-":
        out.file.write(text)
        return
    with writing(path):
        path.write_text(text)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a result, and turn a failure to write it into one line.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror or error}") from error
