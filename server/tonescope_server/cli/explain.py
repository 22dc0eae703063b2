"""``tonescope explain``: files in; a table, JSON or a picture out. In this process, or by a daemon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tonescope.results import Explanation, ToneTable
from tonescope_server.checks.drift import attribution_profile
from tonescope_server.cli.band import null_share_text, prediction_text
from tonescope_server.cli.console import out, remark, say, write_json
from tonescope_server.cli.drawing import answer_of, window_of, write_answer_page, write_picture
from tonescope_server.cli.explaining import Asked, Explained, Windowing, explained_here, explained_there
from tonescope_server.cli.findings import section, show_findings
from tonescope_server.cli.identity import (
    FEATURES,
    declared_rows_of,
    declared_table,
    identity_table,
    parts_table,
    tone_text,
)
from tonescope_server.cli.local import load
from tonescope_server.cli.narrowing import narrowing_of
from tonescope_server.cli.options import (
    MODEL_FILE_OPTIONS,
    AdapterOption,
    FormatOption,
    HopOption,
    ManifestOption,
    MaybeServerOption,
    MethodOption,
    ModelOption,
    NormaliseOption,
    OutputOption,
    ParameterOption,
    StoreOption,
    TargetOption,
    WeightsOption,
    need_png,
    parse_parameters,
)
from tonescope_server.cli.remote import daemon
from tonescope_server.cli.usage import only
from tonescope_server.cli.warned import Warned
from tonescope_server.csi.cells import CellMap
from tonescope_server.pictures.answer import Kind
from tonescope_server.reports.arrays import ARRAYS

SHOWN = 20


def explain(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Windows (.npy, .npz) or a recording.", show_default=False)],
    model: ModelOption = "people_count",
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    server: MaybeServerOption = "",
    method: MethodOption = "input_x_gradient",
    target: TargetOption = "",
    output: OutputOption = "",
    param: ParameterOption = None,
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    format: FormatOption = "",
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the strongest tones to list.")] = 8,
    parts: Annotated[
        bool, typer.Option("--parts", help="Show what each antenna link and component has of the attribution as well.")
    ] = False,
    declared_rows: Annotated[
        bool,
        typer.Option("--declared-rows", help="Show the rows of the model's declared shape beside the tones as well."),
    ] = False,
    maps: Annotated[
        bool,
        typer.Option("--maps", help="Write what else the method has to show, its maps and units, into --json as well."),
    ] = False,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="Show each window's attribution as it gets better.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Stop a window at this relative error, such as 0.05; 0: do not.")
    ] = 0.0,
    budget: Annotated[
        int, typer.Option("--budget", min=0, help="Stop a window before more model evaluations than this; 0: do not.")
    ] = 0,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=0, help="Stop a window after so many seconds; 0: do not.")
    ] = 0.0,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write every result here; '-' is stdout.", show_default=False)
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Draw one window here, with its waterfall.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page of all pictures of one window here.", show_default=False)
    ] = None,
    picture: Annotated[
        Kind | None, typer.Option("--picture", help="What --png shows.  [default: what suits]", show_default=False)
    ] = None,
    window: Annotated[int, typer.Option("--window", min=0, help="The window that is drawn.")] = 0,
) -> None:
    """Explain the windows of a file: which tones made the model say that?

    Example:  tonescope explain session.csi.jsonl --model people_count --png band.png

    Example:  tonescope explain windows.npy -m count_v1.safetensors --method integrated_gradients -p n_steps=64 --json -

    Example:  tonescope explain windows.npy --method smoothgrad -p n=1000 --progressive --tolerance 0.05
    """
    need_png(png)
    draws = png is not None or html is not None
    _check_usage(context, file, json, draws, png is not None)
    asked = Asked(
        file, model, method, parse_parameters(param), target, output, Windowing(normalise, hop, format), draws,
        top, parts, declared_rows, maps, window, narrowing_of(context, progressive, tolerance, budget, time_limit),
    )  # fmt: skip
    if server:
        only(context, MODEL_FILE_OPTIONS, "without --server", f"--server {server}")
        with daemon(server) as client:
            got = explained_there(asked, client)
    else:
        got = explained_here(asked, load(context, model, store, manifest, adapter, weights))
    got = replace(got, findings=[*got.findings, *Warned.of(got.found).faults(got.findings)])
    for text in got.warnings:
        remark(f"warning: {text}")
    if json is not None:
        write_json(_report(asked, got), json)
    if draws:
        _draw(asked, got, png, html, picture)
    _tell(asked, got, with_table=json is None or str(json) != "-")


def _check_usage(context: typer.Context, file: Path, json: Path | None, draws: bool, draws_png: bool) -> None:
    """Refuse options that would have no effect."""
    if json is None:
        only(context, ("maps",), "with --json", "no --json")
    if file.suffix in ARRAYS:
        only(context, ("hop", "format"), "with a recording", f"the array {file.name}")
    if not draws:
        only(context, ("window",), "with --png or --html", "neither")
    if not draws_png:
        only(context, ("picture",), "with --png", "no --png")


def _report(asked: Asked, got: Explained) -> dict[str, Any]:
    """Build the report of what was asked for: cells and maps are drawn here too, and written only on request."""
    left_out: dict[str, Any] = {} if asked.draws else {"cells": None}
    left_out |= {} if asked.maps else {"maps": {}}
    kept = replace(got, found=[replace(each, **left_out) for each in got.found])
    report = report_of(kept, asked.declared_rows)
    return report if asked.narrowing is None else report | {"progress": asked.narrowing.section}


def _draw(asked: Asked, got: Explained, png: Path | None, html: Path | None, picture: Kind | None) -> None:
    each = window_of(got.found, asked.window)
    answer = answer_of(each, got.cells, got.values, f"{asked.file.name}, window {asked.window}")
    if png is not None:
        write_picture(answer, picture or "", png)
    if html is not None:
        said = [*got.warnings, *(warning.message for warning in each.warnings)]
        write_answer_page(answer, said, html)


def _tell(asked: Asked, got: Explained, with_table: bool) -> None:
    """Print what was found, what was wrong, and what became of the file's frames."""
    if with_table:
        show(got.found, asked.top)
        if asked.narrowing is not None:
            asked.narrowing.show(asked.top)
        if asked.parts:
            show_parts(got.found, asked.top)
        if asked.declared_rows:
            show_declared(got.found, got.cells, asked.top)
        Warned.of(got.found).show({finding.code for finding in got.findings})
    if got.counted is not None:
        got.counted.say(asked.file.name)
    show_findings(got.findings)
    if asked.narrowing is not None:
        asked.narrowing.again()


def report_of(got: Explained, declared_rows: bool = False) -> dict[str, Any]:
    """Build the report: what was found wrong, where the attribution lies over all windows, and every explanation.

    With ``declared_rows``, also what each declared row holds.
    """
    profile: Any = attribution_profile(np.stack([each.tones for each in got.found])) if got.found else []
    report = {
        "findings": section(got.findings),
        "model_warnings": list(got.warnings),
        "attribution_profile": profile,
        "explanations": got.found,
    }
    if got.counted is not None:
        report["recording"] = got.counted.section
    return report | {"declared_rows": declared_rows_of(got.cells)} if declared_rows else report


def show(found: list[Explanation], top: int) -> None:
    """Show a table of windows, and over all of them the strongest tones: as many as ``top`` says."""
    table = Table("window", "node", "prediction", "score", "null share", "strongest", box=None)
    for each in found[:SHOWN]:
        tones = " ".join(tone_text(tone.tone, tone.row) for tone in each.top)
        share = null_share_text(each.null_tone_share, "")
        table.add_row(str(each.window_index), _source(each), prediction_text(each), f"{each.score:.4g}", share, tones)
    out.print(table)
    if len(found) > SHOWN:
        out.print(f"… and {len(found) - SHOWN} more")
    if found:
        say(strongest(found, top))
        mean = np.abs(np.stack([each.tones for each in found])).mean(axis=0)
        rows = np.argsort(-mean, kind="stable")[:top].tolist()
        out.print(identity_table(found[0].tone_table, rows, {"mean |attribution|": mean}))
        if found[0].tone_table.rows_are == "features":
            remark(FEATURES)


def _source(each: Explanation) -> str:
    """Name the node, and the antenna where it has several."""
    return f"{each.node_id}" if each.link is None else f"{each.node_id} link {each.link}"


def show_parts(found: list[Explanation], top: int) -> None:
    """Show what each antenna link and component has of the attribution, and its strongest tones."""
    table = parts_table(found, top)
    if table is None:
        remark("no attribution by link or component: the method is per tone only")
    else:
        out.print(table)


def show_declared(found: list[Explanation], cells: CellMap, top: int) -> None:
    """Show the strongest declared rows, and what they really hold."""
    table = declared_table(found, cells, top)
    if table is None:
        remark(f"no declared rows: no axis of {cells.shape} is as long as the tones, or the method is per tone only")
        return
    if cells.rows_are_tones:
        remark("declared rows are the tones: the cells lie as the model's shape says")
    out.print(table)


def strongest(found: list[Explanation], top: int) -> str:
    """Name the strongest tones by mean |attribution| over all windows."""
    mean = np.abs(np.stack([each.tones for each in found])).mean(axis=0)
    table: ToneTable = found[0].tone_table
    rows = np.argsort(-mean, kind="stable")[:top]
    named = [tone_text(table.tones[row] if len(table) else None, row) for row in rows]
    return f"strongest by mean |attribution| over {len(found)} windows: {', '.join(named)}"
