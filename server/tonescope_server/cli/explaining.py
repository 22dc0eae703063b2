"""Files explained, in this process or at a daemon: from what a command was asked for to what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tonescope
from tonescope.results import Explanation
from tonescope_server import Explainer
from tonescope_server.checks import Finding
from tonescope_server.cli.console import progress
from tonescope_server.cli.counted import Counted
from tonescope_server.cli.findings import findings_here, findings_there, findings_told
from tonescope_server.cli.local import explain_here, jobs_of
from tonescope_server.cli.narrowing import Narrowing
from tonescope_server.cli.options import (
    parse_target,
)
from tonescope_server.cli.recordings import frames_for_daemon, need_windows, open_file, windows_of
from tonescope_server.cli.replay import open_stream
from tonescope_server.csi.cells import CellMap, cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import ParameterError
from tonescope_server.live.messages import Wanted
from tonescope_server.models.manifest import Manifest
from tonescope_server.models.model import warnings_for
from tonescope_server.reports.arrays import ARRAYS, read_arrays
from tonescope_server.types import Target


@dataclass(frozen=True)
class Windowing:
    """How windows are made of a file."""

    normalise: str
    hop: int
    format: str


@dataclass(frozen=True)
class Asked:
    """What the command was asked for, once it is checked."""

    file: Path
    model: str
    method: str
    parameters: dict[str, Any]
    target: str
    output: str
    windowing: Windowing
    draws: bool
    top: int
    parts: bool
    declared_rows: bool
    maps: bool
    window: int
    narrowing: Narrowing | None

    @property
    def is_array(self) -> bool:
        """Whether the file holds windows, rather than frames."""
        return self.file.suffix in ARRAYS

    @property
    def wants_maps(self) -> bool:
        """Whether maps are of use: for JSON, or to be drawn."""
        return self.maps or self.draws


def explained_here(asked: Asked, explainer: Explainer) -> Explained:
    """Explain in this process."""
    how, model = asked.windowing, explainer.model
    if asked.is_array:
        jobs, counted = jobs_of(read_arrays(asked.file), explainer, how.normalise), None
    else:
        recording = open_file(asked.file, explainer.host, how.format)
        jobs, counted = windows_of(recording, model, explainer.host, how.normalise, how.hop)
    target = parse_target(asked.target, asked.output, Target)
    want = Wanted(asked.top, True, asked.declared_rows, asked.parts, asked.wants_maps, asked.maps)
    explained = explain_here if asked.narrowing is None else asked.narrowing.here
    found = explained(explainer, jobs, asked.method, target, asked.parameters, want)
    findings = findings_here(explainer, asked.file, how.format, how.normalise, asked.method, found)
    values = jobs[asked.window].cells if asked.window < len(jobs) else None
    return Explained(found, model.cells, values, findings, model.warnings_for(how.normalise), counted)


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


def explained_there(asked: Asked, client: tonescope.Client) -> Explained:
    """Explain at a daemon."""
    name, _, version = asked.model.partition("/")
    detail = client.model(name, version)
    options: dict[str, Any] = {
        "version": version,
        "method": asked.method,
        "target": parse_target(asked.target, asked.output, tonescope.Target),
        "parameters": asked.parameters,
        "top_k": asked.top,
        "cells": asked.draws,
        "declared_rows": asked.declared_rows,
        "parts": asked.parts,
        "maps": asked.wants_maps,
        "units": asked.maps,
    }
    return (_array_there if asked.is_array else _recording_there)(asked, client, detail, name, options)


def _array_there(
    asked: Asked, client: tonescope.Client, detail: tonescope.results.ModelDetail, name: str, options: dict[str, Any]
) -> Explained:
    """Explain an array of windows at a daemon."""
    array, normalise = read_arrays(asked.file), asked.windowing.normalise
    options |= {"model": name, "normalise": normalise}
    if asked.narrowing is not None:
        found = asked.narrowing.there(client, array, options)
    else:
        with progress(f"{asked.method} at {client.address}", None):
            found = list(client.explain(array, **options))
    cells = _cells_of(detail)
    findings = findings_there(Manifest.parse(detail.manifest), cells, array, normalise, asked.method, found)
    values = array[asked.window] if asked.window < len(array) else None
    return Explained(found, cells, values, findings, warnings_for(detail.warnings, normalise))


def _recording_there(
    asked: Asked, client: tonescope.Client, detail: tonescope.results.ModelDetail, name: str, options: dict[str, Any]
) -> Explained:
    """Explain a recording's frames at a daemon, as a stream."""
    how = asked.windowing
    if asked.narrowing is not None:
        got = asked.file.name
        raise ParameterError(f"--progressive: expected windows (.npy, .npz) with --server, got the recording {got}")
    recording, counted = open_file(asked.file, installed_plugins(), how.format), Counted()

    def frames(whole: bool) -> Iterator[tonescope.Frame]:
        for frame in counted.frames_of(recording):
            for each in frames_for_daemon(frame, whole):
                counted.sent += 1
                yield each

    options |= {"frames": frames, "overload": "back_pressure", "hop_frames": how.hop}
    stream = open_stream(client, recording, name, how.normalise, **options)
    found = []
    with stream, progress(f"{asked.method} at {client.address}", None) as bar:
        for explanation in stream:
            if explanation.problem is not None:
                raise explanation.problem
            found.append(explanation)
            bar.advance()
    counted.windows = len(found)
    if (summary := stream.summary) is not None:  # of connections that were lost, the counts are not known
        counted.close(summary.frames_used, summary.frames_skipped, summary.windows, summary.gaps)
    cells = _cells_of(detail)
    need_windows(recording, counted, name, cells)
    warnings = warnings_for(detail.warnings, how.normalise)
    return Explained(found, cells, None, findings_told(stream.notices()), warnings, counted)


def _cells_of(detail: tonescope.results.ModelDetail) -> CellMap:
    """Rebuild a remote model's map of cells from its manifest."""
    n = len(detail.tone_table)
    shape, stated = tuple(detail.input.shape[1:]), Manifest.parse(detail.manifest).input
    frames = max(1, int(np.prod(shape)) // (n * stated.parts))
    table = tone_table(detail.tone_table.id, n)
    return cell_map(shape, table, stated.cell_order, frames, stated.links, stated.components)
