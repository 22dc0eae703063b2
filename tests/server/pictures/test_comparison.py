"""Methods side by side: each with its own scale and its name."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.cells import CellMap, cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.errors import ParameterError
from tonescope_server.pictures.answer import Answer
from tonescope_server.pictures.comparison import comparison_figure

RANDOM = np.random.default_rng(5)
SPECTRUM = cell_map((64, 4), tone_table("esp_lltf"), "tone_frame", 4)
IMAGE = cell_map((1, 6, 8), tone_table("unknown_6"), "tone_frame", 8)


def answer(method: str, layout: CellMap, scale: float, with_cells: bool = True) -> Answer:
    cells = scale * RANDOM.standard_normal(layout.shape)
    tones = layout.fold(cells[None])[0]
    window = RANDOM.standard_normal(layout.shape)
    return Answer("t", "s", method, layout.table, layout, tones, cells=cells if with_cells else None, window=window)


def test_each_method_has_a_row_with_its_name_and_its_own_scales() -> None:
    answers = [answer("one", SPECTRUM, 1.0), answer("two", SPECTRUM, 100.0), answer("three", SPECTRUM, 1.0, False)]
    figure = comparison_figure(answers, "t", "s")
    figure.canvas.draw()
    bands = [axes for axes in figure.axes if axes.get_ylabel().endswith("\nattribution")]
    assert [axes.get_ylabel() for axes in bands] == [f"{name}\nattribution" for name in ("one", "two", "three")]
    assert bands[1].get_ylim()[1] > 20 * bands[0].get_ylim()[1]
    maps = [axes for axes in figure.axes if axes.get_ylabel() == "frame"]
    limits = [axes.collections[-1].get_clim()[1] for axes in maps]
    assert limits[1] > 20 * limits[0]
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["per tone only"]


def test_images_stand_beside_their_input() -> None:
    answers = [answer(f"method {i}", IMAGE, 1.0) for i in range(5)]
    figure = comparison_figure(answers, "t", "s")
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["input", *(each.method for each in answers)]
    np.testing.assert_array_equal(panels[3].images[0].get_array(), answers[2].pixels)
    assert [axes.get_xlabel() for axes in figure.axes].count("attribution per pixel") == 5


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ParameterError, match="at least one answer"):
        comparison_figure([], "t", "s")
