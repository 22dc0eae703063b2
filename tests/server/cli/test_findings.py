"""Findings in every report, and on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.faults import declared_by, raw_windows, z_scores
from tonescope.results import Notice
from tonescope_server.checks import Finding, Severity
from tonescope_server.cli.findings import findings_told, line_of, section
from tonescope_server.demo import store_path
from tonescope_server.demo.recording import recording_lines
from tonescope_server.demo.simulator import Scene, simulate
from tonescope_server.models.manifest import Manifest

KEYS = ["code", "severity", "message", "remedy", "figures", "node_id"]


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in which every row holds the tone before it."""
    captures = simulate(Scene(schedule=((12.0, 1),), seed=5))
    for capture in captures:
        capture.iq[:] = np.roll(capture.iq, 1, axis=1)
    path = tmp_path_factory.mktemp("rolled") / "rolled.csi.jsonl"
    path.write_text("".join(recording_lines(captures)))
    return path


def codes(report: dict) -> set[str]:
    """Return what was found, notes left out: the simulated room may be as quiet as it likes."""
    return {finding["code"] for finding in report["findings"] if finding["severity"] != "note"}


def test_every_report_says_what_is_wrong_with_a_recording(run, rolled: Path, address: str) -> None:
    reports = {
        "saliency": run("saliency", rolled, "-o", "-").json,
        "explain": run("explain", rolled, "--json", "-").json,
        "explain at a daemon": run("explain", rolled, "--json", "-", "--server", address).json,
        "replay": run("replay", rolled, "--server", address, "--as-fast-as-possible", "--json", "-").json,
    }
    for name, report in reports.items():
        assert codes(report) == {"TONES_ROLLED"}, name
        graver = [finding for finding in report["findings"] if finding["severity"] != "note"]
        for finding in graver:
            assert list(finding) == KEYS
            assert finding["node_id"] in (1, 2)
            assert finding["severity"] == "fault"
            assert finding["figures"] == {"rolled_rows": 1}
    # The daemon counts what it sent: each answer carries its share of null tones, whatever that follows from.
    assert reports["replay"]["daemon"]["findings"] == {"TONES_ROLLED": 2, "NULL_TONE_SHARE": 2}


def test_every_report_on_the_bundled_recording_finds_nothing(run, recording: Path, address: str) -> None:
    for report in (
        run("saliency", recording, "-o", "-").json,
        run("explain", recording, "--json", "-").json,
        run("replay", recording, "--server", address, "--as-fast-as-possible", "--json", "-").json,
    ):
        assert report["findings"] == []


def test_windows_are_checked_here_as_for_a_daemon(run, address: str, tmp_path: Path) -> None:
    stated = Manifest.load(store_path() / "people_count" / "1" / "model.toml").normalisation
    right = z_scores(raw_windows(1), declared_by(np.array(stated.mean), np.array(stated.std))).transpose(0, 2, 1)
    scrambled = np.ascontiguousarray(right.transpose(0, 2, 1)).reshape(right.shape)
    for name, cells, expected in [("right", right, set()), ("scrambled", scrambled, {"FRAME_MAJOR"})]:
        np.save(tmp_path / f"{name}.npy", cells)
        asked = ("explain", tmp_path / f"{name}.npy", "--json", "-")
        here, there = run(*asked).json, run(*asked, "--server", address).json
        assert codes(here) == expected
        assert here["findings"] == there["findings"]
        assert here["attribution_profile"] == pytest.approx(there["attribution_profile"])
        assert sum(here["attribution_profile"]) == pytest.approx(1)


def test_a_profile_of_explain_states_the_reference_of_a_manifest(run, recording: Path, tmp_path: Path) -> None:
    profile = run("explain", recording, "--json", "-").json["attribution_profile"]
    for name, moved in {"same": 0, "moved": 3}.items():
        shares = np.roll(profile, moved).tolist()
        reference = f'\n[reference]\nmethod = "input_x_gradient"\nattribution = {shares}\n'
        text = (store_path() / "people_count" / "1" / "model.toml").read_text()
        (tmp_path / f"{name}.toml").write_text(text + reference)
    weights = store_path() / "people_count" / "1" / "people_count.safetensors"
    reports = {
        name: run("explain", recording, "-m", weights, "--manifest", tmp_path / f"{name}.toml", "--json", "-").json
        for name in ("same", "moved")
    }
    assert codes(reports["same"]) == set()
    assert codes(reports["moved"]) == {"ATTRIBUTION_DRIFT"}


def test_labels_that_confidence_does_not_track_are_told_by_saliency(run, write_jsonl, tiny_store: Path) -> None:
    random = np.random.default_rng(4)
    live = [i for i in range(56) if i != 0 and not 27 <= i <= 37]
    records = []
    for _ in range(80):
        window = np.zeros((4, 56))
        window[:, live] = random.random((4, len(live))) + 0.5
        label = int(random.integers(0, 2))
        records.append({"csi": window.ravel().tolist(), "csi_shape": [56, 4], "n_persons_mode": label, "kp": []})
    report = run("saliency", write_jsonl(records), "-m", "tiny", "--store", tiny_store, "-o", "-").json
    assert report["n_samples"] == 80
    assert codes(report) & {"CONFIDENCE_UNRELATED", "CONFIDENCE_OFF"}


def test_findings_are_shown_on_the_terminal_with_what_to_do(run, rolled: Path, address: str) -> None:
    expected = "fault: TONES_ROLLED: node 1: "
    for ran in (
        run("explain", rolled),
        run("watch", rolled, "--server", address, "--as-fast-as-possible"),
        run("replay", rolled, "--server", address, "--as-fast-as-possible"),
    ):
        assert ran.code == 0, ran.err
        lines = [line for line in ran.err.splitlines() if line.startswith(expected)]
        assert len(lines) == 1, ran.err
        assert "; to do: roll the rows back by -1" in lines[0]


def test_a_finding_reads_the_same_here_and_from_a_daemon() -> None:
    here = Finding("A", Severity.WARNING, "it is so", "change it", {"x": 1.0}, 3)
    there = Notice("warning", "A", "it is so", "warning", "change it", {"x": 1.0}, 3)
    assert line_of(here) == line_of(there) == "warning: A: node 3: it is so; to do: change it"
    assert findings_told([there, Notice("dropped", "queue_full", "one")]) == [here]
    note = Finding("B", Severity.NOTE, "so it is")
    assert [each["code"] for each in section([note, here])] == ["A", "B"]
    assert json.dumps(section([note, here]))
