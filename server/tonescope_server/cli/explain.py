"""``tonescope explain``: files in; a table, JSON or a picture out. In this process, or by a daemon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.table import Table

import tonescope
from tonescope.results import Explanation, ToneTable
from tonescope_server.checks import Finding
from tonescope_server.checks.drift import attribution_profile
from tonescope_server.cli.band import null_share_text, prediction_text
from tonescope_server.cli.console import out, progress, remark, say, write_json
from tonescope_server.cli.counted import Counted
from tonescope_server.cli.findings import findings_here, findings_there, findings_told, section, show_findings
from tonescope_server.cli.identity import (
    FEATURES,
    declared_rows_of,
    declared_table,
    identity_table,
    parts_of,
    parts_table,
    tone_text,
)
from tonescope_server.cli.local import explain_here, jobs_of, load
from tonescope_server.cli.narrowing import Narrowing, narrowing_of
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
    parse_target,
)
from tonescope_server.cli.recordings import frames_for_daemon, need_windows, open_file, windows_of
from tonescope_server.cli.remote import daemon
from tonescope_server.cli.replay import open_stream
from tonescope_server.cli.usage import only
from tonescope_server.cli.warned import Warned
from tonescope_server.csi.cells import CellMap, cell_map
from tonescope_server.csi.quantities import COMPONENTS, Quantity
from tonescope_server.csi.tones import tone_table
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import ParameterError
from tonescope_server.live.messages import Job, Wanted
from tonescope_server.models.manifest import Manifest
from tonescope_server.models.model import warnings_for
from tonescope_server.reports.arrays import ARRAYS, read_arrays
from tonescope_server.types import Target

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
    window: Annotated[int, typer.Option("--window", min=0, help="The window that --png draws.")] = 0,
) -> None:
    """Explain the windows of a file: which tones made the model say that?

    Example:  tonescope explain session.csi.jsonl --model people_count --png band.png

    Example:  tonescope explain windows.npy -m count_v1.safetensors --method integrated_gradients -p n_steps=64 --json -

    Example:  tonescope explain windows.npy --method smoothgrad -p n=1000 --progressive --tolerance 0.05
    """
    need_png(png)
    parameters = parse_parameters(param)
    is_array = file.suffix in ARRAYS
    narrowing = narrowing_of(context, progressive, tolerance, budget, time_limit)
    if json is None:
        only(context, ("maps",), "with --json", "no --json")
    if is_array:
        only(context, ("hop", "format"), "with a recording", f"the array {file.name}")
    if png is None:
        only(context, ("window",), "with --png", "no --png")
    if server:
        only(context, MODEL_FILE_OPTIONS, "without --server", f"--server {server}")
        with daemon(server) as client:
            asked = parse_target(target, output, tonescope.Target)
            options: dict[str, Any] = {"method": method, "target": asked, "top_k": top, "cells": png is not None}
            options |= {"declared_rows": declared_rows, "parts": parts, "maps": maps, "units": maps}
            windowing = normalise, hop, format
            got = _remote(client, file, model, options, parameters, windowing, window, narrowing)
    else:
        explainer = load(context, model, store, manifest, adapter, weights)
        if is_array:
            jobs, counted = jobs_of(read_arrays(file), explainer, normalise), None
        else:
            recording = open_file(file, explainer.host, format)
            jobs, counted = windows_of(recording, explainer.model, explainer.host, normalise, hop)
        asked_here = parse_target(target, output, Target)
        want = Wanted(top, True, declared_rows, parts, maps, maps)
        explained = explain_here if narrowing is None else narrowing.here
        found = explained(explainer, jobs, method, asked_here, parameters, want)
        findings = findings_here(explainer, file, format, normalise, method, found)
        if png is None:
            found = [replace(each, cells=None) for each in found]
        warnings = explainer.model.warnings_for(normalise)
        got = Explained(found, explainer.model.cells, _values(jobs, window), findings, warnings, counted)
    found, findings = got.found, got.findings
    for text in got.warnings:
        remark(f"warning: {text}")
    if json is not None:
        report = report_of(got, declared_rows)
        write_json(report if narrowing is None else report | {"progress": narrowing.section}, json)
    if png is not None:
        _draw(found, window, got.cells, got.values, file, png)
        remark(f"wrote {png}")
    if json is None or str(json) != "-":
        show(found, top)
        if narrowing is not None:
            narrowing.show(top)
        if parts:
            show_parts(found, top)
        if declared_rows:
            show_declared(found, got.cells, top)
        Warned.of(found).show({finding.code for finding in findings})
    if got.counted is not None:
        got.counted.say(file.name)
    show_findings(findings)
    if narrowing is not None:
        narrowing.again()


@dataclass(frozen=True)
class Explained:
    """What came of a file, here or at a daemon.

    Attributes:
        cells: how the model lays out a window; ``values``: the window that is drawn, None where it is not at hand.
        warnings: what had to be guessed of the model.
        counted: what became of a recording's frames; None for an array of windows.
    """

    found: list[Explanation]
    cells: CellMap
    values: Any
    findings: list[Finding]
    warnings: Sequence[str]
    counted: Counted | None = None


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


def _values(jobs: list[Job], window: int) -> Any:
    return jobs[window].cells if window < len(jobs) else None


def _remote(
    client: tonescope.Client,
    file: Path,
    model: str,
    options: dict[str, Any],
    parameters: dict[str, Any],
    windowing: tuple[str, int, str],
    window: int,
    narrowing: Narrowing | None,
) -> Explained:
    normalise, hop, format = windowing
    if narrowing is not None and file.suffix not in ARRAYS:
        raise ParameterError(
            f"--progressive: expected windows (.npy, .npz) with --server, got the recording {file.name}"
        )
    name, _, version = model.partition("/")
    detail = client.model(name, version)
    cells, warnings = _cells_of(detail), warnings_for(detail.warnings, normalise)
    if file.suffix in ARRAYS:
        array = read_arrays(file)
        asked = {"model": name, "version": version, "normalise": normalise, **options}
        if narrowing is not None:
            found = narrowing.there(client, array, asked | {"parameters": parameters})
        else:
            with progress(f"{options['method']} at {client.address}", None):
                found = list(client.explain(array, **asked, parameters=parameters))
        stated = Manifest.parse(detail.manifest)
        findings = findings_there(stated, cells, array, normalise, options["method"], found)
        return Explained(found, cells, array[window] if window < len(array) else None, findings, warnings)
    recording, counted = open_file(file, installed_plugins(), format), Counted()

    def frames(whole: bool) -> Iterator[tonescope.Frame]:
        for frame in counted.frames_of(recording):
            for each in frames_for_daemon(frame, whole):
                counted.sent += 1
                yield each

    stream = open_stream(
        client,
        recording,
        name,
        normalise,
        version=version,
        frames=frames,
        overload="back_pressure",
        parameters=parameters,
        hop_frames=hop,
        **options,
    )
    found = []
    with stream, progress(f"{options['method']} at {client.address}", None) as bar:
        for explanation in stream:
            if explanation.problem is not None:
                raise explanation.problem
            found.append(explanation)
            bar.advance()
    counted.windows = len(found)
    if (summary := stream.summary) is not None:  # of connections that were lost, the counts are not known
        counted.close(summary.frames_used, summary.frames_skipped, summary.windows, summary.gaps)
    need_windows(recording, counted, name, cells)
    return Explained(found, cells, None, findings_told(stream.notices()), warnings, counted)


def _cells_of(detail: tonescope.results.ModelDetail) -> CellMap:
    """Rebuild a remote model's map of cells from its manifest."""
    n = len(detail.tone_table)
    shape, stated = tuple(detail.input.shape[1:]), Manifest.parse(detail.manifest).input
    frames = max(1, int(np.prod(shape)) // (n * stated.parts))
    table = tone_table(detail.tone_table.id, n)
    return cell_map(shape, table, stated.cell_order, frames, stated.links, stated.components)


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


def _draw(found: list[Explanation], window: int, cells: CellMap, values: Any, file: Path, path: Path) -> None:
    from tonescope_server.pictures.band import Band, band_figure, parts_figure  # matplotlib takes its time to import
    from tonescope_server.pictures.files import save
    from tonescope_server.pictures.waterfall import map_figure

    if window >= len(found):
        raise ParameterError(f"--window: expected at most {len(found) - 1}, got {window}")
    each = found[window]
    band = Band(
        title=f"{prediction_text(each)}: which {each.tone_table.rows_are} made the model say that",
        subtitle=f"{file.name}, window {window} · {each.method} · target {_target_text(each)} = {each.score:.4g}",
        table=each.tone_table,
        tones=each.tones,
    )
    if each.parts is not None and cells.has_parts:
        save(parts_figure(band, parts_of(each)), path)
        return
    if each.cells is None or cells.cell_order == "feature":
        save(band_figure(band), path)
        return
    attribution = cells.fold_frames(np.asarray(each.cells)[None])[0]
    waterfall = _waterfall(cells, np.asarray(values)) if values is not None else None
    save(map_figure(band, attribution, waterfall), path)


def _waterfall(cells: CellMap, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give one value a tone and frame to lay attribution over: of I and Q their magnitude, of links the mean."""
    shape = (cells.n_frames, cells.n_links, cells.n_components, cells.n_tones)
    by_part = cells.frames(values.reshape(1, *cells.shape))[0].reshape(shape)
    is_complex = cells.components == COMPONENTS[Quantity.COMPLEX]
    shown = np.hypot(by_part[:, :, 0], by_part[:, :, 1]) if is_complex else by_part[:, :, 0]
    return np.asarray(shown.mean(axis=1))


def _target_text(each: Explanation) -> str:
    said = {name: value for name, value in each.target.items() if name != "output"}
    name, value = next(iter(said.items()), ("predicted", ""))
    return f"{name} {value}" if value not in ("", {}) else name
