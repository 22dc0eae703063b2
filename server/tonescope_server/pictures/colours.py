"""What colours mean in every picture: signed values by a map that is even to the eye, and what is not a value."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.colors import ListedColormap, Normalize

POSITIVE, NEGATIVE, PILOT, PLANTED = "#2166ac", "#b2182b", "#7a7a7a", "#e6a700"
ON_NULL = "#e0218a"
FAINT, DARK = "#555555", "#444444"
NULL_PATCH: dict[str, Any] = {"facecolor": "#f2f2f2", "edgecolor": "#c4c4c4", "hatch": "////", "lw": 0}
MISSING_PATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": "#cccccc", "hatch": "..", "lw": 0}
SEQUENTIAL = "viridis"
ALL_BUT_FEW = 0.995
FAR = 1.5  # a largest value that is so many times that quantile is beyond the scale
FEWEST_TO_CLIP = 200

# Lightness and the two colour axes of CIELAB: no value is nearly white, and the ends are equally far from it.
_NONE, _LOWEST, _HIGHEST = (97.0, 0.0, 0.0), (42.0, 40.3, 20.5), (42.0, 4.6, -45.0)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
_STEPS = 257  # odd, so that zero has a colour of its own


def rgb_of_lab(lab: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn CIELAB (white D65) into sRGB in [0, 1]; what no screen shows is brought to the nearest that it does.

    Shapes:
        ``(n, 3)`` → ``(n, 3)``.
    """
    y = (lab[:, 0] + 16) / 116
    f = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], axis=1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _WHITE
    linear = np.clip(xyz @ _TO_RGB.T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.clip(rgb, 0, 1))


def _diverging() -> ListedColormap:
    """Go straight through CIELAB from red by white to blue: equal steps of a value look equally large."""
    along = np.linspace(-1, 1, _STEPS)[:, None]
    ends = np.where(along < 0, np.array(_LOWEST), np.array(_HIGHEST))
    lab = np.array(_NONE) + np.abs(along) * (ends - np.array(_NONE))
    return ListedColormap(rgb_of_lab(lab).tolist(), name="signed")


DIVERGING = _diverging()
RISING = ListedColormap(np.asarray(DIVERGING.colors)[_STEPS // 2 :].tolist(), name="rising")


class Scale(NamedTuple):
    """How values become colours.

    Attributes:
        colours: the colour map.
        norm: from values to the map.
        extend: at which ends values lie beyond it: "neither", "max" or "both", as colour bars have it.
    """

    colours: ListedColormap | str
    norm: Normalize
    extend: Literal["neither", "max", "both"] = "neither"


def scale_of(values: npt.NDArray[Any], over: bool = False) -> Scale:
    """Choose the colours of values: signed ones around zero, and alike on both sides; others from zero up.

    Where a few values would leave all others pale, the scale ends at the 99.5th percentile of the magnitudes, and its
    bar says that there is more beyond it.

    Args:
        values: all that have this scale.
        over: whether they are laid over something, through which weak ones let it show: then zero is white.
    """
    known = np.abs(values[np.isfinite(values)])
    limit = float(known.max(initial=0.0)) or 1.0
    most = float(np.quantile(known, ALL_BUT_FEW)) if known.size >= FEWEST_TO_CLIP else limit
    is_clipped = 0 < most < limit / FAR
    limit = most if is_clipped else limit
    if values[np.isfinite(values)].min(initial=0.0) < 0:
        return Scale(DIVERGING, Normalize(-limit, limit), "both" if is_clipped else "neither")
    return Scale(RISING if over else SEQUENTIAL, Normalize(0, limit), "max" if is_clipped else "neither")
