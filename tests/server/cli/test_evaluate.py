"""``evaluate``: a table, JSON and pictures that say the same; refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tonescope_server.demo import PLANTED_ROWS

QUICK = ("--max-samples", 4, "--random", 3)
FEW = ("--methods", "input_x_gradient,occlusion", "--metrics", "deletion,relevance_mass,parameter_randomisation")


@pytest.fixture(scope="module")
def judge(recording):
    return ("evaluate", "people_count", recording, *QUICK)


def test_the_table_has_each_metric_of_each_method_beside_that_of_random_ones(run, judge, tmp_path: Path) -> None:
    path = tmp_path / "judged.json"
    ran = run(*judge, *FEW, "--planted", "demo", "--json", path)
    assert ran.code == 0, ran.err
    first, _, _, names, *rows = ran.out.splitlines()
    assert first == (
        "people_count on recording.csi.jsonl: 2 methods judged on 4 windows, over 52 tones that carry signal"
    )
    assert names.split() == ["metric", "input_x_gradient", "occlusion"]
    assert [row.split()[0] for row in rows if row] == ["deletion", "relevance_mass", "parameter_randomisation"]
    found = json.loads(path.read_text())
    mass = [method["metrics"]["relevance_mass"] for method in found["methods"]]
    for each in mass:
        assert f"{each['mean']:.3g}" in rows[1]
        assert f"({each['random']['mean']:.3g} ± {each['random']['spread']:.2g})" in rows[1]
    assert rows[1].split()[1] == "↑"
    assert rows[0].split()[1] == "↓"


def test_the_json_holds_values_draws_curves_and_what_reproduces_them(run, judge) -> None:
    ran = run(*judge, *FEW, "--planted", "demo", "--json", "-", "-p", "deletion.max_steps=4")
    found = ran.json
    assert (found["windows"], found["features"], found["over"], found["random_draws"]) == (4, 52, "tones", 3)
    assert found["planted_rows"] == list(PLANTED_ROWS)
    first = found["methods"][0]
    assert first["method"] == "input_x_gradient"
    deletion = first["metrics"]["deletion"]
    assert deletion["parameters"]["max_steps"] == 4
    assert deletion["mean"] == pytest.approx(np.mean(deletion["values"]))
    assert len(deletion["values"]) == 4
    assert len(deletion["random"]["draws"]) == 3
    curve = deletion["curves"]["most relevant first"]
    assert curve["at"] == [0, 0.25, 0.5, 0.75, 1]
    assert deletion["mean"] == pytest.approx(np.trapezoid(curve["mean"], curve["at"]))
    steps = first["metrics"]["parameter_randomisation"]["curves"]["similarity"]
    assert steps["at"] is None
    assert steps["steps"][0] == "Conv_c1"
    assert len(steps["mean"]) == len(steps["steps"])


def test_pictures_are_written_the_page_names_what_could_not_be_judged(run, judge, tmp_path: Path) -> None:
    png, page = tmp_path / "judged.png", tmp_path / "judged.html"
    ran = run(
        *judge, "--methods", "saliency,attention", "--metrics", "deletion,sparseness", "--png", png, "--html", page
    )
    assert ran.code == 0, ran.err
    assert "attention was not judged: method 'attention': no attention was found" in ran.err
    for path in (png, tmp_path / "judged-curves.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[1] == 1800
        assert np.ptp(pixels) == 255
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "attention was not judged" in text


def test_all_methods_that_can_are_judged_and_a_narrow_terminal_shows_them_one_below_the_other(
    run, judge, monkeypatch
) -> None:
    from tonescope_server.cli import console

    monkeypatch.setattr(console.out, "_width", 60)
    ran = run(*judge, "--methods", "saliency,lrp,occlusion", "--metrics", "sparseness")
    rows = [line.split()[:2] for line in ran.out.splitlines() if line.startswith(("metric", "sparseness"))]
    assert rows == [["metric", "saliency"], ["sparseness", "↑"], ["metric", "lrp"], ["sparseness", "↑"],
                    ["metric", "occlusion"], ["sparseness", "↑"]]  # fmt: skip


def test_windows_of_an_array_are_judged_as_they_are(run, tiny_store: Path, windows: Path) -> None:
    ran = run("evaluate", "tiny", windows, "--store", tiny_store, *QUICK, "--methods", "saliency", "--over", "cells",
              "--metrics", "insertion")  # fmt: skip
    assert ran.code == 0, ran.err
    # Of 56 tones 12 are null in this layout: what is left, times 4 frames.
    assert ran.out.startswith("tiny on windows.npy: 1 method judged on 4 windows, over 176 cells that carry signal")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "salience"), "no method named 'salience'; there are "),
        (("--methods", "saliency,,lrp"), "--methods: expected names with commas, got 'saliency,,lrp'"),
        (("--metrics", "gini"), "no metric named 'gini'; there are completeness, "),
        (("--metrics", "relevance_mass"), "metric 'relevance_mass': expected to be told which tones are planted, got"),
        (("--planted", "3,x"), "--planted: expected rows with commas, as in 3,9,12, or 'demo', got '3,x'"),
        (("--planted", "0"), "--planted: expected rows of tones that carry signal, got 0"),
        (("-p", "max_steps=3"), "--param 'max_steps=3': expected NAME.PARAMETER=VALUE"),
        (("-p", "deletion.steps=3"), "metric 'deletion', parameter 'steps': Extra inputs are not permitted"),
        (("-p", "lrp.gamma=1"), "parameters of 'lrp': expected of a method or a metric that is asked for"),
        (("--methods", "attention"), "model 'people_count': nothing to judge (attention: "),
        (("--png", "x.pdf"), "--png: expected a .png file, got 'x.pdf'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(refused, judge, arguments, said) -> None:
    assert refused(*judge, *arguments).startswith(f"tonescope: {said}")
