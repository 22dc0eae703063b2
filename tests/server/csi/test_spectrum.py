"""Which tones lie side by side: by frequency, within a training field, null tones apart."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.spectrum import tone_groups
from tonescope_server.csi.tones import ToneKind, feature_table, tone_layouts, tone_table


def test_an_lltf_runs_from_minus_26_to_26_across_the_centre_and_its_null_tones_stand_apart():
    table = tone_table("esp_lltf")
    live, null = (np.array([table.tones[row].subcarrier_index for row in group]) for group in tone_groups(table))
    np.testing.assert_array_equal(live, [*range(-26, 0), *range(1, 27)])
    np.testing.assert_array_equal(null, [*range(-32, -26), 0, *range(27, 32)])


@pytest.mark.parametrize("layout", sorted(tone_layouts()))
def test_groups_hold_every_row_once_and_never_mix_fields_or_null_tones_with_others(layout):
    table = tone_table(layout)
    groups = tone_groups(table)
    assert sorted(row for group in groups for row in group) == list(range(len(table)))
    for group in groups:
        tones = [table.tones[row] for row in group]
        assert len({(tone.training_field, tone.kind is ToneKind.NULL) for tone in tones}) == 1
        indices = [tone.subcarrier_index for tone in tones]
        assert indices == sorted(indices)


def test_rows_that_are_no_known_tones_stay_in_the_tables_order():
    (group,) = tone_groups(feature_table(5, ()))
    np.testing.assert_array_equal(group, range(5))
