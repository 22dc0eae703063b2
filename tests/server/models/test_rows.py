"""Who the rows of a model are: tones with their frequencies where the manifest settles them, or features."""

from __future__ import annotations

from typing import Any

import pytest

from tonescope_server.csi.tones import RowsAre, ToneTable, tone_layouts
from tonescope_server.errors import ManifestError
from tonescope_server.models.manifest import Manifest
from tonescope_server.models.rows import row_table


def table(layout: str, order: str = "tone_frame", names: tuple[str, ...] = (), **tones: Any) -> ToneTable:
    stated = {"input": {"cell_order": order, "feature_names": names}, "tones": {"layout": layout, **tones}}
    return row_table(Manifest.parse(stated))


def frequencies(layout: str, **tones: Any) -> dict[tuple[str, int | None], float | None]:
    """Frequencies by training field and signed index."""
    rows = table(layout, **tones)
    return {(tone.training_field, tone.subcarrier_index): rows.frequency_mhz(tone) for tone in rows}


@pytest.mark.parametrize("layout", ["esp_lltf", "ruview56", "esp128", "esp_c6_64", "ht20_56", "intel5300_ht20"])
def test_tones_of_20_mhz_lie_around_the_primary_channel(layout: str) -> None:
    found = frequencies(layout, channel=6)
    assert all(mhz == 2437 + k * 0.3125 for (_, k), mhz in found.items() if k is not None)


def test_tones_of_he_lie_four_times_as_close() -> None:
    assert frequencies("he20_242", channel=36)["he_ltf", -122] == 5180 - 122 * 0.078125


def test_both_fields_of_a_40_mhz_buffer_lie_where_they_were_sent() -> None:
    found = frequencies("esp192_ht40_above", channel=6)
    assert found["lltf", 26] == pytest.approx(2437 + 26 * 0.3125)
    assert found["ht_ltf", 58] == pytest.approx(2447 + 58 * 0.3125)
    found = frequencies("esp192_ht40_below", channel=6)
    assert found["lltf", 26] == pytest.approx(2437 + 26 * 0.3125)
    assert found["ht_ltf", 58] == pytest.approx(2427 + 58 * 0.3125)


def test_a_stated_secondary_says_which_of_two_layouts_it_is() -> None:
    assert table("esp192_ht40", secondary="below").id == "esp192_ht40_below"
    assert set(frequencies("esp192_ht40", channel=6).values()) == {None}
    with pytest.raises(ManifestError, match=r'tones\.secondary: expected "above".*got "below"'):
        table("esp192_ht40_above", secondary="below")


def test_what_the_manifest_does_not_settle_is_not_said() -> None:
    for layout in tone_layouts():
        assert set(frequencies(layout).values()) == {None}
    assert set(frequencies("ht40_114", channel=6).values()) == {None}, "on which side?"
    assert set(frequencies("ht40_114", channel=36, bandwidth_mhz=20).values()) == {None}, "it does not fit"
    assert set(frequencies("unknown_56", channel=6, centre_mhz=2437).values()) == {None}


def test_a_stated_centre_holds_whatever_the_channel() -> None:
    assert frequencies("ht40_114", channel=6, centre_mhz=5965)["ht_ltf", 2] == 5965.625


def test_another_layout_is_put_on_the_same_channel() -> None:
    stated = Manifest.parse({"tones": {"layout": "esp_lltf", "channel": 1, "secondary": "above"}})
    assert row_table(stated, "esp_ht20").centre_mhz == 2412
    assert row_table(stated, "ht40_114").centre_mhz == 2422
    assert row_table(stated, "esp192_ht40_below").centre_mhz == 2402


def test_cells_without_frames_or_layout_are_features_by_name() -> None:
    features = table("unknown_3", "feature", ("variance", "doppler", "entropy"))
    assert features.rows_are is RowsAre.FEATURES
    assert [tone.name for tone in features] == ["variance", "doppler", "entropy"]
    assert not features.knows_nulls
    assert table("unknown_2", "feature").rows_are is RowsAre.FEATURES


def test_one_value_for_each_tone_of_a_layout_is_a_tone() -> None:
    assert table("ruview56", "feature", channel=6).rows_are is RowsAre.TONES


def test_names_that_fit_no_features_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"feature_names: expected 3 names, got 1"):
        table("unknown_3", "feature", ("variance",))
    with pytest.raises(ManifestError, match=r"feature_names: expected none.*rows are tones; got 1"):
        table("unknown_3", "tone_frame", ("variance",))
    with pytest.raises(ManifestError, match=r"feature_names: expected none.*'?\"ruview56\"'?.*got 1"):
        table("ruview56", "feature", ("variance",))
