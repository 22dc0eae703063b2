"""What could not be checked, and why: lest its absence be taken for health.

A warning where other data, or more of it, would have told; a note where nothing could.
"""

from __future__ import annotations

from tonescope_server.checks import Finding, Severity, drift, frames, predictions, series_of
from tonescope_server.checks.continuity import continuity
from tonescope_server.checks.layout import FEWEST_WINDOWS
from tonescope_server.checks.parts import IQ, like_declared
from tonescope_server.csi.cells import FEATURE
from tonescope_server.models.model import Model
from tonescope_server.reports.consequences import NO_WINDOWS
from tonescope_server.reports.dataset import Dataset, Windows, frame_lengths

NOT_CHECKED = "NOT_CHECKED"


def check_coverage(data: Dataset, windows: Windows, model: Model) -> list[Finding]:
    """Say what could not be checked of a data set."""
    if not len(windows):
        return [_no_windows(data, windows, model)]
    found = _amounts(data, windows, model)
    if model.cells.cell_order == FEATURE:
        return found
    if model.cells.has_parts:
        return found + _of_parts(data, model)
    if not model.table.knows_nulls and not model.table.is_unknown:
        found += _without_nulls(data, windows, model)
    return found


def _no_windows(data: Dataset, windows: Windows, model: Model) -> Finding:
    cells = model.cells
    skipped = data.skipped + windows.skipped
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(skipped.items())) or "none"
    message = (
        f"{len(data.frames)} frames make not one window of {cells.n_frames} frames of {cells.n_tones} tones "
        f"(skipped: {counts}): attribution and predictions were not checked"
    )
    remedy = "record for longer; or see to the lengths and the sequence numbers of the frames"
    return Finding(NO_WINDOWS, Severity.FAULT, message, remedy, {"frames": float(len(data.frames))})


def _amounts(data: Dataset, windows: Windows, model: Model) -> list[Finding]:
    """Name the checks that want more windows, or more frames of a node, than there are."""
    n, said, grave = len(windows), [], False
    if n < FEWEST_WINDOWS and model.table.knows_nulls:
        what = "layout not checked" if data.cells is not None else "the other readings were not tried on the zeros"
        said.append(f"{n} windows are too few to tell which cells never carry signal ({FEWEST_WINDOWS}): {what}")
        grave = True
    short = _shortest(data, windows, model)
    stated = model.manifest.normalisation
    if short < frames.FEWEST_FRAMES:
        said.append(f"{short} frames are too few for any check of frames ({frames.FEWEST_FRAMES})")
        grave = True
    elif short < drift.FEWEST_FRAMES and stated.mean and not model.cells.has_parts:
        said.append(f"{short} frames are too few to tell drift from the training ({drift.FEWEST_FRAMES})")
        grave = True
    if n < predictions.FEWEST_WINDOWS and model.manifest.output(model.outputs[0].name).kind != "regression":
        said.append(f"{n} windows are too few to judge the predictions together ({predictions.FEWEST_WINDOWS})")
    if not said:
        return []
    figures = {"windows": float(n), "frames": float(short)}
    severity = Severity.WARNING if grave else Severity.NOTE
    return [Finding(NOT_CHECKED, severity, "; ".join(said), "give more of this data", figures)]


def _shortest(data: Dataset, windows: Windows, model: Model) -> int:
    """Count the frames of the stream that has the fewest of those that enter windows."""
    if data.cells is not None:
        return len(windows) * model.cells.n_frames
    lengths = frame_lengths(model)
    counts = [len(series) for series in series_of(data.frames) if series.amplitude.shape[1] in lengths]
    return min(counts, default=0)


def _without_nulls(data: Dataset, windows: Windows, model: Model) -> list[Finding]:
    """Say what a layout without null tones leaves open."""
    layout, order = model.table.id, model.cells.cell_order
    message = (
        f'"{layout}" has no null tone: whether row k is its subcarrier was not checked (rolled rows, another layout of '
        "as many), and there is no null-tone share"
    )
    found = [Finding(NOT_CHECKED, Severity.NOTE, message, "")]
    if data.cells is None or model.cells.n_frames == 1:
        return found
    seen = continuity(windows.raw.reshape(len(windows), -1), model.cells.n_tones, model.cells.n_frames)
    if seen is None or seen.order is None:
        message = f'what neighbours have in common does not tell whether the cells lie in the order "{order}"'
        remedy = "give raw amplitudes, of a room in which somebody moves; or frames, which are laid out here"
        found.append(Finding(NOT_CHECKED, Severity.WARNING, message, remedy))
    return found


def _of_parts(data: Dataset, model: Model) -> list[Finding]:
    """Say what is not known of components and links."""
    cells = model.cells
    said = []
    if data.cells is None:
        said.append("frames are laid out here: other cell orders and layouts were not tried")
    else:
        alike = like_declared(cells)
        if alike:
            said.append(f"the zeros cannot tell the declared order of cells from {', '.join(alike)}")
    if cells.components and cells.components != IQ:
        said.append("phases were not checked")
    if cells.components == IQ and model.manifest.normalisation.kind != "none":
        said.append("the normalisation of I and Q was not checked")
    if not said:
        return []
    severity = Severity.NOTE if data.cells is None else Severity.WARNING
    remedy = f'see that input.cell_order = "{cells.cell_order}" is how the training windows lay'
    return [Finding(NOT_CHECKED, severity, f"windows hold components or links: {'; '.join(said)}", remedy)]


def unexplained(why: str) -> Finding:
    """Say that the model's attribution could not be looked at."""
    return Finding(NOT_CHECKED, Severity.WARNING, f"{why}: attribution was not checked", "")


def too_few_labels(n: int, apart: int) -> list[Finding]:
    """Say that labelled windows, enough by number, are too few that are right or wrong independently."""
    independent = -(-n // apart)
    if n < predictions.FEWEST_WINDOWS or independent >= predictions.FEWEST_WINDOWS:
        return []
    message = (
        f"{n} labelled windows are right and wrong {apart} at a time, worth {independent} "
        f"({predictions.FEWEST_WINDOWS} are needed): confidence was not compared with them"
    )
    return [Finding(NOT_CHECKED, Severity.NOTE, message, "give labels of more recordings")]
