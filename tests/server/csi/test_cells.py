from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.cells import CELL_ORDERS, cell_map
from tonescope_server.csi.tones import tone_table, unknown_table
from tonescope_server.errors import ParameterError, ShapeError


def window(n_frames: int, n_tones: int) -> np.ndarray:
    """Every value says where it is: 1000 × frame + tone."""
    return (1000 * np.arange(n_frames)[:, None] + np.arange(n_tones)).astype(np.float32)


CASES = [
    ((56, 20), "ruview56", "tone_frame", 20),
    ((56, 20), "ruview56", "frame_tone", 20),
    ((1, 30, 64), "esp_lltf", "frame_tone", 30),
    ((64, 64), "esp_lltf", "frame_tone", 64),
    ((2, 3, 53), "c5_53", "frame_tone", 6),
    ((30,), "intel5300_ht20", "feature", 1),
]
cases = pytest.mark.parametrize(("shape", "layout", "order", "n_frames"), CASES)


@cases
def test_every_cell_lies_where_the_map_says(shape, layout, order, n_frames):
    cells = cell_map(shape, tone_table(layout), order, n_frames)
    flat = cells.arrange(window(n_frames, cells.n_tones)).reshape(-1)
    assert np.array_equal(flat, 1000 * cells.frame_of_cell + cells.tone_of_cell)


@cases
def test_the_fold_sums_the_cells_of_each_tone(shape, layout, order, n_frames):
    cells = cell_map(shape, tone_table(layout), order, n_frames)
    x = np.random.default_rng(0).normal(size=(3, *shape))
    expected = np.zeros((3, cells.n_tones))
    for flat in range(cells.n_cells):
        expected[:, cells.tone_of_cell[flat]] += x.reshape(3, -1)[:, flat]
    np.testing.assert_allclose(cells.fold(x), expected, rtol=0, atol=1e-12)  # float64, another order of sums


@cases
def test_a_tone_major_map_folds_as_a_sum_over_the_last_axis(shape, layout, order, n_frames):
    cells = cell_map(shape, tone_table(layout), order, n_frames)
    x = np.random.default_rng(1).normal(size=(2, *shape))
    plain = x.reshape(2, cells.n_tones, cells.n_frames).sum(axis=2)
    assert cells.is_tone_major == np.allclose(plain, cells.fold(x))


@cases
def test_frames_undoes_arrange(shape, layout, order, n_frames):
    cells = cell_map(shape, tone_table(layout), order, n_frames)
    frames = window(n_frames, cells.n_tones)
    assert np.array_equal(cells.frames(cells.arrange(frames)[None])[0], frames)


def test_tone_frame_puts_all_frames_of_a_tone_together():
    cells = cell_map((56, 20), tone_table("ruview56"), "tone_frame", 20)
    assert (cells.tone_of_cell[19], cells.tone_of_cell[20]) == (0, 1)
    assert cells.rows_are_tones


def test_a_scrambled_window_has_declared_rows_that_are_not_tones():
    cells = cell_map((56, 20), tone_table("ruview56"), "frame_tone", 20)
    k, j = 37, 11
    flat = 20 * k + j
    assert (cells.frame_of_cell[flat], cells.tone_of_cell[flat]) == divmod(flat, 56)
    rows = cells.declared_row_of_cell
    assert rows is not None
    assert rows[flat] == k
    assert not cells.rows_are_tones


def test_the_scramble_leaves_one_null_cell_in_five_in_every_declared_row():
    cells = cell_map((56, 20), tone_table("ruview56"), "frame_tone", 20)
    assert cells.null_cells.sum() == 12 * 20
    assert cells.null_cells.mean() == pytest.approx(0.214, abs=0.001)


def test_null_cells_are_the_cells_of_null_tones():
    table = tone_table("ruview56")
    cells = cell_map((56, 20), table, "tone_frame", 20)
    assert tuple(np.flatnonzero(cells.null_cells.reshape(56, 20).all(axis=1))) == table.null_rows
    assert cells.null_cells.sum() == 20 * len(table.null_rows)


def test_declared_rows_can_be_folded_too():
    cells = cell_map((56, 20), tone_table("ruview56"), "frame_tone", 20)
    x = np.random.default_rng(2).normal(size=(2, 56, 20))
    assert np.array_equal(cells.fold_declared(x), x.sum(axis=2))
    assert not np.allclose(cells.fold_declared(x), cells.fold(x))


def test_an_input_without_a_tone_axis_has_no_declared_rows():
    cells = cell_map((1120,), tone_table("ruview56"), "tone_frame", 20)
    assert cells.declared_row_of_cell is None
    assert not cells.rows_are_tones
    with pytest.raises(ShapeError, match="axis of 56 tones"):
        cells.fold_declared(np.zeros((1, 1120)))


def test_features_are_rows_of_an_unknown_table_without_frames():
    cells = cell_map((4, 8), unknown_table(32), "feature", 7)
    assert (cells.n_frames, cells.n_tones) == (1, 32)
    assert np.array_equal(cells.fold(np.ones((5, 4, 8))), np.ones((5, 32)))


def test_arranged_windows_are_contiguous():
    for order in CELL_ORDERS[:2]:
        arranged = cell_map((56, 20), tone_table("ruview56"), order, 20).arrange(window(20, 56))
        assert arranged.flags.c_contiguous
        assert arranged.shape == (56, 20)


def test_a_shape_that_does_not_hold_the_window_is_refused():
    with pytest.raises(ShapeError, match=r"\(1, 114\).*20 frames x 56 tones.*1120 cells, got 114"):
        cell_map((1, 114), tone_table("ruview56"), "tone_frame", 20)


def test_an_unknown_cell_order_is_refused():
    with pytest.raises(ParameterError, match=r"tone_frame, frame_tone, feature, got 'rows'"):
        cell_map((56, 20), tone_table("ruview56"), "rows", 20)


def test_cells_and_windows_of_another_shape_are_refused():
    cells = cell_map((56, 20), tone_table("ruview56"), "tone_frame", 20)
    with pytest.raises(ShapeError, match=r"\(batch, 56, 20\), got \(1, 20, 56\)"):
        cells.fold(np.zeros((1, 20, 56)))
    with pytest.raises(ShapeError, match=r"\(20, 56\), got \(56, 20\)"):
        cells.arrange(np.zeros((56, 20)))


IQ, RX = ("real", "imaginary"), ("rx0", "rx1", "rx2")
PARTS = [
    ((3, 2, 53, 4), "link_component_tone_frame", RX, IQ),
    ((4, 3, 53, 2), "frame_link_tone_component", RX, IQ),
    ((53, 2, 12), "tone_component_frame_link", RX, IQ),
    ((8, 53), "component_frame_tone", (), IQ),
    ((53 * 12,), "link_tone_frame", RX, ()),
    ((4, 53, 3), "frame_tone_link", RX, ()),
]
parts = pytest.mark.parametrize(("shape", "order", "links", "components"), PARTS)


@parts
def test_every_cell_of_several_links_and_components_lies_where_its_order_says(shape, order, links, components):
    cells = cell_map(shape, tone_table("c5_53"), order, 4, links, components)
    axes = {"frame": 4, "link": max(len(links), 1), "component": max(len(components), 1), "tone": 53}
    of_cell = {
        "frame": cells.frame_of_cell,
        "link": cells.link_of_cell,
        "component": cells.component_of_cell,
        "tone": cells.tone_of_cell,
    }
    named = order.split("_")
    for flat in range(0, cells.n_cells, 7):
        left = flat
        for axis in reversed(named):
            left, place = divmod(left, axes[axis])
            assert of_cell[axis][flat] == place
    columns = np.arange(cells.n_columns)
    window = 10_000 * np.arange(4)[:, None] + columns
    column_of_cell = (cells.link_of_cell * cells.n_components + cells.component_of_cell) * 53 + cells.tone_of_cell
    flat_cells = cells.arrange(window).reshape(-1)
    assert np.array_equal(flat_cells, 10_000 * cells.frame_of_cell + column_of_cell)
    assert np.array_equal(cells.frames(cells.arrange(window)[None])[0], window)


@parts
def test_every_fold_sums_the_cells_it_should(shape, order, links, components):
    cells = cell_map(shape, tone_table("c5_53"), order, 4, links, components)
    x = np.random.default_rng(0).normal(size=(2, *shape))
    flat = x.reshape(2, -1)
    tones, by_part = np.zeros((2, 53)), np.zeros((2, cells.n_links, cells.n_components, 53))
    by_frame = np.zeros((2, 4, 53))
    for i in range(cells.n_cells):
        tone = cells.tone_of_cell[i]
        tones[:, tone] += flat[:, i]
        by_part[:, cells.link_of_cell[i], cells.component_of_cell[i], tone] += flat[:, i]
        by_frame[:, cells.frame_of_cell[i], tone] += flat[:, i]
    # float64 sums in another order
    np.testing.assert_allclose(cells.fold(x), tones, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cells.fold_parts(x), by_part, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cells.fold_frames(x), by_frame, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "order", ["tone_frame", "link_tone", "link_tone_frame_frame", "feature", "link_component_tone_frame"]
)
def test_an_order_that_does_not_name_each_axis_once_is_refused(order):
    with pytest.raises(ParameterError, match=r"expected the axes link, tone, frame .*'link_tone_frame', got '"):
        cell_map((3, 53, 4), tone_table("c5_53"), order, 4, RX)


def test_a_shape_without_room_for_every_link_is_refused():
    with pytest.raises(ShapeError, match=r"4 frames x 53 tones of 'c5_53' x 3 links x 2 parts = 1272 cells, got 636"):
        cell_map((3, 53, 4), tone_table("c5_53"), "link_component_tone_frame", 4, RX, IQ)
