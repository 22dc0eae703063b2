"""The band plot in the terminal."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.cli import band
from tonescope_server.csi.tones import tone_layouts, tone_table
from tonescope_server.services.in_process import client_table


def columns(layout: str) -> list[band.Column]:
    return band.columns_of(client_table(tone_table(layout)))


def test_tones_stand_in_the_order_of_the_spectrum() -> None:
    assert [column.index for column in columns("esp_lltf")] == list(range(-32, 32))
    assert columns("esp_lltf")[0].rows == (32,)


@pytest.mark.parametrize("layout", tone_layouts())
def test_every_row_of_every_layout_is_in_one_column_and_all_fit_in_eighty(layout: str) -> None:
    shown = columns(layout)
    assert sorted(row for column in shown for row in column.rows) == list(range(len(tone_table(layout))))
    assert len(shown) <= 80 - 4


def test_null_tones_are_hatched_pilots_marked_and_signs_told_without_colour() -> None:
    shown = columns("esp_lltf")
    tones = np.zeros(64, dtype=np.float32)
    tones[3], tones[4] = 2.0, -1.0
    *levels, signs = band.bars(shown, band.values_of(shown, tones), height=2)
    at = {column.rows[0]: i for i, column in enumerate(shown)}
    assert [level.plain[at[3]] for level in levels] == ["█", "█"]
    assert [level.plain[at[4]] for level in levels] == [" ", "█"]
    assert all(level.plain[at[row]] == band.NULL for level in levels for row in (0, 27, 37))
    assert (signs.plain[at[4]], signs.plain[at[3]], signs.plain[at[7]]) == ("−", "·", band.PILOT)
    styles = {span.style for level in levels for span in level.spans if level.plain[span.start] == "█"}
    assert styles == {band.POSITIVE, band.NEGATIVE}


def test_an_attribution_on_a_null_tone_is_seen() -> None:
    shown = columns("esp_lltf")
    tones = np.zeros(64, dtype=np.float32)
    tones[30] = 1.0
    (column,) = [i for i, each in enumerate(shown) if each.rows == (30,)]
    assert band.sparkline(shown, band.values_of(shown, tones)).plain[column] == "█"


def test_columns_that_share_tones_show_the_strongest() -> None:
    shown = columns("he20_242")
    tones = np.zeros(242, dtype=np.float32)
    tones[1] = -5.0
    assert shown[0].rows[:2] == (0, 1)
    assert band.values_of(shown, tones)[0] == -5.0


def test_nothing_but_zeros_draws_no_bar() -> None:
    shown = columns("esp_lltf")
    assert "█" not in band.sparkline(shown, np.zeros(len(shown))).plain


def test_the_axis_labels_the_ends_and_dc() -> None:
    line = band.axis(columns("esp_lltf"))
    assert len(line) == 64
    assert line.split()[0] == "-32"
    assert line[32] == "0"
    assert line.endswith("+31")
    assert band.axis(columns("unknown_30")).split()[0] == "0"


@pytest.mark.parametrize(("share", "alarm"), [(0.0, False), (0.01, False), (0.011, True), (0.4, True)])
def test_more_than_one_per_cent_on_null_tones_alarms(share: float, alarm: bool) -> None:
    assert ("ALARM" in band.null_share_text(share).plain) is alarm


def test_an_unknown_null_share_is_not_called_zero() -> None:
    assert band.null_share_text(None).plain == "null share —"
