"""Curves of insertion and deletion."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.pictures.curves import RANDOM, Curve, curves_figure

AT = np.linspace(0, 1, 5)


def test_each_panel_has_its_curves_with_their_areas_and_the_control_in_grey() -> None:
    falling = np.linspace(1, 0, 5)
    curves = [
        Curve("lrp", AT, np.stack([falling, falling - 0.2, falling + 0.2]), area=0.5),
        Curve("random order", AT, falling, is_control=True),
    ]
    figure = curves_figure("t", "s", [("part deleted", curves), ("part inserted", curves[:1])], unit="logit")
    figure.canvas.draw()
    first, second = figure.axes
    assert (first.get_xlabel(), second.get_xlabel(), first.get_ylabel()) == ("part deleted", "part inserted", "logit")
    said = [text.get_text() for text in first.get_legend().get_texts()]
    assert said == ["lrp (area 0.5)", "random order"]
    assert first.get_legend().get_title().get_text() == "bands: ± standard error"
    np.testing.assert_allclose(first.lines[0].get_ydata(), falling)
    assert first.lines[1].get_color() == RANDOM
    band = first.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(1 + 0.2 / np.sqrt(3))  # of 1, 0.8 and 1.2: s = 0.2
