"""``tonescope replay``: send a recording to a daemon as if it were live, and say what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

import tonescope
from tonescope.results import Explanation, ModelDetail
from tonescope_server.cli.band import null_share_text
from tonescope_server.cli.console import err, listed, out, progress, remark, say, write_json
from tonescope_server.cli.findings import findings_told, section, show_findings, show_notices
from tonescope_server.cli.identity import identity_of
from tonescope_server.cli.options import (
    DEFAULT_GIVE_UP_S,
    DEFAULT_SERVER,
    FormatOption,
    GiveUpOption,
    HopOption,
    MethodOption,
    NormaliseOption,
    OutputOption,
    ParameterOption,
    RemoteModelOption,
    ServerOption,
    TargetOption,
    parse_parameters,
    parse_target,
)
from tonescope_server.cli.outcome import connections_line, daemon_line, need_windows, windows_line
from tonescope_server.cli.pace import Played, play, speed_of
from tonescope_server.cli.recordings import need_nodes, open_file, recording_statistics
from tonescope_server.cli.remote import daemon, model_name, say_connection, until_it_ends, wait_for
from tonescope_server.cli.usage import is_given, only
from tonescope_server.cli.warned import Warned
from tonescope_server.csi.decoders import Recording
from tonescope_server.csi.tones import tone_table
from tonescope_server.csi.windows import accepted_lengths
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.models.manifest import Manifest
from tonescope_server.models.rows import frame_reader

SpeedOption = Annotated[float, typer.Option("--speed", help="How many times faster than recorded.")]
FastOption = Annotated[
    bool, typer.Option("--as-fast-as-possible", help="Do not wait between frames; the daemon then drops nothing.")
]
NodeOption = Annotated[
    list[int] | None, typer.Option("--node", help="Only this node. May be repeated.", show_default=False)
]


@dataclass
class NodeResult:
    """What the daemon said of one node."""

    explained: int = 0
    failed: int = 0
    predictions: Counter[str] = field(default_factory=Counter)
    null_share: list[float] = field(default_factory=list)
    tones: Any = 0.0
    last: Explanation | None = None

    def take(self, explanation: Explanation) -> None:
        """Take note of an explanation."""
        if explanation.problem is not None:
            self.failed += 1
            return
        self.explained += 1
        said = explanation.prediction
        if said.class_index is not None:
            self.predictions[said.class_name or f"class {said.class_index}"] += 1
        if explanation.null_tone_share is not None:
            self.null_share.append(explanation.null_tone_share)
        self.tones = self.tones + explanation.tones.astype(np.float64)
        self.last = explanation

    @property
    def mean(self) -> Any:
        """The mean attribution per tone."""
        return self.tones / max(1, self.explained)


def replay(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A recording.", show_default=False)],
    server: ServerOption = DEFAULT_SERVER,
    model: RemoteModelOption = "",
    speed: SpeedOption = 1.0,
    as_fast_as_possible: FastOption = False,
    node: NodeOption = None,
    method: MethodOption = "input_x_gradient",
    target: TargetOption = "",
    output: OutputOption = "",
    param: ParameterOption = None,
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    give_up_after: GiveUpOption = DEFAULT_GIVE_UP_S,
    format: FormatOption = "",
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the summary here; '-' is stdout.", show_default=False)
    ] = None,
) -> None:
    """Send a recording to a daemon as live frames, and sum up, node by node, what it said.

    Example:  tonescope replay session.csi.jsonl --model people_count --speed 4

    Example:  tonescope replay session.csi.jsonl --server edge7:50551 --as-fast-as-possible --normalise recording
    """
    if as_fast_as_possible:
        only(context, ("speed",), "without --as-fast-as-possible", f"{speed:g} beside it")
    pace = speed_of(speed, as_fast_as_possible)
    recording = open_file(file, installed_plugins(), format)
    need_nodes(recording, node or ())
    played = Played()
    results: dict[int, NodeResult] = {}
    warned = Warned()
    nodes = frozenset(node or ())
    with daemon(server) as client:
        wait_for(client, give_up_after if is_given(context, "give_up_after") else 0.0, err)
        total = sum(1 for _ in recording)
        with progress(f"{file.name} → {server}", total) as bar:
            stream = open_stream(
                client,
                recording,
                model,
                normalise,
                frames=lambda whole: play(recording, pace, played, bar.advance, nodes, whole=whole),
                overload="drop_oldest" if pace else "back_pressure",
                method=method,
                target=parse_target(target, output, tonescope.Target),
                parameters=parse_parameters(param),
                hop_frames=hop,
                retry=tonescope.Retry(give_up_after_s=give_up_after),
                on_connection=lambda event: say_connection(event, err),
            )
            with until_it_ends(stream) as ended:
                for explanation in stream:
                    results.setdefault(explanation.node_id, NodeResult()).take(explanation)
                    warned.take(explanation)
        notices = played.told(stream.notices(), stream.summary)
        findings = findings_told(notices)
        faults = warned.faults(findings)
        if json is not None:
            said = {"findings": section([*findings, *faults]), "warnings": warned.section(), "error": ended.section}
            write_json(summary_of(played, results, stream) | said, json)
        if json is None or str(json) != "-":
            _show(played, results, stream, ended.interrupted)
        warned.show({notice.code for notice in notices})
        show_notices(notices)
        show_findings(faults)
        ended.again()
        need_windows(file.name, played, stream)


def open_stream(
    client: tonescope.Client,
    recording: Recording,
    model: str,
    normalise: str,
    frames: Callable[[bool], Iterable[tonescope.Frame]],
    **options: Any,
) -> tonescope.LiveStream:
    """Open a live stream for a recording: where the statistics of the recording are asked for, send them.

    Args:
        client: of the daemon.
        recording: what is streamed.
        model: its name; "" means the daemon's only one.
        normalise: a normalisation; "" means the manifest's.
        frames: makes the frames, told whether those of several antennas stay whole, as this model's windows need them.
        **options: of ``client.live``.
    """
    name = model_name(client, model)
    detail = client.model(name, options.get("version", ""))
    manifest = Manifest.parse(detail.manifest)
    options["frames"] = frames(bool(manifest.input.links))
    if (normalise or manifest.normalisation.kind) == "recording":
        reader = frame_reader(manifest, tone_table(detail.tone_table.id, len(detail.tone_table)))
        measured = recording_statistics(recording, _lengths(detail), reader)
        statistics = [(mean, std, node, length) for (node, length), (mean, std) in measured.items()]
        return client.live(model=name, normalise="recording", statistics=statistics, **options)
    return client.live(model=name, normalise=normalise, **options)


def _lengths(detail: ModelDetail) -> tuple[int, ...]:
    stated = tuple(detail.manifest.get("window", {}).get("frame_lengths", ()))
    return stated or accepted_lengths(tone_table(detail.tone_table.id, len(detail.tone_table)))


def summary_of(played: Played, results: Mapping[int, NodeResult], stream: tonescope.LiveStream) -> dict[str, Any]:
    """Sum up, for JSON."""
    return {
        "nodes": [_node(name, played, results.get(name, NodeResult()), stream) for name in sorted(played.sent)],
        "edges_of_samples": played.edges,
        "messages_sent": played.messages,
        "records_skipped": {str(name): dict(kinds) for name, kinds in list(played.skipped.items())},
        "daemon": stream.summary,
        "client": stream.counts,
    }


def _node(name: int, played: Played, result: NodeResult, stream: tonescope.LiveStream) -> dict[str, Any]:
    lengths = played.sent[name]
    skipped = stream.summary.frames_skipped if stream.summary else {}
    wrong = {f"length_{n}": count for n, count in lengths.items() if f"length_{n}" in skipped}
    return {
        "node": name,
        "frames_sent": lengths.total(),
        "frames_of_other_lengths": wrong,
        "windows_explained": result.explained,
        "windows_failed": result.failed,
        "predictions": dict(result.predictions.most_common()),
        "mean_null_tone_share": float(np.mean(result.null_share)) if result.null_share else None,
        "mean_tones": result.mean if result.explained else [],
        "top": _top(result),
    }


def _top(result: NodeResult) -> list[dict[str, Any]]:
    if result.last is None:
        return []
    table = result.last.tone_table
    rows = np.argsort(-np.abs(result.mean), kind="stable")[:8]
    return [identity_of(table, int(row)) | {"mean_attribution": float(result.mean[row])} for row in rows]


def _show(played: Played, results: Mapping[int, NodeResult], stream: tonescope.LiveStream, interrupted: bool) -> None:
    summary = summary_of(played, results, stream)
    table = Table("node", "frames", "other lengths", "windows", "null share", "strongest tones", box=None)
    for node in summary["nodes"]:
        wrong = ", ".join(f"{kind.removeprefix('length_')}: {n}" for kind, n in node["frames_of_other_lengths"].items())
        share = node["mean_null_tone_share"]
        table.add_row(
            str(node["node"]),
            str(node["frames_sent"]),
            wrong or "—",
            str(node["windows_explained"]),
            null_share_text(share, ""),
            " ".join(top["tone"] for top in node["top"]) or "—",
        )
    out.print(table)
    for node in summary["nodes"]:
        said = ", ".join(f"{name} {count}" for name, count in node["predictions"].items())
        if said:
            say(f"node {node['node']}: predictions: {said}")
    for name, kinds in list(played.skipped.items()):
        say(f"node {'—' if name is None else name}: records without a frame: {listed(kinds)}")
    _show_counts(played, stream, interrupted)


def _show_counts(played: Played, stream: tonescope.LiveStream, interrupted: bool) -> None:
    counts = stream.counts
    if line := daemon_line(played, stream, interrupted):
        say(line)
    if counts.reconnects or counts.unaccounted:
        say(f"stream: {counts.sent} frames sent, {counts.resent} of them again; {windows_line(counts)}")
    if line := connections_line(counts):
        remark(line)
