"""``compare``: several methods on one window, in a table, JSON, a picture and a page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tonescope_server.cli.compare import agreement_of


def test_methods_are_listed_with_how_far_they_agree_and_drawn(run, recording: Path, tmp_path: Path) -> None:
    png, html = tmp_path / "c.png", tmp_path / "c.html"
    ran = run("compare", recording, "--methods", "lrp,saliency", "--window", "1", "--png", png, "--html", html)
    assert ran.code == 0, ran.err
    assert "rank correlation with lrp" in " ".join(ran.out.split())
    with Image.open(png) as picture:
        assert picture.format == "PNG"
    page = html.read_text()
    assert re.findall(r"<h2>(.+?)</h2>", page) == [
        "All methods, each on its own scale",
        "lrp: The attribution of every tone and frame, over the window",
        "saliency: The attribution of every tone and frame, over the window",
    ]


def test_json_has_every_explanation_and_the_rank_correlations(run, recording: Path) -> None:
    report = run("compare", recording, "--methods", "saliency,lrp", "--json", "-").json
    assert [each["method"] for each in report["explanations"]] == ["saliency", "lrp"]
    matrix = np.array(report["rank_correlation"]["matrix"])
    np.testing.assert_allclose(np.diag(matrix), 1, rtol=1e-6)
    assert abs(matrix[0, 1]) < 1
    assert matrix[0, 1] == pytest.approx(matrix[1, 0])


def test_agreement_is_that_of_the_ranks_of_magnitudes() -> None:
    first = np.array([1.0, -2, 3, 4])
    assert agreement_of([first, -np.exp(first**2), first[::-1], np.ones(4)])[0] == pytest.approx(
        [1, 1, -1, np.nan], nan_ok=True
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "lrp,lrp"), "--methods: expected different names"),
        (("--methods", ","), "--methods: expected different names"),
        (("--methods", "nonsense"), "nonsense"),
        (("--window", "999"), "--window: expected at most"),
        (("--png", "a.txt"), "--png: expected a .png file"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(run, recording: Path, arguments, said: str) -> None:
    ran = run("compare", recording, *arguments)
    assert ran.code == 1
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
