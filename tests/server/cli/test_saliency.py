"""``saliency``: a report whose keys others already read, with the identity of every tone beside them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tonescope_server import Explainer, Target
from tonescope_server.cli import console
from tonescope_server.cli.demo import own_daemon
from tonescope_server.cli.saliency import spread
from tonescope_server.demo import PLANTED_ROWS, store_path

RUVIEW = "real/ruview"


def test_the_keys_are_those_of_the_published_report_with_tone_identity(run, recording: Path, shared: Path) -> None:
    published = json.loads((shared / RUVIEW / "saliency.json").read_text())
    report = run("saliency", recording, "-o", "-").json
    assert list(report)[: len(published)] == list(published)
    assert set(report) - set(published) == {
        "tone_layout", "rows_are", "centre_mhz", "tones", "null_tone_share", "findings",
        "model_warnings", "recording", "labels",
        "model_digest", "method", "parameters", "rule_set", "target", "normalisation", "window",
    }  # fmt: skip
    assert list(report["top_k_subcarriers"]) == list(published["top_k_subcarriers"])
    assert list(report["saliency_summary"]) == list(published["saliency_summary"])
    assert [type(report[key]) for key in published] == [type(value) for value in published.values()]


def test_the_numbers_are_the_mean_statistic_and_agree_with_each_other(run, recording: Path) -> None:
    report = run("saliency", recording, "-o", "-").json
    values = np.array(report["saliency_per_subcarrier"])
    ranking = report["ranking_high_to_low"]
    assert report["n_samples"] == 70
    assert sorted(ranking) == list(range(64))
    assert np.all(np.diff(values[ranking]) <= 0)
    assert report["top_k_subcarriers"]["16"] == ranking[:16]
    summary = report["saliency_summary"]
    assert summary["std"] == pytest.approx(values.std())
    assert summary["max_to_mean_ratio"] == pytest.approx(values.max() / values.mean())
    assert report["tones"][ranking[0]]["kind"] == "data"
    assert report["null_tone_share"] < 0.01


def test_at_least_four_fifths_of_the_top_eight_tones_are_planted(run, recording: Path) -> None:
    top = run("saliency", recording, "-o", "-").json["top_k_subcarriers"]["8"]
    assert sum(row in PLANTED_ROWS for row in top) >= 0.8 * 8


def test_the_report_says_how_it_was_made(run, recording: Path, tiny_store: Path, write_jsonl) -> None:
    stated = store_path() / "people_count" / "1"
    made = run("saliency", recording, "--normalise", "recording", "--hop", 5, "-o", "-").json
    assert made["model_digest"] == hashlib.sha256((stated / "people_count.safetensors").read_bytes()).hexdigest()
    assert (made["method"], made["parameters"], made["rule_set"]) == ("subcarrier_saliency", {}, "standard")
    assert made["target"] == {"output": "count_logits", "kind": "negative_log_likelihood", "label": "predicted"}
    assert made["normalisation"] == "recording"
    assert made["window"] == {"frames": 20, "hop": 5}
    plain = run("saliency", recording, "-o", "-").json
    assert plain["normalisation"] == "manifest"
    assert plain["window"] == {"frames": 20, "hop": 10}
    labelled = [{"csi": [1.0] * 224, "csi_shape": [56, 4], "n_persons_mode": n % 2, "kp": []} for n in range(4)]
    paired = run("saliency", write_jsonl(labelled), "-m", "tiny", "--store", tiny_store, "-o", "-").json
    assert paired["target"] == {"output": "logits", "kind": "negative_log_likelihood", "label": "n_persons_mode"}
    assert paired["normalisation"] == "none"


@pytest.mark.parametrize("command", ["saliency", "explain", "replay"])
def test_what_an_option_says_is_not_told_as_a_guess(
    run, command: str, tiny_store: Path, tmp_path: Path, write_jsonl
) -> None:
    (tmp_path / "store").mkdir()
    bare = shutil.copy(tiny_store / "tiny" / "model.onnx", tmp_path / "store" / "bare.onnx")
    random = np.random.default_rng(3)
    frames = write_jsonl([{"sequence": i, "subcarriers": (random.random(56) + 1).tolist()} for i in range(12)])
    with own_daemon(tmp_path / "store") as address:
        asked: tuple[object, ...] = ("--model", bare)
        if command == "saliency":
            asked = (*asked, "-o", tmp_path / "saliency.json")
        if command == "replay":
            asked = ("--server", address, "--as-fast-as-possible")
        told = {kind: run(command, frames, *asked, *kind) for kind in ((), ("--normalise", "recording"))}
    for kind, ran in told.items():
        assert ran.code == 0, ran.err
        assert ("normalisation.kind is taken to be" in ran.err) is (not kind)
        assert "input.cell_order is taken to be" in ran.err


def test_max_samples_takes_windows_evenly_spread() -> None:
    assert spread(list(range(100)), 5) == [0, 25, 50, 74, 99]  # type: ignore[comparison-overlap,arg-type]
    assert spread([1, 2], 5) == [1, 2]  # type: ignore[comparison-overlap,list-item]


def test_a_pose_model_with_its_adapter_works_and_says_which_kind_it_is(run, refused, shared: Path) -> None:
    folder = shared / RUVIEW
    recording = folder / "rec_1772470567081-20260302_165607.csi.jsonl"
    asked = ("saliency", recording, "-m", folder / "pose_v1.safetensors", "--normalise", "recording", "-o", "-")
    plain = run(*asked, "--kind", "pose").json
    adapted = run(*asked, "--kind", "pose", "--adapter", folder / "sample_room.adapter.safetensors").json
    assert plain["kind"] == "pose"
    assert len(plain["saliency_per_subcarrier"]) == 56
    assert plain["saliency_per_subcarrier"] != adapted["saliency_per_subcarrier"]
    assert "which is --kind pose" in refused(*asked)


def test_the_finding_of_null_tones_is_one_line(run, write_jsonl, tiny_store: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(console.err, "_width", 80)
    everywhere = write_jsonl([{"csi": np.linspace(-1, 1, 224).tolist(), "csi_shape": [56, 4]}] * 2)
    ran = run("saliency", everywhere, "-m", "tiny", "--store", tiny_store, "-o", tmp_path / "saliency.json")
    (line,) = [line for line in ran.err.splitlines() if "NULL_TONE_SHARE" in line]
    assert line.startswith("fault: NULL_TONE_SHARE: 12.9% ")
    assert "lies on tones that carry no signal; to do: see to input.cell_order" in line
    (finding,) = json.loads((tmp_path / "saliency.json").read_text())["findings"]
    assert (finding["code"], finding["severity"]) == ("NULL_TONE_SHARE", "fault")


def test_a_paired_file_is_explained_against_its_own_labels(run, tiny_store: Path, write_jsonl) -> None:
    random = np.random.default_rng(4)
    live = [i for i in range(56) if i != 0 and not 27 <= i <= 37]
    records, cells = [], []
    for i in range(40):  # more than go into one batch
        window = np.zeros((4, 56))
        window[:, live] = random.random((4, len(live))) + 0.5
        records.append({"csi": window.ravel().tolist(), "csi_shape": [56, 4], "n_persons_mode": i % 2, "kp": []})
        cells.append(window.T)
    report = run("saliency", write_jsonl(records), "-m", "tiny", "--store", tiny_store, "-o", "-").json
    expected = Explainer.load("tiny", store=tiny_store).explain(
        np.array(cells),
        method="subcarrier_saliency",
        target=Target.negative_log_likelihood(np.array([0, 1] * 20)),
    )
    np.testing.assert_allclose(report["saliency_per_subcarrier"], expected.tones.mean(axis=0), rtol=1e-5, atol=1e-7)


def paired_records(labels: list[object]) -> list[dict[str, object]]:
    random = np.random.default_rng(4)
    return [
        {"csi": (random.random(224) + 0.5).tolist(), "csi_shape": [56, 4], "kp": []}
        | ({} if label is None else {"n_persons_mode": label})
        for label in labels
    ]


def test_windows_without_a_usable_label_are_left_out_and_told(run, tiny_store: Path, write_jsonl) -> None:
    asked = ("-m", "tiny", "--store", tiny_store, "-o", "-")
    some = run("saliency", write_jsonl(paired_records([0, None, 1, "two", 1.0, 0.5, True])), *asked)
    alone = run(
        "saliency",
        write_jsonl([r for i, r in enumerate(paired_records([0, 0, 1, 0, 1])) if i != 1 and i != 3], "b.jsonl"),
        *asked,
    )
    assert some.json["saliency_per_subcarrier"] == alone.json["saliency_per_subcarrier"]
    assert some.json["n_samples"] == 3
    assert some.json["target"]["label"] == "n_persons_mode"
    assert some.json["labels"] == {"field": "n_persons_mode", "windows_with": 3, "lines_without": [2, 4, 6, 7]}
    said = "4 of 7 windows have no usable n_persons_mode and are left out: lines 2, 4, 6, 7"
    assert f"made.jsonl: {said}" in some.err.splitlines()
    assert "n_persons_mode" not in alone.err


def test_a_paired_file_without_any_label_says_that_the_prediction_stands_for_them(run, tiny_store, write_jsonl) -> None:
    ran = run("saliency", write_jsonl(paired_records([None, "x"])), "-m", "tiny", "--store", tiny_store, "-o", "-")
    assert ran.json["n_samples"] == 2
    assert ran.json["target"]["label"] == "predicted"
    assert "no window has a usable n_persons_mode: the loss is that of the prediction" in ran.err


@pytest.mark.parametrize("label", [99, -1, 10**30, 3.0])
def test_a_label_that_the_model_has_no_class_for_names_its_line(refused, tiny_store, write_jsonl, label) -> None:
    line = refused("saliency", write_jsonl(paired_records([0, 1, label])), "-m", "tiny", "--store", tiny_store)
    assert f"made.jsonl:3: n_persons_mode: expected 0 to 2, got {int(label)}" in line


@pytest.mark.parametrize("command", ["saliency", "explain"])
def test_what_of_a_paired_file_was_skipped_is_told_and_counted(run, tiny_store, write_jsonl, command: str) -> None:
    records = paired_records([0, 1, 0, 1])
    records[1]["csi"][5] = float("nan")  # type: ignore[index]
    records[2]["csi"] = records[2]["csi"][:-1]  # type: ignore[index]
    path = write_jsonl(records)
    path.write_text(path.read_text()[:-300])  # the last line is cut short
    to = "-o" if command == "saliency" else "--json"
    ran = run(command, path, "-m", "tiny", "--store", tiny_store, to, "-")
    assert ran.json["recording"] == {
        "frames": 4,
        "frames_sent": None,
        "frames_used": 4,
        "frames_skipped": {},
        "records_skipped": {"non_finite": 1, "short": 1, "corrupt": 1},
        "windows": 1,
        "gaps": 0,
    }
    (line,) = [line for line in ran.err.splitlines() if "records without a frame" in line]
    assert line.startswith(
        "made.jsonl: 4 of 4 frames used (skipped: none), 1 windows, 0 gaps; records without a frame: "
    )
    assert all(f"made.jsonl:{n}" in line for n in (2, 3, 4)), "where to look"


def test_what_of_a_real_recording_was_skipped_is_told(run, shared: Path, tiny_store: Path) -> None:
    path = shared / RUVIEW / "pretrain-1775182186.csi.jsonl"
    for asked in (("saliency", path, "-o", "-"), ("explain", path, "--json", "-")):
        ran = run(*asked, "-m", "tiny", "--store", tiny_store)
        assert ran.json["recording"]["frames_skipped"] == {"length_128": 1134, "length_192": 48}
        assert sum(ran.json["recording"]["records_skipped"].values()) == 474
        assert "1134 length_128, 48 length_192" in ran.err
        assert "records without a frame: " in ran.err


@pytest.mark.parametrize("labels", [None, [0, 1, 2, 1, 0]])
def test_windows_in_a_numpy_file_are_read_with_their_labels(run, tiny_store, windows: Path, tmp_path, labels) -> None:
    cells = np.load(windows)
    if labels is not None:
        windows = tmp_path / "w.npz"
        np.savez(windows, windows=cells, labels=np.array(labels))
    report = run("saliency", windows, "-m", "tiny", "--store", tiny_store, "-o", "-").json
    target = Target.negative_log_likelihood(None if labels is None else np.array(labels))
    expected = Explainer.load("tiny", store=tiny_store).explain(cells, method="subcarrier_saliency", target=target)
    np.testing.assert_allclose(report["saliency_per_subcarrier"], expected.tones.mean(axis=0), rtol=1e-5, atol=1e-7)
    assert report["target"]["label"] == ("predicted" if labels is None else "labels")
    assert report["recording"] is None
    assert report["labels"] == (None if labels is None else {"field": "labels", "windows_with": 5, "lines_without": []})


def test_a_label_beside_an_array_that_the_model_has_no_class_for_names_its_place(
    refused, tiny_store, windows: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "w.npz", windows=np.load(windows), labels=np.array([0, 1, 99, 1, 0]))
    line = refused("saliency", tmp_path / "w.npz", "-m", "tiny", "--store", tiny_store)
    assert "w.npz: labels[2]: expected 0 to 2, got 99" in line


def test_a_page_has_the_ranking_and_its_picture(run, recording: Path, tmp_path: Path) -> None:
    page = tmp_path / "s.html"
    ran = run("saliency", recording, "-o", tmp_path / "s.json", "--html", page)
    assert ran.code == 0, ran.err
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 1
    top = json.loads((tmp_path / "s.json").read_text())["top_k_subcarriers"]["8"]
    assert f"top 8: {top[0] - 64 if top[0] > 31 else top[0]:+d}, " in text
