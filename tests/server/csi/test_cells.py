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
