"""What explanations warn of themselves is told by every command, and once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tonescope_server.cli.demo import own_daemon
from tonescope_server.cli.warned import _merged
from tonescope_server.demo import recording_path, store_path

N = 20


@pytest.fixture(scope="module")
def address(tiny_store: Path) -> Iterator[str]:
    with own_daemon(tiny_store) as listening:
        yield listening


@pytest.fixture
def loud(write_jsonl) -> Path:
    """A paired file whose null tones are as loud as all others, so that there is attribution on them."""
    random = np.random.default_rng(6)
    cells = (random.random((56, 4)).ravel() + 0.5 for _ in range(N))
    return write_jsonl([{"csi": each.tolist(), "csi_shape": [56, 4], "kp": []} for each in cells])


@pytest.fixture
def quiet(write_jsonl) -> Path:
    """The same with silent null tones."""
    random, live = np.random.default_rng(6), np.ones((56, 1))
    live[[0, *range(27, 38)]] = 0
    cells = ((live * (random.random((56, 4)) + 0.5)).ravel() for _ in range(N))
    return write_jsonl([{"csi": each.tolist(), "csi_shape": [56, 4], "kp": []} for each in cells])


@pytest.mark.parametrize("command", ["explain", "replay", "watch"])
def test_attribution_on_null_tones_alarms_in_every_command(run, loud: Path, address: str, command: str) -> None:
    fast = () if command == "explain" else ("--as-fast-as-possible",)
    ran = run(command, loud, "--model", "tiny", "--server", address, *fast)
    assert ran.code == 0
    assert "% ALARM" in ran.out
    (line,) = [line for line in ran.err.splitlines() if line.startswith("warning: NULL_TONE_SHARE: ")]
    assert line.startswith(f"warning: NULL_TONE_SHARE: {N} of {N} windows: 21.9% to 25.3% of the attribution lies on ")


def test_a_map_over_frames_says_so_and_raises_no_alarm_about_null_tones(run) -> None:
    with own_daemon(store_path()) as listening:
        ran = {
            "explain": run("explain", recording_path(), "--method", "grad_cam"),
            "replay": run(
                "replay", recording_path(), "--method", "grad_cam", "--server", listening, "--as-fast-as-possible"
            ),
        }
    for each in ran.values():
        assert each.code == 0
        assert "warning: NO_TONE_RESOLUTION: " in each.err
        assert "NULL_TONE_SHARE" not in each.err
        assert "ALARM" not in each.out


@pytest.mark.parametrize("command", ["explain", "replay", "watch"])
def test_a_share_that_is_right_alarms_in_none(run, quiet: Path, address: str, command: str) -> None:
    fast = () if command == "explain" else ("--as-fast-as-possible",)
    ran = run(command, quiet, "--model", "tiny", "--server", address, *fast)
    assert ran.code == 0
    assert "0.0%" in ran.out
    assert "ALARM" not in ran.out
    assert "NULL_TONE_SHARE" not in ran.err


def test_what_the_checks_tell_is_not_told_again(run, loud: Path, address: str) -> None:
    for command in ("explain", "replay"):
        fast = () if command == "explain" else ("--as-fast-as-possible",)
        ran = run(command, loud, "--model", "tiny", "--server", address, *fast)
        assert sum("CLASS_NEVER_TRAINED" in line for line in ran.err.splitlines()) == 1


def test_the_summary_of_replay_has_the_warnings(run, loud: Path, address: str, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    ran = run("replay", loud, "--model", "tiny", "--server", address, "--as-fast-as-possible", "--json", path)
    assert ran.code == 0
    found = {each["code"]: each for each in json.loads(path.read_text())["warnings"]}
    assert set(found) == {"NULL_TONE_SHARE", "CLASS_NEVER_TRAINED"}
    assert found["NULL_TONE_SHARE"]["windows"] == N
    assert found["NULL_TONE_SHARE"]["message"].startswith("21.9% to 25.3% of the attribution ")


def test_numbers_are_given_as_their_range_and_in_order() -> None:
    assert _merged(["9.5% at most 1%", "12.1% at most 1%", "3% at most 1%"]) == "3% to 12.1% at most 1%"
    assert _merged(["as it is"] * 3) == "as it is"
