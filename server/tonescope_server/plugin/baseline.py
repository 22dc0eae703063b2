"""What a method compares a window with: how it is given as a parameter, and what array it comes to.

Zero is not "nobody is here" in every model: a baseline may also be one that the manifest states, the window's own
values blurred over time, or noise. Sets of baselines are here too. What a method makes of them is its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.plugin.api import Parameters, Windows
from tonescope_server.plugin.sampling import Seed, generator

Named = Literal["zero", "manifest", "dataset_mean", "empty_room", "blurred", "random"]
Given = float | list[Any] | None


def as_lists(value: Any) -> Any:
    """Let an array stand for the nested lists that travel on the wire; true and false are no numbers."""
    if isinstance(value, bool):
        raise ValueError("expected a name, a number or an array")
    return value.tolist() if isinstance(value, np.ndarray) else value


Baseline = Annotated[
    Named | float | list[Any] | None,
    BeforeValidator(as_lists),
    Field(
        description="What the window is compared with: one number for every cell; an array of the input's shape, with "
        "or without a leading axis of 1 or of the batch; 'zero'; 'manifest', 'dataset_mean' or 'empty_room', as the "
        "manifest states them; 'blurred', the window itself, blurred over time; or 'random', drawn evenly between its "
        "smallest and its largest value. Absent means the manifest's baseline, else zero."
    ),
]
"""The type of a parameter that is a baseline."""

Background = Annotated[
    list[Any] | None,
    BeforeValidator(as_lists),
    Field(
        description="The windows to compare with: an array with a leading axis, and then the input's shape; absent "
        "means the manifest's background, else its baseline alone."
    ),
]
"""The type of a parameter that is a set of baselines."""


class BaselineParameters(Parameters):
    """The parameters of a method with a baseline: subclass it instead of ``Parameters``."""

    baseline: Baseline = None
    baseline_seed: Seed = 0
    blur_frames: float = Field(
        5.0, gt=0, le=1e6, description="The standard deviation of the blur of baseline 'blurred', in frames."
    )

    def baseline_of(self, windows: Windows) -> npt.NDArray[Any]:
        """Return the baseline, ``(1, *input shape)`` or one per window, of the windows' element type.

        Raises:
            ParameterError: not numbers, or not finite ones; or a name of what these windows or this manifest lack.
            ShapeError: an array of another shape.
        """
        if self.baseline == "blurred":
            return blurred(windows, self.blur_frames)
        if self.baseline == "random":
            return _random(windows, self.baseline_seed)
        return windows.input("baseline", baseline_of(windows, self.baseline))


def baseline_of(windows: Windows, given: Named | Given) -> npt.NDArray[Any]:
    """Return a baseline that needs no further parameters, ``(1, *input shape)`` or one per window.

    Raises:
        ParameterError: not numbers, or not finite ones; or a name of what the manifest lacks.
        ShapeError: an array of another shape.
    """
    if given is None or given == "manifest":
        return windows.baseline
    if given == "zero":
        given = 0.0
    if isinstance(given, str):
        return _stated(windows, given)
    shape = windows.x.shape
    array = as_numbers(given, windows, "baseline")
    if array.ndim == 0:
        return np.full((1, *shape[1:]), array, windows.x.dtype)
    if array.shape == shape[1:]:
        return array[None]
    if array.shape[1:] == shape[1:] and len(array) == 1:
        return array
    if array.shape[1:] == shape[1:] and len(array) > int(windows.rows.max()):
        return array[windows.rows]
    raise ShapeError(
        "parameter 'baseline': "
        f"expected {shape[1:]}, alone or with a leading axis of 1 or of the batch; got {array.shape}"
    )


def background_of(windows: Windows, given: list[Any] | None) -> npt.NDArray[Any]:
    """Return the set of baselines, ``(n, *input shape)``, of the windows' element type.

    Raises:
        ParameterError: not numbers, or not finite ones.
        ShapeError: an array of another shape, or an empty one.
    """
    if given is None:
        return windows.baseline if windows.background is None else windows.background
    array, shape = as_numbers(given, windows, "background"), windows.x.shape[1:]
    if array.shape[1:] != shape or len(array) == 0:
        expected = ", ".join(map(str, shape))
        raise ShapeError(f"parameter 'background': expected (n, {expected}), n at least 1; got {array.shape}")
    return array


def as_numbers(given: float | list[Any], windows: Windows, name: str) -> npt.NDArray[Any]:
    """Return numbers of the windows' element type.

    Raises:
        ParameterError: not numbers, or not finite ones.
    """
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused below
            array = np.asarray(given, np.float64).astype(windows.x.dtype)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"parameter '{name}': expected a number or nested lists of numbers ({error})") from error
    if not np.isfinite(array).all():
        raise ParameterError(f"parameter '{name}': expected finite numbers, got NaN or infinity")
    return array


def blurred(windows: Windows, sigma_frames: float) -> npt.NDArray[Any]:
    """Return windows whose values are Gaussian averages over time, of each tone (link, component) by itself.

    At the ends of a window the average is over the frames that there are, so that what is constant stays as it is.

    Shapes:
        → (batch, *input shape).

    Raises:
        ParameterError: the windows have no frames to average over.
    """
    frames = int(windows.frame_of_cell.max()) + 1
    if frames < 2:
        raise ParameterError("parameter 'baseline': 'blurred' needs windows of several frames, and these have one")
    # The cells of each tone, each of its parts and each frame, in this order, whatever order they have in the window.
    count = windows.frame_of_cell.size
    order = np.lexsort((np.arange(count), windows.frame_of_cell, windows.tone_of_cell))
    cells = order.reshape(windows.n_tones, frames, -1).swapaxes(1, 2).ravel()
    distance = np.subtract.outer(np.arange(frames), np.arange(frames)) / sigma_frames
    weights = np.exp(-0.5 * distance**2)
    weights /= weights.sum(axis=1, keepdims=True)
    flat = windows.x.reshape(len(windows.x), -1)
    series = flat[:, cells].reshape(-1, frames).astype(np.float64)
    found = (series @ weights.T).astype(windows.x.dtype).reshape(len(flat), -1)
    return found[:, np.argsort(cells)].reshape(windows.x.shape)


def _random(windows: Windows, seed: int) -> npt.NDArray[Any]:
    """Return noise between each window's extremes: the same draws for every window, so that none depends on others."""
    flat = windows.x.reshape(len(windows.x), -1).astype(np.float64)
    drawn = generator(seed, "baseline", 0).random(flat.shape[1])
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    found: npt.NDArray[Any] = (low + drawn * (high - low)).astype(windows.x.dtype)
    return found.reshape(windows.x.shape)


def _stated(windows: Windows, name: str) -> npt.NDArray[Any]:
    found = windows.named_baselines.get(name)
    if found is None:
        known = name in get_args(Named)
        why = f"the manifest states none: add {name}, one value a tone, to [baseline]" if known else "unknown"
        raise ParameterError(f"parameter 'baseline': '{name}': {why}")
    return found
