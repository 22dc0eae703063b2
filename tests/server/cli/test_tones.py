"""``tones``: tables to read, files for devices and scripts, pictures, and refusals in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tonescope_server import Explainer
from tonescope_server.cli.tones_pictures import accuracy_figure
from tonescope_server.demo import PLANTED_ROWS, store_path
from tonescope_server.demo.simulator import NULL_ROWS
from tonescope_server.reports.dataset import cut_windows, read_dataset
from tonescope_server.reports.tones.choice import Plan, choose

QUICK = ("--random", 10, "--tried", 40)


@pytest.fixture
def chosen(run, recording: Path, tmp_path: Path):
    ran = run("tones", "people_count", recording, "--out", tmp_path / "out", *QUICK)
    assert ran.code == 0, ran.err
    return ran, tmp_path / "out"


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_ranking_names_every_tone_and_says_how_sure_it_is(chosen) -> None:
    ran, _ = chosen
    lines = ran.out.splitlines()
    assert lines[0].startswith("people_count on recording.csi.jsonl: 52 of 64 tones ranked by mean ")
    assert lines[0].endswith("say nothing of another room or day.")
    first = next(line.split() for line in lines if line.split()[:1] == ["1"])
    rank, row, tone, mhz, carries, field, mean, error, *tops, ranks = first
    assert (rank, carries, field) == ("1", "data", "LLTF")
    assert int(row) in PLANTED_ROWS
    assert int(tone) == (int(row) + 32) % 64 - 32
    assert float(mhz) == 2437 + 0.3125 * int(tone)
    assert 0 < float(error) < float(mean)
    assert tops == ["1.00"] * 3
    assert ranks.startswith("1–")


def test_stability_and_the_curve_are_told_below_it(chosen) -> None:
    ran, _ = chosen
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines() if line.strip()}
    assert {"halves", "time", "nodes", "by"} <= set(rows)
    assert "recordings" not in rows
    assert "Agreement with the class predicted from all tones with K tones, the others held at the baseline" in ran.out


def test_a_verdict_for_each_k_says_whether_random_tones_would_have_done_as_well(run, recording, tmp_path) -> None:
    ran = run("tones", "people_count", recording, "--k", "1,24,52", "--random", 60, "--out", tmp_path)
    one, many, every = ran.out.splitlines()[-3:]
    assert one.startswith("K = 1: ")
    assert one.endswith(": not told from chance")
    assert many.startswith("K = 24: ")
    assert many.endswith(": better than chance")
    assert every == "K = 52: 1.000 with the chosen tones, 1.000 with random ones (p = 1.000): these are all there are"


def test_a_mask_file_for_each_k_holds_planted_tones_first_and_no_null_tone(chosen) -> None:
    _, folder = chosen
    masks = {k: json.loads((folder / f"mask-{k}.json").read_text()) for k in (8, 16, 32)}
    for k, mask in masks.items():
        assert (mask["k"], len(mask["rows"]), mask["tone_layout"]) == (k, k, "esp_lltf")
        assert not set(mask["rows"]) & set(NULL_ROWS)
        assert mask["model"] == "people_count"
        bits = int.from_bytes(bytes.fromhex(mask["mask_hex"]), "little")
        assert [row for row in range(64) if bits >> row & 1] == mask["rows"]
    assert set(masks[8]["rows"]) < set(PLANTED_ROWS) < set(masks[16]["rows"]) < set(masks[32]["rows"])
    header = (folder / "tones.h").read_text()
    assert f"tonescope_rows_8[8] = {{{', '.join(map(str, masks[8]['rows']))}}};" in header


def test_the_csv_files_say_what_the_json_says(chosen) -> None:
    _, folder = chosen
    found = json.loads((folder / "tones.json").read_text())
    ranking = lines_of(folder / "ranking.csv")
    assert [int(line["row"]) for line in ranking[:52]] == found["ranking"]["rows_high_to_low"]
    assert [line["left_out"] for line in ranking] == [""] * 52 + ["null"] * 12
    assert [line["rank"] for line in ranking[50:54]] == ["51", "52", "", ""]
    by_row = {tone["row"]: tone for tone in found["ranking"]["tones"]}
    for line in ranking:
        tone = by_row[int(line["row"])]
        assert float(line["p_top_8"]) == tone["p_top"]["8"]
        assert float(line["standard_error"]) == tone["standard_error"]
    assert sum(tone["p_top"]["8"] for tone in by_row.values()) == pytest.approx(8)
    curve = lines_of(folder / "accuracy.csv")
    assert [int(line["k"]) for line in curve] == [1, 2, 4, 8, 12, 16, 24, 32, 48, 52]
    assert [float(line["chosen"]) for line in curve] == [each["chosen"] for each in found["accuracy"]["by_k"]]
    assert {line["measure"] for line in curve} == {found["accuracy"]["measure"]} == {"agreement"}


def test_the_pictures_are_drawn(chosen) -> None:
    _, folder = chosen
    for name in ("ranking.png", "accuracy.png"):
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        assert (pixels != 255).any(axis=2).mean() > 0.02


def test_the_curve_is_drawn_as_it_was_measured(demo_model, recording: Path) -> None:
    found = choose(demo_model, [read_dataset(recording, demo_model)], Plan(random_sets=5, draws=50, most_tried=30))
    (axes,) = accuracy_figure(found).axes
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_array_equal(drawn["chosen tones"], found.curve.chosen)
    np.testing.assert_array_equal(drawn["lowest tones"], found.curve.lowest)
    np.testing.assert_array_equal(drawn["random tones, mean"], found.curve.random.mean(axis=0))
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[-2:] == ["", "52"]  # 48 is too near to be read beside it
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert set(found.curve.random_band()[1]) <= set(band)


def test_several_recordings_with_labels_are_told_by_recording_and_by_accuracy(run, recording, tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        windows = rng.random((9, 64, 20), np.float32)
        np.savez(tmp_path / f"{name}.npz", windows=windows, labels=rng.integers(0, 4, 9))
    files = [tmp_path / f"{name}.npz" for name in "abc"]
    noise = ("--allow-faults", "--fill", "mean", "--out", tmp_path / "out")
    ran = run("tones", "people_count", *files, "--k", "4,2", *noise, *QUICK)
    assert ran.code == 0, ran.err
    assert "errors and probabilities are over recordings." in ran.out
    assert "Accuracy on the labels with K tones, the others held at the mean" in ran.out
    found = json.loads((tmp_path / "out" / "tones.json").read_text())
    assert [mask["k"] for mask in found["masks"]] == [2, 4]
    assert found["data"] == {"recordings": ["a.npz", "b.npz", "c.npz"], "windows": [9, 9, 9], "nodes": [0]}
    assert found["ranking"]["tones"][1]["standard_error_recordings"] > 0
    assert "recordings" in [each["over"] for each in found["stability"]]


def test_a_paired_file_brings_its_labels(run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = (
        {"csi": rng.uniform(5, 30, 64 * 20).tolist(), "csi_shape": [64, 20], "n_persons_mode": int(i % 4)}
        for i in range(12)
    )
    paired = tmp_path / "room.paired.jsonl"
    paired.write_text("".join(json.dumps(record) + "\n" for record in records))
    ran = run("tones", "people_count", paired, "--allow-faults", "--out", tmp_path / "out", *QUICK)
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "out" / "tones.json").read_text())["accuracy"]["measure"] == "accuracy"


def test_bands_are_ranked_by_the_same_command(run, recording: Path, tmp_path: Path) -> None:
    band = ("--method", "occlusion", "-p", "along=band", "-p", "size=4")
    ran = run("tones", "people_count", recording, *band, "--k", "8", "--out", tmp_path, *QUICK)
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "tones.json").read_text())
    assert found["parameters"] == {"along": "band", "size": 4}
    rows = found["masks"][0]["subcarrier_indices"]
    assert any(b - a == 1 for a, b in zip(sorted(rows), sorted(rows)[1:], strict=False))


@pytest.mark.parametrize("text", ["", "8,", "0", "-1", "eight", "8;16", "²"])
def test_a_k_that_is_no_number_is_refused(refused, recording: Path, text: str) -> None:
    assert "--k: expected positive integers with commas" in refused("tones", "people_count", recording, f"--k={text}")


def test_what_cannot_be_done_is_refused_in_one_line(refused, recording: Path, tmp_path: Path) -> None:
    beyond = refused("tones", "people_count", recording, "--k", "60")
    assert beyond == "tonescope: k: expected from 1 to 52, the tones that carry signal, got 60"
    assert "method" in refused("tones", "people_count", recording, "--method", "nothing")
    assert "parameter" in refused("tones", "people_count", recording, "-p", "size=3")
    array = tmp_path / "x.npy"
    np.save(array, np.zeros((9, 64, 20), np.float32))
    assert "--hop" in refused("tones", "people_count", array, "--hop", "3")
    assert "tones that vary" in refused("tones", "people_count", array, "--allow-faults")
    (tmp_path / "taken").write_text("")
    assert "cannot be written" in refused("tones", "people_count", recording, "--out", tmp_path / "taken", *QUICK)


@pytest.fixture(scope="session")
def demo_model():
    from tonescope_server import Explainer
    from tonescope_server.demo import store_path

    return Explainer.load("people_count", store=store_path())


@pytest.fixture
def scrambled(recording: Path, tmp_path: Path) -> Path:
    """Windows of the demo's recording, written frame by frame and labelled as tones by frames."""
    explainer = Explainer.load(store_path() / "people_count" / "1")
    windows = cut_windows(read_dataset(recording, explainer), explainer, "").raw
    path = tmp_path / "scrambled.npy"
    np.save(path, windows.transpose(0, 2, 1).reshape(windows.shape))
    return path


def test_data_at_fault_is_named_and_nothing_is_written(run, scrambled, tmp_path) -> None:
    folder = tmp_path / "none"
    ran = run("tones", "people_count", scrambled, "--out", folder, *QUICK)
    assert ran.code == 4
    assert "FRAME_MAJOR" in ran.err
    assert "nothing was chosen or written: scrambled.npy is at fault" in ran.err
    assert not folder.exists()


def test_faults_that_are_allowed_stand_in_the_report(run, scrambled, tmp_path) -> None:
    folder = tmp_path / "some"
    ran = run("tones", "people_count", scrambled, "--out", folder, "--allow-faults", *QUICK)
    assert ran.code == 0, ran.err
    assert "FRAME_MAJOR" in ran.err
    findings = json.loads((folder / "tones.json").read_text())["findings"]
    assert "FRAME_MAJOR" in [finding["code"] for finding in findings]


def test_a_sound_recording_has_an_empty_section_of_findings(chosen) -> None:
    _, folder = chosen
    assert json.loads((folder / "tones.json").read_text())["findings"] == []
