"""``replay`` and ``watch`` while their daemon is gone: what they say, what they count, and when they give up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.client.daemons import Daemon, free_port
from tonescope_server.demo import store_path

from .conftest import Run

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def metrics() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def mortal(metrics: str) -> Iterator[Daemon]:
    """A daemon with the bundled store that a test may kill."""
    running = Daemon(store_path(), 0, "--metrics", metrics)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGKILL)


@pytest.fixture
def start(recording: Path, mortal: Daemon, metrics: str) -> Iterator[Start]:
    """Start a command at a pace that takes some ten seconds, and wait until the daemon has explained a window."""
    started: list[subprocess.Popen[str]] = []

    def start(command: str, *options: str) -> subprocess.Popen[str]:
        arguments = [command, str(recording), "--server", mortal.address, "--speed", "2", *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "tonescope_server.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        while not _explained(metrics):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _explained(metrics: str) -> float:
    text = urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5).read().decode()
    found = re.search(r'^tonescope_windows_total\{outcome="explained"\} (\S+)', text, re.M)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_one_line_says_that_the_daemon_is_gone_and_one_that_it_is_back(
    start: Start, mortal: Daemon, command: str
) -> None:
    process = start(command, *(["--json", "-"] if command == "replay" else []))
    mortal.stop(signal.SIGKILL)
    assert process.stderr is not None
    lost = process.stderr.readline()  # said while the daemon is gone: nobody has started it again
    assert lost.startswith("connection lost: ")
    assert mortal.address in lost
    assert lost.endswith("; trying again for 60 s\n")
    mortal.start()
    back = process.stderr.readline()
    assert re.fullmatch(rf"connected to {mortal.address} again, after \d+\.\d s\n", back)
    out, rest = process.communicate(timeout=120)
    assert process.returncode == 0
    assert rest == ""
    if command == "replay":
        summary = json.loads(out)
        assert summary["client"]["reconnects"] == 1
        explained = sum(node["windows_explained"] for node in summary["nodes"])
        assert explained + summary["client"]["dropped"] == 70  # as without the loss
        assert summary["client"]["answered"] == explained
        assert summary["client"]["unaccounted"] == 1
    else:
        *windows, last = out.splitlines()
        assert re.fullmatch(
            r"\d+ windows explained, 0 dropped, 0 failed; reconnections: 1; \d+ frames sent again, .*", last
        )
        assert windows.pop() == "frames skipped in connections that were lost: not known of 1"
        numbers = [int(line.split()[3]) for line in windows]
        assert numbers == sorted(set(numbers))  # they go on where they were


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_figures_at_the_end_are_of_all_connections_and_say_what_is_not_known(
    start: Start, mortal: Daemon, how: signal.Signals
) -> None:
    process = start("replay")
    mortal.stop(how)
    time.sleep(1.0)  # time for several attempts
    mortal.start()
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0
    again = re.search(r"^reconnections: 1; (\d+) frames sent again, 0 lost$", said, re.M)
    assert again, said
    assert len(said.splitlines()) == (3 if how is signal.SIGKILL else 4), said  # lost, back; one says that it drains
    daemon, stream = out.splitlines()[-2:]
    assert stream == f"stream: 720 frames sent, {again[1]} of them again; 70 windows explained, 0 dropped, 0 failed"
    counted = re.fullmatch(
        r"daemon, over (.+): (\d+) of (\d+) frames used \(skipped: none\); (\d+) windows, .* 0 failed; 0 gaps", daemon
    )
    assert counted, daemon
    known, used, received, windows = counted[1], *map(int, counted.groups()[1:])
    assert used == received
    if how is signal.SIGKILL:
        assert known == "1 of 2 connections (the rest was lost before it was summed up)"
        assert 720 - int(again[1]) <= received <= 720  # the first took what was not sent again
        assert 0 < windows <= 70
    else:
        assert known == "2 connections"
        assert received == 720 + int(again[1])
        assert windows == 70


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_a_daemon_that_stays_away_ends_the_command_with_one_line_that_names_it(
    start: Start, mortal: Daemon, command: str
) -> None:
    process = start(command, "--give-up-after", "1")
    mortal.stop(signal.SIGKILL)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 1
    lines = out.splitlines()
    if command == "replay":
        assert lines[0].split()[:2] == ["node", "frames"]
        assert lines[-2] == "daemon: its counts are not known, as connections were lost before they were summed up"
    assert re.search(r"\b[1-9]\d* windows explained, 0 dropped, 0 failed$", lines[-1])
    lost, error = said.splitlines()
    assert lost.endswith("; trying again for 1 s")
    assert error.startswith(f"tonescope: no daemon answers at {mortal.address}: ")
    assert error.endswith("; gave up after 1 s")


def test_what_was_gathered_until_the_daemon_was_lost_is_written(start: Start, mortal: Daemon, tmp_path: Path) -> None:
    process = start("replay", "--give-up-after", "1", "--json", str(tmp_path / "f.json"))
    mortal.stop(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 1
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["error"]["reason"] == "UNAVAILABLE"
    assert mortal.address in report["error"]["message"]
    assert report["client"]["answered"] == sum(node["windows_explained"] for node in report["nodes"]) > 0
    assert report["client"]["unaccounted"] == 1
    assert report["daemon"] is None


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_what_was_gathered_until_ctrl_c_is_told(start: Start, tmp_path: Path, command: str) -> None:
    process = start(command, *(["--json", str(tmp_path / "f.json")] if command == "replay" else []))
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == ""
    assert re.search(r"\b[1-9]\d* windows explained, 0 dropped, 0 failed$", out.splitlines()[-1])
    if command == "replay":
        report = json.loads((tmp_path / "f.json").read_text())
        assert report["error"] == {"reason": "INTERRUPTED", "message": "interrupted"}
        assert report["client"]["answered"] > 0


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_told_how_long_to_try_a_command_waits_for_a_daemon_that_is_late(recording: Path, command: str) -> None:
    port = free_port()
    arguments = [command, str(recording), "--server", f"127.0.0.1:{port}", "--as-fast-as-possible"]
    waiting = subprocess.Popen(
        [sys.executable, "-m", "tonescope_server.cli", *arguments, "--give-up-after", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    said = waiting.stderr.readline()
    late = Daemon(store_path(), port)
    try:
        out, rest = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        late.stop()
    assert said.startswith(f"no daemon answers at 127.0.0.1:{port}: ")
    assert said.endswith("; trying again for 60 s\n")
    assert waiting.returncode == 0, rest
    assert re.fullmatch(rf"connected to 127.0.0.1:{port}, after \d+\.\d s\n", rest)
    assert "70 " in out.splitlines()[-1]


def test_a_daemon_that_never_comes_ends_the_waiting(run: Run, recording: Path) -> None:
    port = free_port()
    ran = run("replay", recording, "--server", f"127.0.0.1:{port}", "--give-up-after", "0.5")
    assert (ran.code, ran.out) == (1, "")
    first, last = ran.err.splitlines()
    assert first.endswith("; trying again for 0.5 s")
    assert last == f"tonescope: no daemon answers at 127.0.0.1:{port} within 0.5 s"


def test_told_not_to_try_again_the_command_ends_with_the_loss(start: Start, mortal: Daemon) -> None:
    process = start("replay", "--give-up-after", "0")
    mortal.stop(signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    (error,) = said.splitlines()
    assert error.startswith(f"tonescope: no daemon answers at {mortal.address}: ")
