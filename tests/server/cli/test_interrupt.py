"""Ctrl-C ends long work cleanly: exit code 130, no traceback, and what a command started is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "tonescope_server.cli"]


def interrupted(arguments: list[object], after: str) -> tuple[int, str, str, list[Path]]:
    """Run a command until it has said ``after`` ("" waits a while), then press Ctrl-C; return its children too."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        if after:
            assert any(after in line for line in process.stdout)
        else:
            time.sleep(3)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    return process.returncode, out, err, [Path("/proc") / child for child in children]


@pytest.mark.parametrize("command", ["watch", "replay"])
def test_a_live_stream_is_left_at_once(recording: Path, address: str, command: str) -> None:
    code, out, err, _ = interrupted([command, recording, "--server", address], "node 1" if command == "watch" else "")
    assert code == 130
    assert "Traceback" not in out + err


def test_a_long_explanation_is_left_at_once(recording: Path) -> None:
    slow = [
        "-m",
        "people_count",
        "--method",
        "integrated_gradients",
        "-p",
        "n_steps=4096",
        "-p",
        "rule=trapezoid",
        "--hop",
        1,
    ]
    code, out, err, _ = interrupted(["explain", recording, *slow], "")
    assert code == 130
    assert "Traceback" not in out + err


def test_the_demo_takes_its_daemon_with_it(tmp_path: Path) -> None:
    code, out, err, daemon = interrupted(["demo", "--out", tmp_path, "--speed", 1], "node 1")
    assert code == 130
    assert "Traceback" not in out + err
    assert len(daemon) == 1
    assert not daemon[0].exists()
