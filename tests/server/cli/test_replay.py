"""``replay`` and ``watch``: a recording as live frames, and what became of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tonescope
from tonescope_server import Explainer
from tonescope_server.cli.demo import own_daemon
from tonescope_server.cli.local import explain_here, jobs_of
from tonescope_server.cli.watch import View

_INPUT = """
[input]
shape = [56, 20]
cell_order = "tone_frame"
[tones]
layout = "ruview56"
[normalisation]
kind = "recording"
[window]
frames = 20
hop = 20
"""
_COUNT = """
[model]
weights = "count_v1.safetensors"
[[outputs]]
name = "count_logits"
kind = "logits"
trained_classes = [0, 1]
[[outputs]]
name = "conf_logits"
kind = "logits"
"""
_POSE = """
[model]
weights = "pose_v1.safetensors"
adapter = "room.safetensors"
[[outputs]]
name = "keypoints"
kind = "regression"
"""


def test_every_frame_is_sent_and_every_window_explained(run, recording: Path, address: str) -> None:
    summary = run("replay", recording, "--server", address, "--as-fast-as-possible", "--json", "-").json
    assert [node["node"] for node in summary["nodes"]] == [1, 2]
    for node in summary["nodes"]:
        assert node["frames_sent"] == 360
        assert node["windows_explained"] == 35
        assert sum(node["predictions"].values()) == 35
        assert len(node["mean_tones"]) == 64
        assert node["mean_null_tone_share"] < 0.01
    assert summary["daemon"]["frames_used"] == 720
    assert summary["daemon"]["dropped"] == 0
    assert summary["client"]["reconnects"] == 0


def test_the_table_sums_up_node_by_node(run, recording: Path, address: str) -> None:
    ran = run("replay", recording, "--server", address, "--as-fast-as-possible", "--node", 2)
    assert ran.code == 0
    assert "node 2: predictions: " in ran.out
    assert "360 of 360 frames used (skipped: none); 35 windows, 35 explained, 0 dropped, 0 failed; 0 gaps" in ran.out


def test_two_nodes_and_three_lengths_of_a_real_recording_stay_apart(run, shared: Path, tmp_path: Path) -> None:
    files = shared / "real/ruview"
    for name, manifest in {"count_v1": _COUNT, "pose_v1": _POSE}.items():
        folder = tmp_path / "store" / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(_INPUT + manifest)
        (folder / f"{name}.safetensors").write_bytes((files / f"{name}.safetensors").read_bytes())
    (folder / "room.safetensors").write_bytes((files / "sample_room.adapter.safetensors").read_bytes())
    with own_daemon(tmp_path / "store") as address:
        asked = ("--server", address, "--as-fast-as-possible", "--json", "-", "--model")
        mixed = run("replay", files / "pretrain-1775182186.csi.jsonl", *asked, "count_v1").json
        pose = run("replay", files / "pretrain-1775182186.csi.jsonl", *asked, "pose_v1").json
        plain = run("replay", files / "rec_1772470567081-20260302_165607.csi.jsonl", *asked, "count_v1").json
    assert [node["node"] for node in mixed["nodes"]] == [1, 2]
    for node in mixed["nodes"]:
        assert node["windows_explained"] > 90
        assert set(node["frames_of_other_lengths"]) == {"length_128", "length_192"}
        assert node["mean_null_tone_share"] < 0.01
    assert mixed["daemon"]["frames_skipped"] == {"length_128": 1134, "length_192": 48}
    assert mixed["records_skipped"]["1"] == {"vitals": 118, "feature": 118, "compressed": 2}
    assert [node["windows_explained"] for node in plain["nodes"]] == [12]
    assert [n["windows_explained"] for n in pose["nodes"]] == [n["windows_explained"] for n in mixed["nodes"]]
    assert all(node["predictions"] == {} and len(node["mean_tones"]) == 56 for node in pose["nodes"])


def test_watch_prints_plain_lines_where_there_is_no_terminal(run, recording: Path, address: str) -> None:
    ran = run("watch", recording, "--server", address, "--as-fast-as-possible")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("node 1 window    0  empty 98%")
    assert "|░░░░░░" in lines[0]
    assert lines[-1] == "70 windows explained, 0 dropped, 0 failed"
    assert [int(line.split()[3]) for line in lines[:-1]] == list(range(70))
    assert "\x1b" not in ran.out


def test_watch_prints_a_window_that_failed_as_a_line_as_well(tiny_store: Path) -> None:
    explainer = Explainer.load("tiny", store=tiny_store)
    (found,) = explain_here(explainer, jobs_of(np.ones((1, 56, 4)), explainer), "saliency", None, {})
    view = View()
    view.take(found)
    assert view.line(found).startswith("node 0 window    0  ")
    failed = replace(found, problem=tonescope.TonescopeError("it broke"), window_index=3)
    view.take(failed)
    assert view.line(failed) == "node 0 window    3  it broke"


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_what_no_window_was_made_of_is_said_by_kind(
    run, recording: Path, address: str, tmp_path: Path, command: str
) -> None:
    lines = recording.read_text().splitlines()[:50]
    vitals = json.dumps({"type": "vitals", "node_id": 1, "magic": "0xC5110002"})
    longer = json.dumps({"type": "raw_csi", "node_id": 1, "iq_hex": "0102" * 192, "subcarriers": 192})
    (tmp_path / "mixed.csi.jsonl").write_text("\n".join([*lines, vitals, vitals, "{", longer]))
    ran = run(command, tmp_path / "mixed.csi.jsonl", "--server", address, "--as-fast-as-possible")
    assert ran.code == 0
    said = [line for line in ran.out.splitlines() if "records" in line or "skipped" in line]
    if command == "watch":
        assert said == ["records without a frame: 1 corrupt, 2 vitals", "frames skipped: 1 length_192"]
    else:
        assert said[:2] == ["node 1: records without a frame: 2 vitals", "node —: records without a frame: 1 corrupt"]
        assert "50 of 51 frames used (skipped: 1 length_192)" in said[2]


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_edges_between_samples_are_no_gaps_and_missing_frames_are(
    run, write_jsonl, tiny_store: Path, command: str
) -> None:
    paired = write_jsonl([{"csi": [1.0] * 224, "csi_shape": [56, 4], "kp": []}] * 5, "paired.jsonl")
    numbers = [*range(10), *range(12, 30)]
    frames = [{"type": "raw_csi", "sequence": i, "subcarriers": [1.0] * 56} for i in numbers]
    torn = write_jsonl(frames, "torn.csi.jsonl")
    with own_daemon(tiny_store) as address:
        asked = ("--server", address, "--as-fast-as-possible", "--model", "tiny")
        whole, missing = run(command, paired, *asked), run(command, torn, *asked)
        counted = run("replay", paired, *asked, "--json", "-").json
    assert "GAPS" not in whole.err
    assert "warning: GAPS: sequence numbers are missing" in missing.err
    if command == "replay":
        assert "; 0 gaps" in whole.out
        assert "; 1 gaps" in missing.out
    assert (counted["edges_of_samples"], counted["daemon"]["gaps"]) == (4, 4)


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_where_no_daemon_is_that_is_said_in_one_line(refused, recording: Path, command: str) -> None:
    line = refused(command, recording, "--server", "127.0.0.1:1", "--model", "people_count")
    assert "no daemon answers at 127.0.0.1:1" in line


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_a_version_may_be_written_behind_the_models_name(
    run, refused, recording: Path, address: str, command: str
) -> None:
    asked = (command, recording, "--server", address, "--as-fast-as-possible", "--model")
    ran = run(*asked, "people_count/1")
    assert ran.code == 0
    assert "70" in ran.out.splitlines()[-1]
    assert 'model "people_count": no version "7" (there are: 1)' in refused(*asked, "people_count/7")


def test_an_unknown_model_of_a_daemon_is_named(refused, recording: Path, address: str) -> None:
    assert 'no model "nobody"' in refused("replay", recording, "--server", address, "--model", "nobody")
