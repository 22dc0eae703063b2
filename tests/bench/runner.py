"""Runs the measurements and reports them: one table on the terminal, the same one in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from tests.bench import (
    checks,
    exported,
    gradients,
    input_x_gradient,
    jacobian,
    live,
    methods,
    start,
    subcarrier_saliency,
)
from tests.bench.measure import Row, Section

MEASUREMENTS: Mapping[str, ModuleType] = {
    "input_x_gradient": input_x_gradient,
    "subcarrier_saliency": subcarrier_saliency,
    "live": live,
    "checks": checks,
    "start": start,
    "gradients": gradients,
    "jacobian": jacobian,
    "exported": exported,
    "methods": methods,
}
REPORT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
WIDTH = 150  # of a table that goes into a file
COLUMNS = ("measured", "tonescope", "against", "ratio", "aim", "")


def main() -> None:
    """Measure what is asked for, or everything; only everything is written into the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="measurement", help=f"of {', '.join(MEASUREMENTS)}; default: all")
    asked = parser.parse_args().only
    unknown = sorted(set(asked) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"measurement '{unknown[0]}': expected one of {', '.join(MEASUREMENTS)}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    load = os.getloadavg()[0]
    sections: dict[str, Section] = {}
    for name in asked or MEASUREMENTS:
        with console.status(f"measuring {name}"):
            sections[name] = MEASUREMENTS[name].measure()
    conditions = _conditions(load)
    console.print(_table(sections))
    console.print(conditions, style="dim", highlight=False)
    if set(sections) == set(MEASUREMENTS):
        REPORT.write_text(_markdown(sections, conditions), encoding="utf-8")
        console.print(f"written: {REPORT.relative_to(Path.cwd()) if REPORT.is_relative_to(Path.cwd()) else REPORT}")


def _mark(row: Row) -> str:
    return {True: "met", False: "missed", None: ""}[row.met]


def _cells(row: Row) -> tuple[str, ...]:
    return row.what, row.ours, row.peer, row.ratio, row.aim, _mark(row)


def _table(sections: Mapping[str, Section]) -> Table:
    table = Table(*COLUMNS)
    for section in sections.values():
        for row in section.rows:
            table.add_row(*_cells(row), style="red" if row.met is False else None)
        table.add_section()
    return table


def _conditions(load: float) -> str:
    """Say on what and with what this was measured."""
    names = ("onnxruntime", "onnx-ir", "numpy", "grpcio", "protobuf")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {_processor()}, {len(os.sched_getaffinity(0))} cores; "
        f"{platform.system()} {platform.release()}; load {load:.1f} at the start, nice {os.nice(0)}; "
        f"Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.machine()


def _markdown(sections: Mapping[str, Section], conditions: str) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(row) for s in sections.values() for row in s.rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    notes = "\n\n".join(f"**{name}.** {section.notes}" for name, section in sections.items())
    return _PAGE.format(conditions=conditions, table=table, notes=notes)


_PAGE = """# Benchmarks

Written by `make bench`, which measures everything in one run, both sides of a comparison turn by turn. Trust the ratios
more than the times. `make bench-peers` installs what is compared with (torch, captum, shap, onnx-ad) into an
environment of its own, `.venv-bench`; the environment variable `TONESCOPE_BENCH_TORCH_PYTHON` names another interpreter
that has them.

{conditions}.

{table}

Times are medians where nothing else is said.

{notes}
"""
