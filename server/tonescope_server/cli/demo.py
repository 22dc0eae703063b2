"""``tonescope demo``: the whole thing in a minute: its own daemon, model and recording, and a verdict at the end."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import tonescope
from tonescope.results import Explanation, Notice
from tonescope_server.cli.console import out, remark, say, write_json
from tonescope_server.cli.findings import findings_told, section
from tonescope_server.cli.identity import tone_text
from tonescope_server.cli.pace import Played, play
from tonescope_server.cli.recordings import open_file
from tonescope_server.cli.remote import daemon, model_name
from tonescope_server.cli.saliency import METHOD, Kind, Made, draw, report_of
from tonescope_server.cli.watch import show
from tonescope_server.demo import PLANTED_ROWS, recording_path, store_path
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import ConfigurationError

START_S, STOP_S = 30.0, 10.0
_SAYS = "listening on "


def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Where the report and the picture go.")] = Path("demo"),
    speed: Annotated[float, typer.Option("--speed", min=0.1, help="How many times faster than recorded.")] = 2.0,
) -> None:
    """Show everything: a daemon, a live stream of simulated CSI, the band plot, and whether the right tones were found.

    The bundled model counts people in CSI from a simulator in which they show on twelve planted tones alone.

    Example:  tonescope demo --out demo
    """
    recording = open_file(recording_path(), installed_plugins())
    with own_daemon(store_path()) as address, daemon(address) as client:
        name = model_name(client, "")
        window = client.model(name).manifest["window"]
        remark(f"daemon at {address}, model {name}, recording {recording.name}")
        played = Played()
        stream = client.live(
            model=name,
            frames=play(recording, speed, played),
            method=METHOD,
            target=tonescope.Target.negative_log_likelihood(),
            retry=tonescope.Retry(give_up_after_s=0.0),  # nobody starts our own daemon again
        )
        with stream:
            heard: list[Notice] = []
            found = [each for each in show(stream, heard, played) if each.problem is None]
        counts, findings = stream.counts, findings_told(heard)
    if not found:
        raise ConfigurationError("demo: expected explanations of the bundled recording, got none")
    report = report_of(Kind.COUNT, name, found, Made(window["frames"], window["hop"]))
    report["findings"] = section(findings)
    write_json(report, out_folder / "saliency.json")
    draw(report, found, recording.name, out_folder / "attribution.png", PLANTED_ROWS)
    out.print(f"{counts.sent} frames sent, {len(found)} windows explained, {counts.dropped} dropped")
    say(verdict(found))
    say(f"wrote {out_folder / 'saliency.json'} and {out_folder / 'attribution.png'}")


def verdict(found: Sequence[Explanation]) -> str:
    """Say how much of the attribution lies on the planted tones, and how much would by chance."""
    table = found[0].tone_table
    mean = np.abs(np.stack([each.tones for each in found]).astype(np.float64).mean(axis=0))
    planted = list(PLANTED_ROWS)
    share = mean[planted].sum() / mean.sum()
    live = len(table) - len(table.null_rows)
    top = np.argsort(-mean, kind="stable")[:8]
    hits = sum(int(row) in planted for row in top)
    named = ", ".join(tone_text(table.tones[row], int(row)) for row in top)
    chance = len(planted) / live
    return (
        f"{share:.0%} of the attribution lies on the {len(planted)} planted tones; "
        f"a random ranking of the {live} live tones would put {chance:.0%} there.\n"
        f"{hits} of the top 8 tones are planted (by chance {8 * chance:.1f}): {named}"
    )


@contextmanager
def own_daemon(store: Path) -> Iterator[str]:
    """Run a daemon of our own on a free port for the length of the block, and no longer than this process lives.

    The daemon watches a pipe from us, its standard input. However this process ends, the system closes our side.

    Raises:
        ConfigurationError: it did not start.
    """
    command = [sys.executable, "-m", "tonescope_server.cli", "serve", "--listen", "127.0.0.1:0", "--store", str(store)]
    # SIGTERM ends us by way of the block's end, so that the daemon is gone before we are.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # In a session of its own, so that Ctrl-C reaches us alone and we stop it in order.
    process = subprocess.Popen(
        [*command, "--stop-with-stdin", "--log-level", "warning"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("TONESCOPE_")},
    )
    try:
        yield _address(process)
    finally:
        _stop(process)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    until = time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < until and process.poll() is None:
            if selector.select(0.1):
                line = process.stdout.readline()
                if _SAYS in line:
                    return line.rpartition(_SAYS)[2].strip()
    raise ConfigurationError(f"demo: the daemon did not start within {START_S:g} s (exit code {process.poll()})")


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
