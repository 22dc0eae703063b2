"""Maps: attention per layer and head, grids of layers, and whatever else a method names."""

from __future__ import annotations

import numpy as np

from tonescope_server.pictures.maps import MOST_PANELS, maps_figure, rows_of

RANDOM = np.random.default_rng(5)


def test_each_head_has_a_panel_and_each_layer_one_scale() -> None:
    maps = {"attention:a": RANDOM.random((4, 5, 5)), "attention:b": RANDOM.random((4, 5, 5))}
    figure = maps_figure("t", "s", rows_of(maps))
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == [f"head {i}" for i in range(4)] * 2
    assert {axes.images[0].get_clim() for axes in panels[:4]} == {(0.0, maps["attention:a"].max())}
    assert panels[0].get_ylabel() == "attention:a\ntoken"
    assert [axes.get_ylabel() for axes in figure.axes if not axes.images] == ["attention:a", "attention:b"]


def test_of_many_heads_the_mean_and_the_first_are_shown_and_how_many_there_are() -> None:
    heads = RANDOM.random((12, 5, 5))
    (row,) = rows_of({"attention:a": heads})
    assert [name for name, _ in row.panels] == ["mean of all", *(f"head {i}" for i in range(MOST_PANELS - 1))]
    np.testing.assert_allclose(row.panels[0][1], heads.mean(axis=0))
    assert row.note == "7 of 12 shown"


def test_numbers_are_left_out_and_lines_are_bars() -> None:
    rows = rows_of({"n_steps": np.float32(3), "bias": np.ones(1), "tokens": np.arange(4.0)})
    assert [row.name for row in rows] == ["tokens"]
    axes = maps_figure("t", "s", rows).axes[0]
    assert [bar.get_height() for bar in axes.containers[0]] == [0, 1, 2, 3]


def test_the_identity_in_what_tokens_pass_on_does_not_hide_the_rest() -> None:
    relevance = np.eye(4) + 0.01 * (1 - np.eye(4))
    figure = maps_figure("t", "s", rows_of({"relevance": relevance}))
    assert figure.axes[0].images[0].get_clim() == (0.0, 0.01)
    assert figure.axes[-1].get_ylabel() == "relevance\n(the diagonal is beyond)"
