"""What explanations warn of themselves is told by every command, and once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tonescope.decode import explanation
from tonescope.results import Explanation
from tonescope.v1 import attribution_pb2
from tonescope_server.checks import Finding, Severity
from tonescope_server.cli.demo import own_daemon
from tonescope_server.cli.warned import Warned, _merged
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
def few(write_jsonl) -> Path:
    """Two such windows: too few for the checks to say anything of the data."""
    random = np.random.default_rng(6)
    cells = (random.random((56, 4)).ravel() + 0.5 for _ in range(2))
    return write_jsonl([{"csi": each.tolist(), "csi_shape": [56, 4], "kp": []} for each in cells])


@pytest.fixture
def quiet(write_jsonl) -> Path:
    """The same with silent null tones."""
    random, live = np.random.default_rng(6), np.ones((56, 1))
    live[[0, *range(27, 38)]] = 0
    cells = ((live * (random.random((56, 4)) + 0.5)).ravel() for _ in range(N))
    return write_jsonl([{"csi": each.tolist(), "csi_shape": [56, 4], "kp": []} for each in cells])


@pytest.mark.parametrize("command", ["explain", "replay", "watch"])
def test_attribution_on_null_tones_alarms_in_every_command(run, few: Path, address: str, command: str) -> None:
    fast = () if command == "explain" else ("--as-fast-as-possible",)
    ran = run(command, few, "--model", "tiny", "--server", address, *fast)
    assert ran.code == 0
    assert "% ALARM" in ran.out
    (line,) = [line for line in ran.err.splitlines() if "NULL_TONE_SHARE" in line]
    assert line.startswith("fault: NULL_TONE_SHARE: ")
    assert "of the attribution " in line
    assert " lies on tones that carry no signal" in line


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


@pytest.mark.parametrize("command", ["explain", "saliency", "replay"])
def test_attribution_on_null_tones_is_a_fault_among_the_findings_where_the_data_is_sound(
    run, few: Path, address: str, tiny_store: Path, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "report.json"
    asked = {
        "explain": ("--server", address, "--json", path),
        "saliency": ("--store", tiny_store, "-o", path),
        "replay": ("--server", address, "--as-fast-as-possible", "--json", path),
    }
    assert run(command, few, "--model", "tiny", *asked[command]).code == 0
    report = json.loads(path.read_text())
    (found,) = [each for each in report["findings"] if each["code"] == "NULL_TONE_SHARE"]
    assert found["severity"] == "fault"
    assert "NULL_TONE_SHARE" not in {each["code"] for each in report.get("warnings", [])}


@pytest.mark.parametrize("command", ["explain", "saliency", "replay"])
def test_what_follows_from_rolled_tones_is_told_as_rolled_tones_only(run, tmp_path: Path, command: str) -> None:
    rolled, path = tmp_path / "rolled.csi.jsonl", tmp_path / "report.json"
    with rolled.open("w") as file:
        for line in recording_path().read_text().splitlines():
            record = json.loads(line)
            values = bytes.fromhex(record["iq_hex"])
            file.write(json.dumps({**record, "iq_hex": (values[-2:] + values[:-2]).hex()}) + "\n")
    with own_daemon(store_path()) as listening:
        asked = {
            "explain": ("--json", path),
            "saliency": ("-o", path),
            "replay": ("--server", listening, "--as-fast-as-possible", "--json", path),
        }
        ran = run(command, rolled, *asked[command])
    assert ran.code == 0
    assert "fault: TONES_ROLLED: " in ran.err
    assert "NULL_TONE_SHARE" not in ran.err
    report = json.loads(path.read_text())
    assert "TONES_ROLLED" in {each["code"] for each in report["findings"]}
    assert "NULL_TONE_SHARE" not in {each["code"] for each in [*report["findings"], *report.get("warnings", [])]}


def answered(node_id: int, share: float) -> Explanation:
    """Make what a daemon sends of a window with so much on its null tones."""
    message = attribution_pb2.Explanation(node_id=node_id, null_tone_share=share)
    message.warnings.add(code="NULL_TONE_SHARE", message=f"{share:.1%} of the attribution lies on tones")
    return explanation(message)


def test_a_fault_of_one_node_accounts_for_its_own_null_tones_only() -> None:
    warned = Warned.of([answered(1, 0.25), answered(2, 0.5), answered(2, 0.125)])
    rolled = Finding("TONES_ROLLED", Severity.FAULT, "rolled", "", {}, 1)
    (fault,) = warned.faults([rolled])
    assert fault.node_id == 2
    assert fault.message == "2 of 3 windows: 12.5% to 50.0% of the attribution lies on tones"
    assert fault.figures == {"windows": 2, "largest_null_tone_share": 0.5}
    assert warned.faults([replace(rolled, node_id=None)]) == []
    (fault,) = warned.faults([replace(rolled, severity=Severity.WARNING)])
    assert fault.node_id is None


def test_numbers_are_given_as_their_range_and_in_order() -> None:
    assert _merged(["9.5% at most 1%", "12.1% at most 1%", "3% at most 1%"]) == "3% to 12.1% at most 1%"
    assert _merged(["as it is"] * 3) == "as it is"
