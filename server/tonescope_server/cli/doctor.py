"""``tonescope doctor``: whether a model's answers about tones can be believed, how that was seen, what to change."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tonescope_server.checks import Severity
from tonescope_server.checks.frames import MIXED_TRAINING_FIELDS
from tonescope_server.cli.console import out, progress, remark, say, write_json
from tonescope_server.cli.doctor_json import as_json
from tonescope_server.cli.local import load
from tonescope_server.cli.options import (
    AdapterOption,
    FormatOption,
    HopOption,
    ManifestOption,
    NormaliseOption,
    StoreOption,
    WeightsOption,
    need_png,
)
from tonescope_server.cli.usage import only
from tonescope_server.reports.arrays import ARRAYS
from tonescope_server.reports.dataset import Kind, read_dataset
from tonescope_server.reports.doctor import MANIFEST_GUESSED, NOT_CHECKED, Entry, Report, examine
from tonescope_server.reports.readings import Tried

EXIT_CODES = {Severity.NOTE: 0, Severity.WARNING: 3, Severity.FAULT: 4}
_STYLES = {Severity.FAULT: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold"}
_COLUMNS = ("order", "layout", "at odds", "now", "then", "gradient", "chance")
_ABOUT = (
    "Each way to read the cells: how many are at odds with it; how much of |input × gradient| lies on its null tones "
    "now, and then, if the manifest declared it; how much of the gradient alone; and how much would by chance."
)


def doctor(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A model file or folder, or a name in the store: NAME or NAME/VERSION.", show_default=False
        ),
    ],
    recording: Annotated[
        Path,
        typer.Argument(help="A recording, a paired file, or windows (.npy, .npz) as they lie.", show_default=False),
    ],
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    format: FormatOption = "",
    json: Annotated[
        Path | None, typer.Option("--json", help="Write everything here; '-' is stdout.", show_default=False)
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with pictures.", show_default=False)] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write the pictures alone.", show_default=False)] = None,
) -> int:
    """Find out whether what a model says of tones can be believed: what is wrong, how it was seen, what to change.

    Checks the data, the model's weights, where its attribution lies, its predictions and its normalisation; and tries
    every order of cells with every tone layout, to see which makes the attribution physically sensible.

    Exit codes: 0 nothing wrong, 3 warnings, 4 faults; 1 an error, 2 wrong usage.

    Example:  tonescope doctor people_count session.csi.jsonl

    Example:  tonescope doctor count_v1.safetensors windows.npy --normalise recording --html doctor.html
    """
    if recording.suffix in ARRAYS and not format:
        only(context, ("hop",), "with a recording", f"the array {recording.name}")
    need_png(png)
    explainer = load(context, model, store, manifest, adapter, weights)
    with progress(f"examining {recording.name}", None):
        data = read_dataset(recording, explainer, format)
        if data.kind is not Kind.RECORDING:
            only(context, ("hop",), "with a recording of frames", f"the {data.kind} {recording.name}")
        report = examine(explainer, data, normalise, hop)
    if json is not None:
        write_json(as_json(report, verdict(report), EXIT_CODES[report.worst]), json)
    _draw(report, html, png)
    if str(json) != "-":
        show(report)
    return EXIT_CODES[report.worst]


def _draw(report: Report, page: Path | None, png: Path | None) -> None:
    if page is None and png is None:
        return
    from tonescope_server.cli.doctor_page import write_html, write_png  # matplotlib takes its time to import

    if page is not None:
        write_html(report, _table_html(report), verdict(report), page)
        remark(f"wrote {page}")
    if png is not None:
        write_png(report, png)
        remark(f"wrote {png}")


def show(report: Report) -> None:
    """Print the findings, the readings that were tried, and the verdict."""
    say(_headline(report))
    shown: set[str] = set()
    guesses = [entry for entry in report.entries if entry.finding.code == MANIFEST_GUESSED]
    for number, entry in enumerate((e for e in report.entries if e not in guesses), start=1):
        _show_entry(number, entry, shown)
    if guesses:
        say(Text.assemble("\n", ("NOTE", "bold"), " the manifest leaves this to guesses:"))
        for entry in guesses:
            say(f"  {entry.finding.message}")
    _show_readings(report)
    out.print()
    say(verdict(report))


def verdict(report: Report) -> str:
    """Say in one line what came out."""
    counts = [(report.count(severity), severity.value) for severity in (Severity.FAULT, Severity.WARNING)]
    found = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts if n)
    if not found:
        left_out = any(entry.finding.code == NOT_CHECKED for entry in report.entries)
        return f"{report.data.name}: nothing wrong was found{' in what could be checked' if left_out else ''}"
    act = "change what is said above and run this again" if report.worst is Severity.FAULT else "see above"
    return f"{report.data.name}: {found}; {act}"


def _headline(report: Report) -> str:
    n = len(report.windows)
    said = f"{n} window{'' if n == 1 else 's'}, normalisation {report.windows.normalisation}"
    if report.data.kind is Kind.RECORDING:
        said = f"{len(report.data.frames)} frames, {said}"
    return f"{report.model.name} on {report.data.name} ({report.data.kind}: {said})"


def _show_entry(number: int, entry: Entry, shown: set[str]) -> None:
    finding = entry.finding
    node = "" if finding.node_id is None else f", node {finding.node_id}"
    severity = finding.severity.upper(), _STYLES[finding.severity]
    say(Text.assemble(f"\n{number}. ", severity, f" {finding.code} ({entry.area}{node})"))
    say(f"   seen:   {finding.message}")
    if finding.remedy:
        say(f"   change: {finding.remedy}")
    if entry.manifest and entry.manifest not in shown:
        shown.add(entry.manifest)
        say("   model.toml:")
        say("\n".join(f"       {line}" for line in entry.manifest.splitlines()))


def _show_readings(report: Report) -> None:
    rows = _rows(report)
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(_COLUMNS):
        width = None if name == "layout" else max(len(name), 6 if number else len("tone_frame"))
        # Long names of layouts are folded, lest the figures run out of a narrow terminal.
        table.add_column(
            name, justify="left" if number < 2 else "right", no_wrap=name != "layout", min_width=width, overflow="fold"
        )
    for cells, tried in rows:
        table.add_row(*cells, style="bold" if tried is report.best else None)
    out.print()
    say(_ABOUT)
    out.print(table)
    say(_footnote(report))


def _footnote(report: Report) -> str:
    best = report.best
    if best is None:
        return _no_best(report)
    said = f"the zeros fit {_named(best)}" + (", as declared" if best.is_declared else ", not what is declared")
    if report.data.kind is Kind.RECORDING:
        return f"{said}; frames are laid out here, so that they fit in either order: see the gradient and the weights"
    others = [_named(tried) for tried in report.trial.fitting if tried is not best] if report.trial is not None else []
    return said + (f"; so do {', '.join(others)}" if others else "")


def _no_best(report: Report) -> str:
    """Say why no reading is the one to go by."""
    trial = report.trial
    if any(entry.finding.code == MIXED_TRAINING_FIELDS for entry in report.entries):
        return "two training fields are mixed: each has zeros of its own, and the zeros of both together say nothing"
    if trial is not None and any(tried.fits_zeros is None for tried in trial.tried):
        return f"{len(report.windows)} windows are too few to tell which reading the zeros fit"
    if not report.model.table.knows_nulls:
        return f'"{report.model.table.id}" has no null tone: none of these layouts is what the rows hold'
    return "no reading fits the zeros"


def _rows(report: Report) -> list[tuple[list[str], Tried]]:
    """Make the rows of the table; layouts with the same nulls do alike, and share a row, marked by an ellipsis."""
    rows: list[tuple[list[str], Tried]] = []
    for tried in report.trial.tried if report.trial is not None else ():
        cells = _cells(tried)
        if rows and rows[-1][1] is not report.best and [rows[-1][0][0], *rows[-1][0][2:]] == [cells[0], *cells[2:]]:
            rows[-1][0][1] = f"{rows[-1][1].reading.layout} …"
        else:
            rows.append((cells, tried))
    return rows


def _cells(tried: Tried) -> list[str]:
    fits = (
        "?" if tried.fits_zeros is None else "none" if tried.fits_zeros else f"{tried.nulls_alive + tried.tones_dead}"
    )
    now = "—" if tried.share_now is None else f"{tried.share_now:.1%}"
    shares = [f"{share:.1%}" for share in (tried.share_if_declared, tried.gradient_share, tried.null_cells)]
    layout = _layout(tried) + (", declared" if tried.is_declared else "")
    return [tried.reading.cell_order, layout, fits, now, *shares]


def _layout(tried: Tried) -> str:
    reading = tried.reading
    more = f", rolled by {reading.rolled:+d}" if reading.rolled else ""
    more += f", {reading.header_rows} rows of header" if reading.header_rows else ""
    return f"{reading.layout}{more}"


def _named(tried: Tried) -> str:
    return f"{tried.reading.cell_order}, {_layout(tried)}"


def _table_html(report: Report) -> str:
    rows = _rows(report)
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells, _ in rows)
    about = f"<p>{html.escape(_ABOUT)}</p>"
    return f"{about}<table><tr>{head}</tr>{body}</table><p>{html.escape(_footnote(report))}</p>"
