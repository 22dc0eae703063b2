"""The zero signature: what it contradicts, and which reading it names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_server.checks import layout
from tonescope_server.checks.layout import check_cells, check_frames
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_layouts, tone_table


def codes(findings):
    return [finding.code for finding in findings]


def test_windows_laid_out_as_declared_raise_nothing(windows, declared):
    found, reading = check_cells(windows, declared.cells)
    assert found == []
    assert (reading.cell_order, reading.layout) == ("tone_frame", "esp_lltf")


def test_windows_normalised_row_by_row_raise_nothing_either(windows, declared):
    z = (windows - windows.mean(axis=(0, 2), keepdims=True)) / (windows.std(axis=(0, 2), keepdims=True) + 1e-6)
    assert check_cells(z, declared.cells)[0] == []


def test_frame_major_windows_name_the_cell_order_that_fits(windows, declared):
    scrambled = np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(windows.shape)
    found, reading = check_cells(scrambled, declared.cells)
    assert codes(found) == [layout.FRAME_MAJOR]
    assert 'input.cell_order = "frame_tone"' in found[0].remedy
    assert reading.cell_order == "frame_tone"


def test_scrambled_rows_that_were_normalised_are_still_told(windows, declared):
    scrambled = np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(windows.shape)
    mean, std = scrambled.mean(axis=(0, 2), keepdims=True), scrambled.std(axis=(0, 2), keepdims=True)
    assert codes(check_cells((scrambled - mean) / std, declared.cells)[0]) == [layout.FRAME_MAJOR]


def test_tone_major_windows_of_a_model_declared_frame_major_name_theirs(windows):
    cells = cell_map((64, 20), tone_table("esp_lltf"), "frame_tone", 20)
    found, _ = check_cells(windows, cells)
    assert codes(found) == [layout.TONE_MAJOR]
    assert 'input.cell_order = "tone_frame"' in found[0].remedy


def test_axes_the_other_way_round_are_told_and_read_rightly(windows, declared):
    found, reading = check_cells(np.ascontiguousarray(windows.transpose(0, 2, 1)), declared.cells)
    assert codes(found) == [layout.TRANSPOSED]
    assert reading.cell_order == "frame_tone"


@pytest.mark.parametrize("other", ["esp_ht20", "esp_c6_64"])
def test_the_layout_whose_nulls_are_seen_is_named(amplitude, series_from, declared, other):
    moved = np.abs(np.random.default_rng(0).normal(20, 1, amplitude.shape)).astype(np.float32)
    moved[:, tone_table(other).null_mask] = 0
    found, _ = check_frames(series_from(moved), declared.cells)
    assert codes(found) == [layout.LAYOUT_MISMATCH]
    assert f'"{other}"' in found[0].remedy


@pytest.mark.parametrize("by", [-4, -1, 1, 3])
def test_rolled_tones_are_told_by_how_many_rows_and_put_right(amplitude, series_from, declared, by):
    found, right = check_frames(series_from(np.roll(amplitude, by, axis=1)), declared.cells)
    assert codes(found) == [layout.TONES_ROLLED]
    assert found[0].figures["rolled_rows"] == by
    assert found[0].node_id == 1
    assert set(np.flatnonzero(~right.amplitude.any(axis=0))) == {list(right.rows).index(r) for r in (0, *range(27, 38))}


@pytest.mark.parametrize("cut", [False, True])
def test_header_bytes_before_the_tones_are_told(amplitude, series_from, declared, cut):
    header = np.tile([9.0, 0, 133, 7, 91, 2], (len(amplitude), 1))
    header[:, 2] = np.arange(len(amplitude)) % 256
    whole = np.concatenate([header, amplitude], axis=1).astype(np.float32)
    found, right = check_frames(series_from(whole[:, :64] if cut else whole), declared.cells)
    assert codes(found) == [layout.HEADER_AS_TONES]
    assert found[0].figures["header_rows"] == 6
    assert np.array_equal(right.amplitude[:, list(right.rows).index(1)], amplitude[:, 1])


@pytest.mark.parametrize("rows", layout.HEADER_ROWS)
@pytest.mark.parametrize("cut", [False, True])
def test_any_part_of_a_header_is_told_by_its_length(amplitude, series_from, declared, rows, cut):
    n = len(amplitude)
    changing = {6: np.arange(n) % 256, 8: np.random.default_rng(0).integers(45, 52, n)}  # sequence number, RSSI
    header = np.stack([changing.get(row, np.full(n, float(7 * row))) for row in range(10)], axis=1)[:, -rows:]
    whole = np.concatenate([header, amplitude], axis=1).astype(np.float32)
    (finding,), right = check_frames(series_from(whole[:, :64] if cut else whole), declared.cells)
    assert finding.code == layout.HEADER_AS_TONES
    assert finding.figures["header_rows"] == rows
    assert np.array_equal(right.amplitude[:, list(right.rows).index(1)], amplitude[:, 1])


def test_rows_that_all_change_are_no_header(amplitude, series_from, declared):
    found, _ = check_frames(series_from(np.roll(amplitude, 6, axis=1)), declared.cells)
    assert codes(found) == [layout.LAYOUT_MISMATCH]


def test_longer_frames_of_another_kind_are_no_header(amplitude, series_from, declared):
    longer = np.abs(np.random.default_rng(1).normal(20, 1, (200, 70))).astype(np.float32)
    assert not layout.has_header(series_from(longer), declared.cells)


def test_a_tone_that_stands_still_is_not_taken_for_another_layout(amplitude, series_from, declared):
    amplitude[:, 12] = 17.0
    amplitude[:, 40] = 0.0
    found, _ = check_frames(series_from(amplitude), declared.cells)
    assert codes(found) == [layout.CONSTANT_ROWS]
    assert "12, 40" in found[0].message


def coarse(n):
    """A still channel in whole numbers: half of the tones stand in the middle of a step, and never change."""
    rng = np.random.default_rng(6)
    level = rng.integers(15, 25, 64) + np.where(np.arange(64) % 2, 0.0, 0.45)
    amplitude = np.round(level + 0.05 * rng.standard_normal((n, 64))).astype(np.float32)
    amplitude[:, tone_table("esp_lltf").null_mask] = 0
    return amplitude


def test_tones_too_still_for_coarse_amplitudes_are_not_taken_for_another_layout(series_from, declared):
    amplitude = coarse(400)
    frames, same = check_frames(series_from(amplitude), declared.cells)
    windows, reading = check_cells(amplitude.reshape(20, 20, 64).transpose(0, 2, 1), declared.cells)
    assert codes(frames) == codes(windows) == [layout.CONSTANT_ROWS]
    for (finding,) in (frames, windows):
        assert finding.message.startswith("26 of 52 rows that carry signal never change")
        assert "finer steps" in finding.remedy
    assert (same.rows == np.arange(64)).all()
    assert reading == layout.declared_reading(declared.cells)


@pytest.mark.parametrize("by", [1, 9])
def test_coarse_amplitudes_at_other_rows_than_declared_are_still_a_wrong_layout(series_from, declared, by):
    found, _ = check_frames(series_from(np.roll(coarse(400), by, axis=1)), declared.cells)
    assert codes(found) == [layout.LAYOUT_MISMATCH]


def test_of_a_layout_without_nulls_nothing_is_said_of_nulls():
    cells, declared = of_every_row("ht20_56")
    cells[:, 3:25] = 0
    (finding,) = check_cells(cells, declared)[0]
    assert finding.message.startswith("440 of the 1120 cells that should carry signal carry none: neither")


def test_zeros_that_no_layout_explains_are_said_to_be_that(amplitude, series_from, declared):
    amplitude[:, 40:60] = 0.0
    found, _ = check_frames(series_from(amplitude), declared.cells)
    assert codes(found) == [layout.LAYOUT_MISMATCH]
    assert "nor any known layout" in found[0].message


def test_a_few_frames_or_a_layout_without_nulls_prove_nothing(amplitude, series_from, declared):
    rolled = np.roll(amplitude, 1, axis=1)
    assert check_frames(series_from(rolled[: layout.FEWEST_FRAMES - 1]), declared.cells)[0] == []
    unknown = cell_map((64, 20), tone_table("unknown_64"), "tone_frame", 20)
    assert check_frames(series_from(rolled), unknown)[0] == []


@pytest.mark.parametrize("name", [name for name in tone_layouts() if tone_table(name).knows_nulls])
def test_every_layouts_own_zeros_fit_it(name):
    table = tone_table(name)
    rng = np.random.default_rng(1)
    cells = np.abs(rng.normal(20, 2, (32, len(table), 4))).astype(np.float32)
    cells[:, table.null_mask] = 0
    assert check_cells(cells, cell_map((len(table), 4), table, "tone_frame", 4))[0] == []


def test_a_roll_is_never_named_where_header_bytes_stand_still(amplitude, series_from, declared):
    """A constant row is no tone: what is left after a roll must be alive."""
    rolled = np.roll(amplitude, 1, axis=1)
    rolled[:, 5] = 3.0
    found, _ = check_frames(series_from(rolled), replace(declared).cells)
    assert layout.TONES_ROLLED not in codes(found)


# -- layouts without a null tone -----------------------------------------------------------------------------------

WITHOUT_NULLS = [name for name in tone_layouts() if not tone_table(name).knows_nulls]


def of_every_row(name, n=40, frames=20):
    """Amplitudes that every tone has, smooth over time: (n, tones, frames), and the map."""
    table, rng = tone_table(name), np.random.default_rng(4)
    walk = 20 + rng.normal(0, 0.3, (len(table), n * frames)).cumsum(axis=1)
    cells = walk.reshape(len(table), n, frames).transpose(1, 0, 2).astype(np.float32)
    return cells, cell_map((len(table), frames), table, "tone_frame", frames)


@pytest.mark.parametrize("name", WITHOUT_NULLS)
def test_a_row_that_stands_still_is_told_though_the_layout_names_no_null(series_from, name):
    cells, declared = of_every_row(name)
    assert check_cells(cells, declared)[0] == []
    cells[:, 5] = 12
    assert codes(check_cells(cells, declared)[0]) == [layout.CONSTANT_ROWS]
    frames = cells.transpose(0, 2, 1).reshape(-1, declared.n_tones)
    assert codes(check_frames(series_from(frames), declared)[0]) == [layout.CONSTANT_ROWS]


def test_rows_that_are_the_nulls_of_another_layout_name_it():
    cells, declared = of_every_row("ht20_56")
    cells[:, tone_table("ruview56").null_mask] = 0
    (finding,) = check_cells(cells, declared)[0]
    assert finding.code == layout.LAYOUT_MISMATCH
    assert finding.remedy.startswith('tones.layout = "ruview56", or the rows in the order of "ht20_56"')


@pytest.mark.parametrize("name", WITHOUT_NULLS)
def test_without_nulls_the_order_is_told_by_what_neighbours_have_in_common(name):
    cells, declared = of_every_row(name)
    scrambled = np.ascontiguousarray(cells.transpose(0, 2, 1)).reshape(cells.shape)
    (finding,), reading = check_cells(scrambled, declared)
    assert (finding.code, finding.remedy) == (layout.FRAME_MAJOR, 'input.cell_order = "frame_tone"')
    assert reading.cell_order == "frame_tone"


def test_of_a_layout_that_nobody_stated_still_rows_may_be_the_nulls():
    cells, _ = of_every_row("ht20_56")
    cells[:, 5] = 0
    assert check_cells(cells, cell_map(cells.shape[1:], tone_table("unknown_56"), "tone_frame", 20))[0] == []


def test_no_windows_at_all_are_no_layout():
    cells, declared = of_every_row("ht20_56")
    assert check_cells(cells[:0], declared)[0] == []
