"""Ctrl-C ends long work cleanly: exit code 130, no traceback. However a command ends, what it started ends too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "tonescope_server.cli"]


def interrupted(
    arguments: list[object], after: str | Path, how: signal.Signals = signal.SIGINT
) -> tuple[int, str, str, list[Path]]:
    """Run a command until it has said ``after`` ("" waits a while), or has that file open, then press Ctrl-C.

    Returns:
        Its exit code, what it wrote, and its children.
    """
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        if isinstance(after, Path):
            while process.poll() is None and not is_open(after, process.pid):
                time.sleep(0.01)
        elif after:
            assert any(after in line for line in process.stdout)
        else:
            time.sleep(3)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(how)
        try:
            out, err = process.communicate(timeout=20)  # to the end of stderr, which the children hold open too
        except subprocess.TimeoutExpired:
            for each in [str(process.pid), *children]:
                os.kill(int(each), signal.SIGKILL)
            pytest.fail(f"{arguments[0]} or a child of it was still there 20 s after {how.name}")
    return process.returncode, out, err, [Path("/proc") / child for child in children]


def is_open(path: Path, pid: int) -> bool:
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(each.readlink())
    return path in found


@pytest.mark.parametrize("command", ["watch", "replay"])
def test_a_live_stream_is_left_at_once(recording: Path, address: str, command: str) -> None:
    code, out, err, _ = interrupted([command, recording, "--server", address], "node 1" if command == "watch" else "")
    assert code == 130
    assert "Traceback" not in out + err
    assert "lost" not in out + err, "no connection was lost: we left it"


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


def test_a_long_examination_is_left_at_once(recording: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.csi.jsonl"
    long.write_bytes(recording.read_bytes() * 100)  # seconds of reading
    code, out, err, _ = interrupted(["doctor", "people_count", long, "--html", tmp_path / "page.html"], long)
    assert code == 130
    assert "Traceback" not in out + err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_when_the_demo_is_stopped_its_daemon_is_gone_before_it(tmp_path: Path, how: signal.Signals, code: int) -> None:
    got, out, err, daemon = interrupted(["demo", "--out", tmp_path, "--speed", 1], "node 1", how)
    assert got == code
    assert "Traceback" not in out + err
    assert len(daemon) == 1
    assert not daemon[0].exists()


def test_when_the_demo_is_killed_its_daemon_stops_by_itself(tmp_path: Path) -> None:
    code, _, err, daemon = interrupted(["demo", "--out", tmp_path, "--speed", 1], "node 1", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "Traceback" not in err
    assert len(daemon) == 1
