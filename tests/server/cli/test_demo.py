"""The demo, whole: its own daemon, the live stream, the files, the verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tonescope_server.cli.demo import own_daemon
from tonescope_server.errors import ConfigurationError


def test_the_demo_finds_the_planted_tones_and_says_so(run, tmp_path: Path) -> None:
    ran = run("demo", "--out", tmp_path, "--speed", 12)
    assert ran.code == 0, ran.err
    share, chance = re.search(r"(\d+)% of the attribution .*\n?.*would put (\d+)% there", ran.out).groups()  # type: ignore[union-attr]
    assert int(share) >= 70
    assert int(chance) == 23
    hits = re.search(r"(\d) of the top 8 tones are planted", ran.out)
    assert hits is not None
    assert int(hits[1]) >= 0.8 * 8
    said = re.search(r"720 frames sent, (\d+) windows explained, (\d+) dropped", ran.out)
    assert said is not None
    report = json.loads((tmp_path / "saliency.json").read_text())
    assert report["n_samples"] == int(said[1]) == 70 - int(said[2])
    with Image.open(tmp_path / "attribution.png") as picture:
        assert picture.size == (1500, 660)


def test_a_daemon_that_cannot_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did not start"), own_daemon(tmp_path / "nowhere"):
        pass
