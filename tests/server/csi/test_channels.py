from __future__ import annotations

import pytest

from tonescope_server.csi.channels import centre_mhz


@pytest.mark.parametrize(
    ("channel", "mhz"),
    [(1, 2412), (6, 2437), (13, 2472), (14, 2484), (36, 5180), (64, 5320), (100, 5500), (149, 5745), (177, 5885)],
)
def test_a_channel_of_20_mhz_is_where_the_standard_puts_it(channel: int, mhz: float) -> None:
    assert centre_mhz(channel) == mhz


@pytest.mark.parametrize("channel", [0, 15, 34, 37, 146, 181, 233, -6])
def test_a_number_that_is_no_channel_settles_nothing(channel: int) -> None:
    assert centre_mhz(channel) is None


def test_at_2_4_ghz_the_centre_of_a_pair_lies_towards_its_secondary() -> None:
    assert (centre_mhz(6, 40, "above"), centre_mhz(6, 40, "below"), centre_mhz(6, 40)) == (2447, 2427, None)
    assert centre_mhz(6, 80, "above") is None, "the band has no channels that wide"


@pytest.mark.parametrize(("width", "mhz", "members"), [
    (40, 5190, (36, 38, 40)), (40, 5310, (60, 62, 64)), (40, 5755, (149, 151, 153)), (40, 5795, (157, 161)),
    (80, 5210, (36, 40, 42, 44, 48)), (80, 5690, (132, 138, 144)), (80, 5775, (149, 153, 155, 157, 161)),
])  # fmt: skip
def test_at_5_ghz_wide_channels_are_found_by_any_of_their_members(
    width: int, mhz: float, members: tuple[int, ...]
) -> None:
    assert {centre_mhz(channel, width) for channel in members} == {mhz}


def test_a_secondary_on_the_side_where_it_cannot_be_settles_nothing() -> None:
    assert (centre_mhz(36, 40, "above"), centre_mhz(36, 40, "below")) == (5190, None)
    assert (centre_mhz(40, 40, "below"), centre_mhz(40, 40, "above")) == (5190, None)
