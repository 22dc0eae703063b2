"""Images: the input, the attribution and the overlay, each with its scale."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.images import as_image, channel_axis, is_image
from tonescope_server.csi.tones import tone_table
from tonescope_server.pictures.colours import DIVERGING
from tonescope_server.pictures.image import OVER, image_figure

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1, 30, 64), 0), ((3, 8, 8), 0), ((8, 9, 3), 2), ((2, 16, 20), None), ((56, 20), None), ((1, 1, 48), None)],
)
def test_one_or_three_channels_first_or_last_make_an_image(shape: tuple[int, ...], axis: int | None) -> None:
    assert channel_axis(shape) == axis
    if axis is not None:
        assert as_image(np.zeros(shape)).shape[:2] == tuple(np.delete(shape, axis))


def test_a_window_whose_tones_are_known_is_none() -> None:
    for layout, expected in (("unknown_30", True), ("intel5300_ht20", False)):
        assert is_image(cell_map((1, 30, 64), tone_table(layout), "tone_frame", 64)) is expected


@pytest.mark.parametrize("channels", [1, 3])
def test_three_panels_say_what_they_are_and_have_their_scales(channels: int) -> None:
    pixels = RANDOM.standard_normal((6, 9))
    figure = image_figure("a", "b", RANDOM.standard_normal((6, 9, channels)), pixels)
    figure.canvas.draw()
    first, attribution, over = figure.axes[:3]
    assert first.get_title().startswith("input")
    assert [attribution.get_title(), over.get_title()] == ["attribution", OVER.format("attribution")]
    assert over.images[-1].get_cmap() is DIVERGING
    limit = np.abs(pixels).max()
    assert attribution.images[-1].get_clim() == over.images[-1].get_clim() == (-limit, limit)
    np.testing.assert_array_equal(attribution.images[-1].get_array(), pixels)
    labels = [axes.get_xlabel() for axes in figure.axes[3:]]
    assert labels == ["value of the input"] * (channels == 1) + ["attribution per pixel"] * 2


def test_the_overlay_is_opaque_where_the_attribution_is_largest_and_clear_where_there_is_none() -> None:
    pixels = np.zeros((4, 4))
    pixels[1, 2], pixels[3, 3] = -2.0, 0.5
    alpha = np.asarray(image_figure("a", "b", np.ones((4, 4, 1)), pixels).axes[2].images[-1].get_alpha())
    assert alpha[0, 0] == 0
    assert alpha.max() == alpha[1, 2] > alpha[3, 3] > 0


def test_without_the_input_only_the_attribution_is_drawn() -> None:
    figure = image_figure("a", "b", None, np.zeros((4, 5)))
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == ["attribution", ""]
