"""``explain``: files in, results out, the same here and at a daemon."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tonescope_server import Explainer
from tonescope_server.cli.demo import own_daemon


def test_the_json_holds_what_the_explainer_gives(run, tiny_store: Path, windows: Path) -> None:
    ran = run("explain", windows, "-m", "tiny", "--store", tiny_store, "--target", "two", "--json", "-")
    expected = Explainer.load("tiny", store=tiny_store).explain(np.load(windows), target="two")
    got = ran.json["explanations"]
    assert np.array([each["tones"] for each in got], dtype=np.float32).tobytes() == expected.tones.tobytes()
    assert [each["window_index"] for each in got] == list(range(5))
    assert got[0]["tone_table"]["tones"][1]["subcarrier_index"] == 1
    assert got[0]["problem"] is None


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
def test_a_recording_is_explained_here_bit_for_bit_as_by_a_daemon(
    run, recording: Path, address: str, method: str
) -> None:
    here = run("explain", recording, "--method", method, "--json", "-").json["explanations"]
    there = run("explain", recording, "--method", method, "--json", "-", "--server", address).json["explanations"]
    assert len(here) == len(there) == 70
    for each in (*here, *there):
        for varies in ("queue_ms", "compute_ms", "running"):
            del each[varies]
    assert here == there


def test_windows_are_explained_here_bit_for_bit_as_by_a_daemon(run, address: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", windows=np.random.default_rng(1).standard_normal((3, 64, 20)))
    asked = ("explain", tmp_path / "w.npz", "-m", "people_count", "-p", "n_steps=8", "--method", "integrated_gradients")
    here, there = (run(*asked, "--json", "-", *at).json["explanations"] for at in ((), ("--server", address)))
    assert [each["tones"] for each in here] == [each["tones"] for each in there]
    assert here[0]["parameters"]["n_steps"] == there[0]["parameters"]["n_steps"] == 8


@pytest.mark.parametrize("normalise", ["none", "manifest", "running"])
def test_windows_are_normalised_here_as_by_a_daemon(run, address: str, tmp_path: Path, normalise: str) -> None:
    np.save(tmp_path / "w.npy", np.random.default_rng(1).random((3, 64, 20)) + 1)
    asked = ("explain", tmp_path / "w.npy", "--normalise", normalise, "--json", "-")
    here, there = (run(*asked, *at).json["explanations"] for at in ((), ("--server", address)))
    assert [each["tones"] for each in here] == [each["tones"] for each in there]
    assert [each["normalisation"] for each in here] == [each["normalisation"] for each in there] == [normalise] * 3


def test_a_recordings_own_statistics_are_used_here_and_by_a_daemon(run, recording: Path, address: str) -> None:
    asked = ("explain", recording, "--normalise", "recording", "--json", "-")
    here, there = (run(*asked, *at).json["explanations"] for at in ((), ("--server", address)))
    assert [each["tones"] for each in here] == [each["tones"] for each in there]
    assert {each["normalisation"] for each in here} == {"recording"}


def test_a_version_is_asked_for_here_and_of_a_daemon(run, refused, recording: Path, address: str) -> None:
    for where in ((), ("--server", address)):
        ran = run("explain", recording, "-m", "people_count/1", "--json", "-", *where)
        assert len(ran.json["explanations"]) == 70
        assert 'no version "9"' in refused("explain", recording, "-m", "people_count/9", *where)


def test_as_many_tones_are_listed_as_were_asked_for(run, tiny_store: Path, windows: Path) -> None:
    for top in (3, 11):
        ran = run("explain", windows, "-m", "tiny", "--store", tiny_store, "--top", top)
        first, strongest, *listed = ran.out.splitlines()[1], *ran.out.splitlines()[-top - 2 :]
        assert len(first.split("%")[-1].removeprefix(" ALARM").split()) == top
        assert strongest.count(",") == top - 1
        assert [line.split()[1] for line in listed[1:]] == strongest.rpartition(": ")[2].split(", ")


def test_the_table_names_tones_by_their_index(run, recording: Path) -> None:
    ran = run("explain", recording)
    assert ran.code == 0
    assert "empty 98%" in ran.out
    assert "… and 50 more" in ran.out
    assert "strongest by mean |attribution| over 70 windows: -24" in ran.out


def test_a_picture_is_drawn_with_and_without_a_waterfall(run, recording: Path, address: str, tmp_path: Path) -> None:
    for name, more in {"here": (), "there": ("--server", address)}.items():
        ran = run("explain", recording, "--png", tmp_path / f"{name}.png", "--json", tmp_path / "all.json", *more)
        assert ran.code == 0, ran.err
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (1500, 1080)
    assert len(json.loads((tmp_path / "all.json").read_text())["explanations"]) == 70


@pytest.mark.parametrize(
    ("target", "understood"),
    [
        ("1", {"index": 1}),
        ("predicted", {}),
        ("loss", {"negative_log_likelihood"}),
        ("log-probability:2", {"log_probability"}),
        ("mean:0,2", {"mean"}),
        ("difference:2,0", {"difference"}),
    ],
)
def test_every_way_to_write_a_target_is_understood(run, tiny_store, windows, target, understood) -> None:
    ran = run("explain", windows, "-m", "tiny", "--store", tiny_store, "--target", target, "--json", "-")
    assert ran.code == 0, ran.err
    assert set(understood) <= set(ran.json["explanations"][0]["target"])


def test_what_is_guessed_of_a_model_and_skipped_of_a_recording_is_told_here_as_by_a_daemon(
    run, tiny_store: Path, tmp_path: Path, write_jsonl
) -> None:
    (tmp_path / "store").mkdir()
    bare = shutil.copy(tiny_store / "tiny" / "model.onnx", tmp_path / "store" / "bare.onnx")
    random = np.random.default_rng(3)
    records = [{"sequence": i, "subcarriers": (random.random(56) + 1).tolist()} for i in range(12)]
    records[5]["subcarriers"] = [1.0] * 30
    path = write_jsonl([*records, {"type": "vitals"}])
    with own_daemon(tmp_path / "store") as address:
        asked = ("explain", path, "--json", "-", "-m")
        here, there = run(*asked, bare), run(*asked, "bare", "--server", address)
        array = tmp_path / "windows.npy"
        np.save(array, np.ones((1, 56, 4)))
        plain = run("explain", array, "--json", "-", "-m", "bare", "--server", address)
    for ran in (here, there, plain):
        assert ran.code == 0, ran.err
        assert [text for text in ran.json["model_warnings"] if text.startswith("input.cell_order is taken to be")]
        assert "warning: input.cell_order is taken to be" in ran.err
    assert "recording" not in plain.json
    sent = {"here": None, "there": 12}
    for name, ran in {"here": here, "there": there}.items():
        assert ran.json["recording"] == {
            "frames": 12,
            "frames_sent": sent[name],
            "frames_used": 11,
            "frames_skipped": {"length_30": 1},
            "records_skipped": {"vitals": 1},
            "windows": here.json["recording"]["windows"],
            "gaps": 0,
        }
        assert "11 of 12 frames used (skipped: 1 length_30)" in ran.err


def test_parameters_named_like_options_reach_the_method_of_a_daemon(refused, windows: Path, address: str) -> None:
    line = refused("explain", windows, "-m", "people_count", "--server", address, "-p", "top_k=3")
    assert "has no parameter 'top_k'" in line


@pytest.mark.parametrize("value", ["NaN", "[[NaN]]", "Infinity", "1e999"])
def test_a_parameter_that_is_no_finite_number_is_refused_here_and_before_a_daemon(
    refused, recording: Path, address: str, value: str
) -> None:
    for where in ((), ("--server", address)):
        line = refused("explain", recording, "--method", "integrated_gradients", "-p", f"baseline={value}", *where)
        assert "'baseline'" in line
        assert "finite" in line


def test_a_page_shows_every_picture_of_a_window_and_png_the_one_asked_for(run, recording: Path, tmp_path: Path) -> None:
    page, png = tmp_path / "w.html", tmp_path / "w.png"
    ran = run("explain", recording, "--method", "grad_cam", "--html", page, "--png", png, "--picture", "maps")
    assert ran.code == 0, ran.err
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "What else the method has to show" in text
    assert "its map tells frames apart" in text
    assert png.exists()


def test_pictures_that_there_are_not_are_refused(run, recording: Path, tmp_path: Path) -> None:
    ran = run("explain", recording, "--png", tmp_path / "w.png", "--picture", "image")
    assert ran.err.splitlines()[-1].endswith("expected one of map, band, got 'image'")
    assert run("explain", recording, "--picture", "map").err.startswith(
        "tonescope: --picture: expected only with --png"
    )
    assert run("explain", recording, "--window", "1").err.startswith("tonescope: --window: expected only with --png or")
