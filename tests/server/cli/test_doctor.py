"""``doctor``: a verdict to act on, an exit code for scripts, JSON with everything, and pictures that show it."""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.examined import dataset_of
from tests.faults import FAULTS, FRAMES, N_TONES, VARIANTS, declared_by
from tonescope_server import Explainer
from tonescope_server.checks.layout import Reading
from tonescope_server.cli.doctor import show
from tonescope_server.cli.doctor_page import ALIVE, DEAD, NULL, NULL_ALIVE, figures_of, signature_map
from tonescope_server.demo import store_path
from tonescope_server.reports.dataset import read_dataset
from tonescope_server.reports.doctor import examine

MODEL = store_path() / "people_count" / "1"


@pytest.fixture
def scrambled(tmp_path: Path) -> Path:
    """Windows of the simulator, frame by frame under the label (tones, frames)."""
    demo = Explainer.load(MODEL).model.manifest.normalisation
    stream = FAULTS["FRAME_MAJOR"](3, declared_by(np.array(demo.mean), np.array(demo.std)))
    np.save(tmp_path / "scrambled.npy", stream.windows)
    return tmp_path / "scrambled.npy"


@pytest.fixture
def guessed(tmp_path: Path) -> Path:
    """The bundled weights under a manifest that declares another layout."""
    (tmp_path / "people_count.safetensors").write_bytes((MODEL / "people_count.safetensors").read_bytes())
    text = (MODEL / "model.toml").read_text().replace('"esp_lltf"', '"esp_c6_64"')
    (tmp_path / "model.toml").write_text(text)
    return tmp_path / "model.toml"


# -- what is printed -----------------------------------------------------------------------------------------------


def test_a_recording_and_a_model_that_agree_are_told_so_in_one_line_and_by_exit_code_0(run, recording: Path) -> None:
    ran = run("doctor", "people_count", recording)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("people_count on recording.csi.jsonl (recording: 720 frames, 70 windows, ")
    assert ran.out.splitlines()[-1] == "recording.csi.jsonl: nothing wrong was found"
    assert "FAULT" not in ran.out


def test_a_fault_is_told_with_how_it_was_seen_and_what_to_change_and_by_exit_code_4(run, scrambled: Path) -> None:
    ran = run("doctor", "people_count", scrambled)
    assert ran.code == 4
    lines = ran.out.splitlines()
    first = lines.index("1. FAULT FRAME_MAJOR (data)")
    assert "repeat every 64 cells" in lines[first + 1]
    assert lines[first + 1].startswith("   seen:   ")
    assert lines[first + 2].startswith("   change: lay the windows out as the model takes them (numpy: ")
    assert lines[-1] == "scrambled.npy: 1 fault; change what is said above and run this again"


def test_the_lines_of_the_manifest_are_shown_exactly_and_once(run, guessed: Path, recording: Path) -> None:
    ran = run("doctor", guessed.parent, recording)
    assert ran.code == 4
    assert ran.out.count('   model.toml:\n       [tones]\n       layout = "esp_lltf"\n') == 1


def test_warnings_alone_are_exit_code_3(run, tmp_path: Path, recording: Path, guessed: Path) -> None:
    text = guessed.read_text().replace('"esp_c6_64"', '"esp_lltf"').replace("rate_hz = 20.0", "rate_hz = 50.0")
    guessed.write_text(text)
    ran = run("doctor", tmp_path, recording)
    assert ran.code == 3
    assert ran.out.splitlines()[-1] == "recording.csi.jsonl: 2 warnings; see above"
    assert "RATE_MISMATCH (data, node 1)" in ran.out


def test_every_reading_that_was_tried_is_in_the_table(run, scrambled: Path) -> None:
    rows = [line.split() for line in run("doctor", "people_count", scrambled).out.splitlines()]
    table = {tuple(row[:2]): row for row in rows if row[:1] in (["tone_frame"], ["frame_tone"])}
    fitting = table["frame_tone", "esp_lltf"]
    assert fitting[2] == "none"
    assert fitting[-1] == "18.8%"
    assert int(table["tone_frame", "esp_lltf,"][3]) > 100  # its layout reads "esp_lltf, declared"
    assert "esp_lltf_secondary" in {row[1] for row in table.values()}


def test_guesses_are_listed_together(run, shared: Path, tmp_path: Path) -> None:
    folder = shared / "real/ruview"
    ran = run("doctor", folder / "count_v1.safetensors", folder / "rec_1772470567081-20260302_165607.csi.jsonl")
    assert ran.code == 3
    assert "NOTE the manifest leaves this to guesses:\n  input.cell_order is taken to be" in ran.out
    assert ran.out.count("MANIFEST_GUESSED") == 0


@pytest.mark.parametrize("name", ["rec_1772470567081-20260302_165607", "pretrain-1775182186"])
def test_the_public_recordings_have_no_fault_and_the_public_models_weights_are_told(run, shared, name: str) -> None:
    folder = shared / "real/ruview"
    ran = run("doctor", folder / "count_v1.safetensors", folder / f"{name}.csi.jsonl", "--normalise", "recording")
    assert ran.code == 3
    assert "FAULT" not in ran.out
    assert "WARNING NULL_ROWS_TRAINED (weights)" in ran.out


# -- files ---------------------------------------------------------------------------------------------------------


def test_the_json_has_everything(run, scrambled: Path) -> None:
    ran = run("doctor", "people_count", scrambled, "--json", "-")
    assert ran.code == ran.json["exit_code"] == 4
    got = ran.json
    assert got["worst"] == "fault"
    # This model weighs nothing on the rows that it calls null, whatever lies there: hence no null-tone share.
    assert [each["code"] for each in got["findings"]] == ["FRAME_MAJOR"]
    assert got["findings"][0] | {"message": "", "remedy": ""} == {
        "area": "data",
        "code": "FRAME_MAJOR",
        "severity": "fault",
        "message": "",
        "remedy": "",
        "manifest": "",
        "figures": {},
        "node_id": None,
    }
    best = [each for each in got["readings"] if each["is_best"]]
    assert [(each["cell_order"], each["layout"], each["fits_zeros"]) for each in best] == [
        ("frame_tone", "esp_lltf", True)
    ]
    assert [each["row"] for each in got["tones"]] == list(range(64))
    assert got["tones"][63] | {"mean_abs_attribution": 0} == {
        "row": 63,
        "subcarrier_index": -1,
        "offset_hz": -312500.0,
        "frequency_mhz": 2436.6875,
        "kind": "data",
        "training_field": "lltf",
        "mean_abs_attribution": 0,
    }
    assert sum(got["predictions"]["classes"].values()) == got["data"]["windows"] == len(np.load(scrambled))
    assert len(got["weights"]["rms"]) == 64


def test_the_tones_of_the_json_are_those_of_the_explainer(run, recording: Path) -> None:
    got = run("doctor", "people_count", recording, "--json", "-").json
    explainer = Explainer.load(MODEL)
    data = read_dataset(recording, explainer)
    made = examine(explainer, data).trial.now
    cells = np.abs(explainer.explain(made.windows.cells).cells)
    expected = explainer.model.cells.fold(cells).mean(axis=0)
    # The same products, summed in another order in float32 and in float64.
    np.testing.assert_allclose([each["mean_abs_attribution"] for each in got["tones"]], expected, rtol=1e-4, atol=1e-7)


def test_the_page_needs_no_other_file_and_shows_three_pictures(run, scrambled: Path, tmp_path: Path) -> None:
    ran = run("doctor", "people_count", scrambled, "--html", tmp_path / "deep" / "page.html")
    assert ran.code == 4
    page = (tmp_path / "deep" / "page.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "FRAME_MAJOR" in page
    assert "1 fault; change what is said above" in page
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(BytesIO(base64.b64decode(picture))) as image:
            assert image.width == 1500


def test_what_a_file_is_called_cannot_become_part_of_the_page(run, scrambled: Path, tmp_path: Path) -> None:
    named = scrambled.rename(tmp_path / "<script>alert(1)<.npy")
    run("doctor", "people_count", named, "--html", tmp_path / "page.html")
    assert "<script>" not in (tmp_path / "page.html").read_text()


def test_the_picture_has_all_in_one(run, recording: Path, scrambled: Path, tmp_path: Path) -> None:
    for name, file, height in (("sound", recording, 1665), ("scrambled", scrambled, 2775)):
        run("doctor", "people_count", file, "--png", tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == (1500, height)


def test_the_zero_signature_says_of_each_cell_what_it_should_be_and_what_it_is() -> None:
    reading = Reading("tone_frame", "esp_lltf", N_TONES, FRAMES)
    raw = np.random.default_rng(0).uniform(1, 2, (10, N_TONES, FRAMES)).astype(np.float32)
    raw[:, 0] = 0  # a null
    raw[:, 5, 3] = 0  # a cell of a tone that carries signal
    state = signature_map(raw.reshape(10, -1), reading)
    assert state.shape == (FRAMES, N_TONES)
    assert (state[:, 0] == NULL).all()
    assert (state[:, 27:38] == NULL_ALIVE).all()
    assert (state[3, 5], state[4, 5], state[3, 6]) == (DEAD, ALIVE, ALIVE)


def test_the_pictures_say_which_reading_they_show(scrambled: Path) -> None:
    explainer = Explainer.load(MODEL)
    drawn = figures_of(examine(explainer, read_dataset(scrambled, explainer)))
    texts = [" ".join(text.get_text() for text in figure.texts) for _, figure in drawn]
    assert 'order "tone_frame"' in texts[0]
    assert 'order "frame_tone"' in texts[1]
    titles = [axes.get_title(loc="left") for axes in drawn[2][1].axes]
    assert titles == [
        'as declared: order "tone_frame", layout "esp_lltf"',
        'as it fits: order "frame_tone", layout "esp_lltf"',
    ]


# -- what is refused -----------------------------------------------------------------------------------------------


def test_too_few_frames_are_a_verdict_and_not_health(run, recording: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.csi.jsonl"
    short.write_text("".join(recording.read_text().splitlines(keepends=True)[:30]))
    ran = run("doctor", "people_count", short, "--html", tmp_path / "page.html")
    assert ran.code == 4
    assert "FAULT NO_WINDOWS (data)" in ran.out
    assert "30 frames make not one window of 20 frames" in ran.out
    assert "NO_WINDOWS" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("people_count", "nothing.jsonl"), "recording 'nothing.jsonl': cannot be read"),
        (("nobody", "{recording}"), "nobody"),
        (("people_count", "{recording}", "--normalise", "tea"), "normalisation 'tea': unknown, expected one of"),
        (("people_count", "{recording}", "--format", "tea"), "format 'tea': unknown"),
        (("people_count", "{scrambled}", "--hop", "3"), "--hop: expected only with a recording, got the array"),
        (("people_count", "{recording}", "--png", "{tmp}/x.jpg"), "--png: expected a .png file, got "),
        (("people_count", "{recording}", "--json", "{scrambled}/x.json"), "x.json: cannot be written"),
        (("people_count", "{recording}", "--html", "{scrambled}/x.html"), "x.html: cannot be written"),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_command_is_one_line_and_exit_code_1(
    refused, recording, scrambled, tmp_path, arguments, said
) -> None:
    files = {"recording": recording, "scrambled": scrambled, "tmp": tmp_path}
    assert said in refused("doctor", *(each.format(**files) for each in arguments))


def test_a_picture_of_nothing_is_refused(refused, recording: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.csi.jsonl"
    short.write_text("".join(recording.read_text().splitlines(keepends=True)[:30]))
    assert "nothing to draw" in refused("doctor", "people_count", short, "--png", tmp_path / "x.png")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("people_count",), "doctor: RECORDING: expected a value, got none"),
        (("people_count", "a", "b"), "doctor: expected no further argument, got 'b'"),
        (("people_count", "a", "--hop", "-1"), "doctor: --hop: expected at least 0, got '-1'"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments, said: str) -> None:
    ran = run("doctor", *arguments)
    assert (ran.code, ran.err) == (2, f"tonescope {said}\n")


def test_the_help_documents_the_exit_codes(run) -> None:
    assert "Exit codes: 0 nothing wrong, 3 warnings, 4 faults; 1 an error, 2 wrong usage." in run("doctor", "-h").out


def test_a_paired_file_is_examined_as_it_lies(run, shared: Path, tmp_path: Path) -> None:
    lines = (shared / "real/ruview/rec_1772470567081-20260302_165607.csi.jsonl").read_text().splitlines()
    frames = np.array([record["subcarriers"] for record in map(json.loads, lines) if "subcarriers" in record])
    flat = [frames[start : start + 20].ravel().tolist() for start in range(0, len(frames) - 19, 10)]
    paired = tmp_path / "paired.jsonl"
    paired.write_text("".join(json.dumps({"csi": each, "csi_shape": [56, 20]}) + "\n" for each in flat))
    ran = run("doctor", shared / "real/ruview/count_v1.safetensors", paired, "--normalise", "recording")
    assert ran.code == 4
    assert "1. FAULT FRAME_MAJOR (data)" in ran.out
    assert "NULL_TONE_SHARE" not in ran.out
    assert "which the zeros fit, 30.4% lies on tones that in truth carry none" in ran.out
    assert '   model.toml:\n       [input]\n       cell_order = "frame_tone"\n' in ran.out
    assert "on paired.jsonl (paired file: 24 windows, normalisation recording)" in ran.out


def test_the_table_has_all_its_columns_in_a_terminal_of_eighty(monkeypatch, capsys, tmp_path: Path) -> None:
    demo = Explainer.load(MODEL).model.manifest.normalisation
    stream = VARIANTS["LAYOUT_MISMATCH"]["another layout"](0, declared_by(np.array(demo.mean), np.array(demo.std)))
    explainer = Explainer.load(MODEL)
    monkeypatch.setattr("tonescope_server.cli.doctor.out", Console(width=80))
    show(examine(explainer, dataset_of(stream)))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("tone_frame", "frame_tone"))]
    assert rows
    assert all(line.rstrip().endswith("%") and line.count("%") >= 3 and len(line) <= 80 for line in rows)
    assert any("esp_lltf_secondary" in line for line in rows)


def test_where_not_all_could_be_checked_the_verdict_says_so(run, recording: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.csi.jsonl"
    short.write_text("".join(recording.read_text().splitlines(keepends=True)[:120]))
    ran = run("doctor", "people_count", short)
    assert ran.code == 3
    assert "WARNING NOT_CHECKED" in ran.out
    part = tmp_path / "part.csi.jsonl"
    part.write_text("".join(recording.read_text().splitlines(keepends=True)[:300]))
    ran = run("doctor", "people_count", part)
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "part.csi.jsonl: nothing wrong was found in what could be checked"
