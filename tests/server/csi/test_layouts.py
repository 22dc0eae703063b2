"""The layout of every kind of frame in a recording: by what it says of itself, by its zeros, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.layouts import LayoutSurvey, kind_of, survey_layouts
from tonescope_server.csi.tones import tone_table

RANDOM = np.random.default_rng(0)


def frames(layout: str, n: int = 5, **fields: Any) -> list[Frame]:
    """Frames whose nulls are exactly zero."""
    table = tone_table(layout)
    values = RANDOM.uniform(1, 9, (n, len(table))).astype(np.float32)
    values[:, list(table.null_rows)] = 0
    return [Frame(row, **fields) for row in values]


@pytest.mark.parametrize("layout", ["esp_lltf", "esp_ht20", "esp128", "esp192_stbc", "esp192_ht40", "ruview56"])
def test_the_zeros_settle_the_layout(layout: str):
    (found,) = survey_layouts(frames(layout)).values()
    assert (found.layout, found.is_known, found.frames) == (layout, True, 5)
    assert found.zero_rows == tone_table(layout).null_rows
    assert found.table is tone_table(layout)


def test_an_ambiguous_buffer_without_its_zeros_is_refused_by_name():
    loud = [Frame(RANDOM.uniform(1, 9, 192).astype(np.float32)) for _ in range(5)]
    (found,) = survey_layouts(loud).values()
    assert (found.layout, found.is_known) == ("unknown_192", False)
    assert found.candidates == ("esp192_stbc", "esp192_ht40")
    assert found.reason == "192 rows could be esp192_stbc or esp192_ht40, and no row stays zero: the pattern of neither"


def test_a_length_that_no_layout_has_is_unknown():
    (found,) = survey_layouts([Frame(np.ones(77, np.float32))]).values()
    assert (found.layout, found.candidates, found.reason) == ("unknown_77", (), "no known layout has 77 rows")


@pytest.mark.parametrize(("secondary", "suffix"), [(0, ""), (1, "_above"), (2, "_below")])
def test_the_header_tells_on_which_side_the_secondary_channel_lies(secondary: int, suffix: str):
    for layout in ("esp192_ht40", "esp_lltf_secondary"):
        (found,) = survey_layouts(frames(layout, header={"secondary_channel": secondary})).values()
        assert found.layout == layout + suffix


def test_chip_length_and_bandwidth_settle_it_unless_zeros_contradict():
    header = {"chip": "esp32-c6"}
    (found,) = survey_layouts(frames("esp_c6_64", header=header)).values()
    assert found.layout == "esp_c6_64"
    (found,) = survey_layouts(frames("esp_lltf", header=header)).values()
    assert found.layout == "unknown_64"


def test_what_a_frame_names_itself_stands():
    (found,) = survey_layouts(frames("intel5300_ht20", tone_layout="intel5300_ht40")).values()
    assert found.layout == "intel5300_ht40"


def test_every_kind_of_frame_is_judged_by_its_own_zeros():
    mixed = [*frames("esp_lltf"), *frames("esp128", node_id=1), *frames("esp_ht20", header={"sig_mode": 1})]
    survey = LayoutSurvey()
    for frame in mixed:
        survey.take(frame)
    layouts = survey.layouts()
    assert [layouts[kind_of(frame)].layout for frame in mixed[::5]] == ["esp_lltf", "esp128", "esp_ht20"]


def test_a_row_that_is_zero_on_one_antenna_only_carries_signal():
    values = np.ones((2, 56), np.float32)
    values[:, [7, 21, 34, 48]] = 0
    values[1, 3] = 0
    (found,) = survey_layouts([Frame(values, header={"chip": "intel_ax", "bandwidth_mhz": 20})]).values()
    assert (found.layout, found.zero_rows) == ("feitcsi_ht20", (7, 21, 34, 48))


def test_records_without_a_frame_and_kinds_without_end_take_no_memory():
    survey = LayoutSurvey()
    for node in range(3000):
        survey.take(Frame(np.ones(2, np.float32), node_id=node))
    assert len(survey.layouts()) == 1024
    assert survey_layouts([Skipped("vitals", "")]) == {}
