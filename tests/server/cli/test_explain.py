"""``explain``: files in, results out, the same here and at a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tonescope_server import Explainer


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
