"""The labels of windows: which window of a file has one, and what is done about those that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tonescope_server.csi.decoders import Recording
from tonescope_server.csi.decoders.recordings import PairedWindow, read_paired
from tonescope_server.csi.frames import Frame
from tonescope_server.errors import TargetError
from tonescope_server.live.messages import Job
from tonescope_server.reports.arrays import read_named
from tonescope_server.reports.dataset import LABELS
from tonescope_server.types import IntArray

FIELD = "n_persons_mode"
_PAIRED = "ruview_paired"
_LINES_SHOWN = 10


@dataclass(frozen=True)
class Labelled:
    """The windows that are explained, with their labels.

    Where some windows of a file have a usable label and others have none, those others are left out: a mean over losses
    of two kinds would be of neither.

    Attributes:
        jobs: windows to explain.
        labels: one for each; empty where the file has none, so that the prediction stands for them.
        without: the lines whose windows have no usable label.
        field: what the file calls its labels; "" where it could have none.
    """

    jobs: Sequence[Job]
    labels: Sequence[int] = ()
    without: Sequence[int] = ()
    field: str = ""

    @property
    def text(self) -> str:
        """Say in one line what labels are missing, and what follows; "" where none is."""
        if not self.without:
            return ""
        shown = ", ".join(map(str, self.without[:_LINES_SHOWN]))
        lines = (
            f"{'line' if len(self.without) == 1 else 'lines'} {shown}{' …' if len(self.without) > _LINES_SHOWN else ''}"
        )
        if not self.labels:
            return f"no window has a usable {self.field}: the loss is that of the prediction"
        of = len(self.without) + len(self.labels)
        return f"{len(self.without)} of {of} windows have no usable {self.field} and are left out: {lines}"

    @property
    def section(self) -> dict[str, Any] | None:
        """The section ``labels`` of a report; None where the file could have none."""
        if not self.field:
            return None
        return {"field": self.field, "windows_with": len(self.labels), "lines_without": list(self.without)}


def labelled(recording: Recording, jobs: Sequence[Job], n_classes: int) -> Labelled:
    """Find the label of each window.

    Args:
        recording: the file.
        jobs: its windows.
        n_classes: of the model.

    Raises:
        TargetError: a label that the model has no class for; the message names its line.
    """
    if recording.format != _PAIRED:
        return Labelled(jobs)
    stated = {
        item.line: item.record.get(FIELD) for item in read_paired(recording.path) if isinstance(item, PairedWindow)
    }
    lines = {item.sequence: item.header["line"] for item in recording if isinstance(item, Frame)}
    kept: list[Job] = []
    labels: list[int] = []
    without: list[int] = []
    for job in jobs:
        line = lines[job.last_sequence]
        label = _label(stated[line])
        if label is None:
            without.append(line)
            continue
        _check(f"{recording.name}:{line}: {FIELD}", label, n_classes)
        kept.append(job)
        labels.append(label)
    return Labelled(kept if labels else jobs, labels, without, FIELD)


def labelled_windows(path: Path, jobs: Sequence[Job], labels: IntArray | None, n_classes: int) -> Labelled:
    """Put the labels that lie beside windows in a NumPy file, one for each, to them; None where there are none.

    Raises:
        TargetError: a label that the model has no class for; the message names its place.
    """
    if labels is None:
        return Labelled(jobs)
    beside = read_named(path)[1]
    field = next(name for name in LABELS if name in beside)
    for row, label in enumerate(labels.tolist()):
        _check(f"{path.name}: {field}[{row}]", label, n_classes)
    return Labelled(jobs, labels.tolist(), (), field)


def _check(where: str, label: int, n_classes: int) -> None:
    if not 0 <= label < n_classes:
        raise TargetError(f"{where}: expected 0 to {n_classes - 1}, got {label}")


def _label(value: Any) -> int | None:
    """Return a label; None for what is no whole number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None
