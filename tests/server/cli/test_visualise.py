"""``visualise``: what maximises a class or a channel, in a table, JSON and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def test_a_class_is_climbed_to_with_a_recording_as_reference(run, recording: Path, tmp_path: Path) -> None:
    png, json = tmp_path / "v.png", tmp_path / "v.json"
    asked = ("--class", "one person", "--reference", recording, "--steps", "16", "--seeds", "2")
    ran = run("visualise", "people_count", *asked, "--png", png, "--json", json)
    assert ran.code == 0, ran.err
    assert "what maximises 'one person'" in ran.out
    assert "correlation between seeds: " in ran.out
    with Image.open(png) as picture:
        assert picture.format == "PNG"
    report = run("visualise", "people_count", *asked, "--json", "-").json
    assert np.array(report["windows"]).shape == (2, 64, 20)
    assert report["parameters"]["is_whitened"] is True
    assert min(report["gain"]) > 0


def test_a_channel_is_said_by_its_layer(run) -> None:
    layer = next(each["name"] for each in run("inspect", "people_count", "--json").json["layers"])
    report = run("visualise", "--layer", layer, "--channel", "1", "--steps", "2", "--json", "-").json
    assert report["objective"] == f"channel 1 of layer '{layer}'"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected a target or a layer, got neither"),
        (("--class", "1", "--channel", "2"), "--channel: expected only with --layer"),
        (("--class", "1", "--normalise", "none"), "--normalise: expected only with --reference"),
        (("--layer", "nonsense"), "nonsense"),
        (("--class", "nobody at all"), "has no class 'nobody at all'"),
        (("--layer", "x", "--unit", "a,b"), "--unit: expected integers"),
        (("--class", "1", "--png", "a.txt"), "--png: expected a .png file"),
    ],
)
def test_what_cannot_be_climbed_is_told_in_one_line(run, arguments, said: str) -> None:
    ran = run("visualise", "people_count", *arguments)
    assert ran.code == 1
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
