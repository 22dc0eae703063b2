"""Findings as commands write them: a section of their JSON, and lines on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from tonescope.results import Explanation, Notice
from tonescope_server import Explainer
from tonescope_server.checks import Declared, Finding, Severity
from tonescope_server.checks.data import check_windows
from tonescope_server.checks.results import Answers, check_answers
from tonescope_server.cli.console import err, plain
from tonescope_server.csi.cells import CellMap
from tonescope_server.models.manifest import Manifest
from tonescope_server.reports.dataset import read_dataset
from tonescope_server.reports.findings import check_data, with_answers

_STYLES = {Severity.FAULT: "bold red", Severity.WARNING: "yellow"}


def findings_here(
    explainer: Explainer, file: Path, format: str, normalise: str, method: str, found: Sequence[Explanation]
) -> list[Finding]:
    """Check a file and what a model of this process answered to its windows."""
    on_data = check_data(read_dataset(file, explainer, format), explainer.model, normalise)
    return with_answers(on_data, answers_of(method, found), explainer.model)


def findings_there(
    manifest: Manifest,
    cells: CellMap,
    windows: npt.NDArray[Any],
    normalise: str,
    method: str,
    found: Sequence[Explanation],
) -> list[Finding]:
    """Check windows that a daemon explained, and what it answered."""
    declared = Declared.stated(manifest, cells)
    on_data = check_windows(windows.astype(np.float32), declared, normalised=normalise in ("", "none"))
    return [*on_data, *check_answers(answers_of(method, found), manifest, cells, sound=not on_data)]


def answers_of(method: str, found: Sequence[Explanation]) -> Answers:
    """Put explanations together for the checks; a share of null tones is told of methods that resolve tones."""
    cells = [np.asarray(each.cells) for each in found if each.cells is not None]
    classes = [each.prediction.class_index for each in found if each.prediction.class_index is not None]
    return Answers(
        method,
        np.stack([each.tones for each in found]),
        np.stack(cells) if len(cells) == len(found) else None,
        np.array(classes, dtype=np.int64) if len(classes) == len(found) else None,
        resolves_tones=any(each.null_tone_share is not None for each in found),
    )


def findings_told(notices: Iterable[Notice]) -> list[Finding]:
    """Pick, from what a daemon said of a stream, what its checks found."""
    return [
        Finding(each.code, Severity(each.severity), each.message, each.remedy, each.figures, each.node_id)
        for each in notices
        if each.severity
    ]


def section(found: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return the section ``findings`` of a report, gravest first: code, severity, message, remedy, figures, node_id."""
    return [plain(each) for each in sorted(found, key=lambda each: list(Severity).index(each.severity))]


def show_findings(found: Iterable[Finding]) -> None:
    """Say each finding in one line."""
    for each in found:
        err.print(line_of(each), style=_STYLES.get(each.severity), soft_wrap=True)


def show_notices(notices: Sequence[Notice], console: Console = err) -> None:
    """Say what a daemon said of a stream, each thing once."""
    for text, severity in dict.fromkeys((str(each), each.severity) for each in notices):
        style = _STYLES.get(Severity(severity)) if severity else None
        console.print(text, style=style, soft_wrap=True)


def line_of(each: Finding | Notice) -> str:
    """Say a finding in one line, as the client does."""
    if isinstance(each, Finding):
        each = Notice("warning", each.code, each.message, str(each.severity), each.remedy, each.figures, each.node_id)
    return str(each)
