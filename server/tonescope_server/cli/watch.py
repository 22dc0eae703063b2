"""``tonescope watch``: the band plot of a live stream, in the terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

import tonescope
from tonescope.results import Explanation, Notice
from tonescope_server.cli import band
from tonescope_server.cli.console import err, listed, out, say
from tonescope_server.cli.findings import findings_told, show_findings, show_notices
from tonescope_server.cli.identity import FEATURES, identity_text
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
from tonescope_server.cli.outcome import connections_line, lost, need_windows, windows_line
from tonescope_server.cli.pace import Played, play, speed_of
from tonescope_server.cli.recordings import need_nodes, open_file
from tonescope_server.cli.remote import daemon, say_connection, until_it_ends, wait_for
from tonescope_server.cli.replay import FastOption, NodeOption, SpeedOption, open_stream
from tonescope_server.cli.usage import is_given, only
from tonescope_server.cli.warned import Warned
from tonescope_server.engine.explainer import installed_plugins

REDRAWS_PER_S = 12
_RATE_SPAN_S = 2.0


def watch(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A recording to play as live frames.", show_default=False)],
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
) -> None:
    """Watch, live, which tones a prediction rests on: a bar a tone, null tones hatched, pilots marked.

    Example:  tonescope watch session.csi.jsonl --model people_count

    Example:  tonescope watch session.csi.jsonl --server edge7:50551 --node 1 --method integrated_gradients --speed 2
    """
    if as_fast_as_possible:
        only(context, ("speed",), "without --as-fast-as-possible", f"{speed:g} beside it")
    pace = speed_of(speed, as_fast_as_possible)
    recording = open_file(file, installed_plugins(), format)
    need_nodes(recording, node or ())
    played, nodes = Played(), frozenset(node or ())
    warned = Warned()
    with daemon(server) as client:
        wait_for(client, give_up_after if is_given(context, "give_up_after") else 0.0, _aside())
        stream = open_stream(
            client,
            recording,
            model,
            normalise,
            frames=lambda whole: play(recording, pace, played, nodes=nodes, whole=whole),
            overload="drop_oldest" if pace else "back_pressure",
            method=method,
            target=parse_target(target, output, tonescope.Target),
            parameters=parse_parameters(param),
            hop_frames=hop,
            retry=tonescope.Retry(give_up_after_s=give_up_after),
            on_connection=lambda event: say_connection(event, _aside()),
        )
        heard: list[Notice] = []
        with until_it_ends(stream) as ended:
            for explanation in show(stream, heard, played):
                warned.take(explanation)
        _hear(stream, heard, played)
        _show_skipped(played, stream, ended.interrupted)
        warned.show({notice.code for notice in heard})
        show_findings(warned.faults(findings_told(heard)))
        lines = windows_line(stream.counts), connections_line(stream.counts)
        say("; ".join(each for each in lines if each))
        ended.again()
        need_windows(file.name, played, stream)


def _show_skipped(played: Played, stream: tonescope.LiveStream, interrupted: bool) -> None:
    """Say what no window was made of, where there is any: records that hold no frame, and frames that went unused."""
    if played.skipped:
        say(f"records without a frame: {listed(played.skipped_of_all)}")
    if stream.summary is not None and stream.summary.frames_skipped:
        say(f"frames skipped: {listed(stream.summary.frames_skipped)}")
    if (unknown := lost(stream.counts, interrupted)) > 0:
        say(f"frames skipped in connections that were lost: not known of {unknown}")


def show(stream: tonescope.LiveStream, heard: list[Notice], played: Played) -> Iterator[Explanation]:
    """Draw a stream as it comes, and pass its explanations on; plain lines where stdout is not a terminal.

    What the daemon says beside its explanations is shown at once, and added to ``heard``; but for gaps that are none,
    by what was ``played``.
    """
    view = View()
    if not out.is_terminal:
        yield from _lines(stream, view, heard, played)
    else:
        with Live(console=out, refresh_per_second=REDRAWS_PER_S, get_renderable=lambda: view.render(stream)):
            for explanation in stream:
                view.take(explanation)
                _hear(stream, heard, played)
                yield explanation
    _hear(stream, heard, played)


def _hear(stream: tonescope.LiveStream, heard: list[Notice], played: Played) -> None:
    """Say what the daemon said of the stream since this was last asked, what is not new left out."""
    said = {str(notice) for notice in heard}
    notices = played.told(stream.notices(), stream.summary)
    heard += notices
    show_notices([notice for notice in notices if str(notice) not in said], _aside())


def _aside() -> Console:
    """Return where to say something beside what is shown: above the drawing, or, where there is none, stderr."""
    return out if out.is_terminal else err


def _lines(stream: tonescope.LiveStream, view: View, heard: list[Notice], played: Played) -> Iterator[Explanation]:
    """Print a line for each window: whoever reads them, a file or a program, wants them all."""
    for explanation in stream:
        view.take(explanation)
        _hear(stream, heard, played)
        say(view.line(explanation))
        yield explanation


@dataclass
class View:
    """What is drawn: the last explanation of each node, and how fast they come."""

    last: dict[int, Explanation] = field(default_factory=dict)
    problem: str = ""
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=4096))
    _columns: list[band.Column] = field(default_factory=list)

    def take(self, explanation: Explanation) -> None:
        """Take in an explanation."""
        self._times.append(time.monotonic())
        if explanation.problem is not None:
            self.problem = str(explanation.problem)
            return
        self._columns = self._columns or band.columns_of(explanation.tone_table)
        self.last[explanation.node_id] = explanation

    @property
    def rate(self) -> float:
        """Windows per second, of late."""
        now = time.monotonic()
        recent = [each for each in self._times if now - each <= _RATE_SPAN_S]
        return len(recent) / max(min(_RATE_SPAN_S, now - self._times[0]), 0.05) if self._times else 0.0

    def render(self, stream: tonescope.LiveStream) -> Group:
        """Draw everything: a heading, then a band for each node."""
        parts: list[Text] = [self._heading(stream)]
        for node in sorted(self.last)[:4]:
            parts.extend(self._node(self.last[node], height=6 if len(self.last) < 3 else 3))
        if self.problem:
            parts.append(Text(f"last problem: {self.problem}", "red", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def line(self, explanation: Explanation) -> str:
        """Say one explanation in one line of plain text."""
        where = f"node {explanation.node_id} window {explanation.window_index:>4}  "
        if explanation.problem is not None:
            return f"{where}{explanation.problem}"
        values = band.values_of(self._columns, explanation.tones)
        top = "; ".join(identity_text(tone.tone, tone.row) for tone in explanation.top[:4])
        return (
            f"{where}{band.prediction_text(explanation):<18.18} |{band.sparkline(self._columns, values).plain}| "
            f"top {top}  {band.null_share_text(explanation.null_tone_share, 'null ').plain}"
        )

    def _heading(self, stream: tonescope.LiveStream) -> Text:
        opened, counts = stream.opened, stream.counts
        name = f"{opened.model} · {opened.method}" if opened else "connecting …"
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(name, "bold")
        text.append(f"   {self.rate:.1f} windows/s   dropped {counts.dropped}")
        if counts.reconnects:
            text.append(f"   reconnections {counts.reconnects}", "yellow")
        return text

    def _node(self, explanation: Explanation, height: int) -> list[Text]:
        values = band.values_of(self._columns, explanation.tones)
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"node {explanation.node_id}  ", "bold")
        head.append(f"{band.prediction_text(explanation)}  ", "cyan")
        head.append_text(band.null_share_text(explanation.null_tone_share))
        head.append(f"  window {explanation.window_index}", band.FAINT)
        lines = [Text(), head, *band.bars(self._columns, values, height), Text(band.axis(self._columns), band.FAINT)]
        lines += _frequencies(self._columns, explanation)
        running = explanation.running
        if running is not None and running.count > 1:
            mean = band.sparkline(self._columns, band.values_of(self._columns, np.asarray(running.mean)))
            mean.append(f"  mean of {running.count}", band.FAINT)
            lines.append(mean)
        return lines


def _frequencies(columns: list[band.Column], explanation: Explanation) -> list[Text]:
    """Return the axis in MHz; for features, the word that they are none."""
    if explanation.tone_table.rows_are == "features":
        return [Text(FEATURES, band.FAINT)]
    axis = band.frequency_axis(columns, explanation.tone_table)
    return [Text(axis, band.FAINT)] if axis else []
