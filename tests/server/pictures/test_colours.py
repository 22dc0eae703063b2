"""Colours: even to the eye, and alike on both sides of zero."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.pictures.colours import DIVERGING, SEQUENTIAL, rgb_of_lab, scale_of


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of sRGB (IEC 61966-2-1, CIE 15), the other way round than the product computes it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def test_equal_steps_of_a_signed_value_look_equally_large() -> None:
    lab = lab_of(DIVERGING(np.linspace(0, 1, 257))[:, :3])
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.01  # the matrices have four digits
    # Neither side is lighter than the other, and zero is the lightest; 0.5 is the least step of lightness one sees.
    np.testing.assert_allclose(lab[:, 0], lab[::-1, 0], atol=0.5)
    assert lab[:, 0].argmax() == 128


def test_blue_is_positive_and_red_is_negative() -> None:
    low, high = DIVERGING(0.0), DIVERGING(1.0)
    assert low[0] > low[2]
    assert high[2] > high[0]


def test_colours_of_known_lab_values_are_right() -> None:
    known = np.array([[100.0, 0, 0], [0, 0, 0], [53.585, 0, 0], [53.24, 80.09, 67.20]])  # white, black, grey, red
    np.testing.assert_allclose(rgb_of_lab(known), [[1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0]], atol=4e-3)


@pytest.mark.parametrize(
    ("values", "limits", "signed"),
    [([-1, 3], (-3, 3), True), ([-2, np.nan], (-2, 2), True), ([0, 4], (0, 4), False), ([0, 0], (0, 1), False)],
)
def test_signed_values_have_a_scale_symmetric_about_zero(values, limits, signed) -> None:
    scale = scale_of(np.array(values, np.float64))
    assert (scale.norm.vmin, scale.norm.vmax, scale.extend) == (*limits, "neither")
    assert scale.colours is (DIVERGING if signed else SEQUENTIAL)


def test_a_few_values_far_beyond_the_others_are_said_to_be_there_and_leave_the_scale_to_them() -> None:
    values = np.linspace(-1, 1, 1000)
    assert scale_of(values).extend == "neither"
    values[500] = 50.0
    scale = scale_of(values)
    assert scale.extend == "both"
    assert scale.norm.vmax == -scale.norm.vmin == np.quantile(np.abs(values), 0.995)


def test_over_something_nothing_is_white() -> None:
    scale = scale_of(np.array([0.0, 1.0]), over=True)
    assert min(scale.colours(0.0)[:3]) > 0.95  # type: ignore[operator]
    np.testing.assert_allclose(scale.colours(1.0), DIVERGING(1.0))  # type: ignore[operator]
