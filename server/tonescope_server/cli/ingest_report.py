"""What ``tonescope ingest`` says while it runs and at its end: plain values for JSON, and lines for people."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import tonescope
from tonescope.results import Explanation, Notice, TopTone
from tonescope_server.cli.console import err, listed, out, plain, remark
from tonescope_server.cli.remote import say_connection
from tonescope_server.ingest.forwarder import Forwarder
from tonescope_server.ingest.recorder import Recorder
from tonescope_server.ingest.traffic import Traffic
from tonescope_server.ingest.udp import UdpReceiver


class Report:
    """Counts of one gateway, as of now. Rates are those since the last status.

    Args:
        traffic: what came in; ``receiver``: where it came from; ``forwarder``: where it went.
        recorder: what was recorded; None where nothing is.
    """

    def __init__(
        self, traffic: Traffic, receiver: UdpReceiver, forwarder: Forwarder, recorder: Recorder | None
    ) -> None:
        self._traffic, self._receiver, self._forwarder = traffic, receiver, forwarder
        self._recorder = recorder
        self._frames: dict[int, int] = {}

    def status(self, seconds: float) -> dict[str, Any]:
        """Return the counts so far, and the frames per second of each node over the last ``seconds``."""
        counted = {**self.totals(), "connected": self._forwarder.connected}
        for node_id, node in self._traffic.nodes.items():
            new = node.frames - self._frames.get(node_id, 0)
            counted["nodes"][str(node_id)]["frames_per_s"] = round(new / seconds, 2)
            self._frames[node_id] = node.frames
        return counted

    def totals(self) -> dict[str, Any]:
        """Return the counts so far."""
        traffic, receiver = self._traffic, self._receiver
        forwarded = asdict(self._forwarder.counts)
        dropped = {"kernel": receiver.dropped_by_kernel, "unread": receiver.dropped, "buffer": forwarded.pop("dropped")}
        return {
            "packets": traffic.packets,
            "frames": traffic.frames,
            "nodes": {
                str(node_id): {
                    "frames": node.frames,
                    "missing": node.missing,
                    "rssi_dbm": node.rssi_dbm,
                    "hosts": list(node.hosts),
                }
                for node_id, node in sorted(traffic.nodes.items())
            },
            "packets_skipped": dict(traffic.skipped),
            "dropped": dropped,
            "forwarded": forwarded,
            "recorded": None if self._recorder is None else self._recorder.records,
        }


class Speaker:
    """Writes lines: JSON objects, or text for people. What concerns the connection also goes to stderr, as text.

    Args:
        as_json: whether stdout gets JSON lines.
        explanations: whether explanations are written.
        nobody_reads: called once stdout is closed at its other end.
    """

    def __init__(self, as_json: bool, explanations: bool, nobody_reads: Callable[[], object]) -> None:
        self._as_json = as_json
        self._explanations = explanations
        self._nobody_reads = nobody_reads
        self._notices: set[str] = set()

    def event(self, name: str, values: Mapping[str, Any], text: str = "") -> None:
        """Write an event: its values as JSON, or its text where there is one."""
        if self._as_json:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            text = json.dumps({"event": name, "time": now, **plain(values)}, allow_nan=False)
        if not text:
            return
        try:
            out.file.write(text + "\n")
            out.file.flush()
        except BrokenPipeError:
            # What is still buffered would fail again when the interpreter closes stdout.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), out.file.fileno())
            self._nobody_reads()

    def heard(self, explanation: Explanation) -> None:
        """Take an explanation."""
        if not self._explanations:
            return
        self.event("explanation", explanation_values(explanation), explanation_line(explanation))

    def said(self, what: tonescope.ConnectionEvent | Notice) -> None:
        """Take what became of the connection, or what the daemon said of the stream; the latter once each."""
        if isinstance(what, Notice):
            if str(what) not in self._notices and what.kind != "dropped":  # dropped windows are in every status
                self._notices.add(str(what))
                remark(str(what))
                self.event("notice", plain(what))
            return
        say_connection(what, err)
        self.event("connection", connection_values(what))


def connection_values(event: tonescope.ConnectionEvent) -> dict[str, Any]:
    """Return what became of the connection, for JSON."""
    if isinstance(event, tonescope.Disconnected):
        return {"connected": False, "address": event.address, "problem": plain(event.error)}
    return {"connected": True, "address": event.address, "away_s": round(event.away_s, 3)}


def explanation_values(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation for JSON: who said what, which tones, and whether to believe it."""
    said, top = explanation.prediction, explanation.top
    values: dict[str, Any] = {
        name: getattr(explanation, name)
        for name in ("node_id", "window_index", "first_sequence", "last_sequence", "capture_time_ns", "dropped_before")
    }
    if explanation.problem is not None:
        return {**values, "problem": explanation.problem}
    return {
        **values,
        "class_index": said.class_index,
        "class_name": said.class_name,
        "probability": said.probability,
        "class_never_trained": said.class_never_trained,
        "target": explanation.target,
        "score": explanation.score,
        "method": explanation.method,
        "normalisation": explanation.normalisation,
        "tone_layout": explanation.tone_table.id,
        "tones": explanation.tones,
        "top": [
            {
                "row": each.row,
                "subcarrier_index": each.tone.subcarrier_index if each.tone is not None else None,
                "attribution": each.attribution,
            }
            for each in top
        ],
        "null_tone_share": explanation.null_tone_share,
        "warnings": [each.code for each in explanation.warnings],
    }


def explanation_line(explanation: Explanation) -> str:
    """Say an explanation in one line: what the model said, and the strongest tones by their signed index."""
    where, said = f"node {explanation.node_id} window {explanation.window_index:>4}", explanation.prediction
    if explanation.problem is not None:
        return f"{where}  {explanation.problem}"
    name = said.class_name or ("—" if said.class_index is None else f"class {said.class_index}")
    sure = "" if said.probability is None else f" {said.probability:.0%}"
    never = " (never trained)" if said.class_never_trained else ""
    top = " ".join(_tone(each) for each in explanation.top)
    share = explanation.null_tone_share
    null = "—" if share is None else f"{share:.1%}"
    return f"{where}  {name + sure + never:<18}  top {top}  null {null}"


def _tone(strong: TopTone) -> str:
    tone = strong.tone
    if tone is None or tone.subcarrier_index is None:
        return (tone.name if tone is not None else "") or f"row {strong.row}"
    return f"{tone.subcarrier_index:+d}"


def status_line(counted: Mapping[str, Any]) -> str:
    """Say a status in one line."""
    nodes = ", ".join(
        f"node {name} {node['frames_per_s']:.1f}/s" + (f" ({node['missing']} missing)" if node["missing"] else "")
        for name, node in counted["nodes"].items()
    )
    away = "" if counted["connected"] else " | no daemon"
    return f"{nodes or 'no frames'} | not CSI: {listed(counted['packets_skipped'])} | {_went(counted)}{away}"


def summary_lines(counted: Mapping[str, Any], seconds: float) -> str:
    """Say the counts of a whole run."""
    lines = [
        f"{counted['packets']} packets in {seconds:.1f} s: {counted['frames']} frames; "
        f"not CSI: {listed(counted['packets_skipped'])}"
    ]
    for name, node in counted["nodes"].items():
        hosts = ", ".join(node["hosts"])
        lines.append(f"node {name}: {node['frames']} frames from {hosts}, {node['missing']} missing in sequence")
    lines.append(_went(counted))
    if counted["recorded"] is not None:
        lines.append(f"{counted['recorded']} records written")
    return "\n".join(lines)


def _went(counted: Mapping[str, Any]) -> str:
    forwarded, dropped = counted["forwarded"], counted["dropped"]
    lost = {f"in the {kind}" if kind != "unread" else kind: n for kind, n in dropped.items() if n}
    if forwarded["forgotten"]:
        lost["unanswered"] = forwarded["forgotten"]
    return (
        f"dropped: {listed(lost)} | {forwarded['sent']} sent, {forwarded['explained']} windows explained, "
        f"{forwarded['windows_dropped']} dropped, {forwarded['failed']} failed"
    )
