"""Ways to write a window as numbers that are easy to climb in: spectra over time, and of images. All are linear.

Each has its transpose beside it, so that a gradient by the window becomes one by the numbers. What is climbed towards
is in ``visualisation``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import FEATURE, CellMap
from tonescope_server.csi.images import channel_axis, is_image
from tonescope_server.errors import MethodNotApplicableError, ParameterError

Array = npt.NDArray[np.float64]


class View(Protocol):
    """One way to look at signals, as the model will see them: shifted a little, so that no single cell is exploited."""

    def see(self, signals: Array) -> Array:
        """Return windows: (n, *signal shape) → (n, *input shape)."""

    def pull_back(self, gradient: Array) -> Array:
        """Return the transpose of ``see``: (n, *input shape) → (n, *signal shape)."""


class Parametrisation(Protocol):
    """A signal as a linear function of numbers, which are normally distributed at the start.

    Attributes:
        shape: of the numbers.
        smooth_axes: the axes of a signal, counted from 0, along which neighbours should be alike.
    """

    shape: tuple[int, ...]
    smooth_axes: tuple[int, ...]

    def signals(self, numbers: Array) -> Array:
        """Return signals, without their mean: (n, *shape) → (n, *signal shape)."""

    def pull_back(self, gradient: Array) -> Array:
        """Return the transpose of ``signals``: (n, *signal shape) → (n, *shape)."""

    def view(self, draws: list[np.random.Generator] | None) -> View:
        """Return one view, drawn for each signal; None is the one that is not shifted."""


def parametrisation_of(
    layout: CellMap, reference: npt.NDArray[np.float32] | None, roll: int, jitter: int, scaling: float
) -> Parametrisation:
    """Choose the parametrisation that a model's input has.

    Args:
        layout: how a window's cells lie.
        reference: windows whose mean and covariance over subcarriers are taken, ``(n, *input shape)``; None: zero, and
            none.
        roll: frames that a window is shifted by at most.
        jitter: pixels that an image is shifted by at most; ``scaling``: and the part that it is scaled by.
        scaling: see ``jitter``.

    Raises:
        MethodNotApplicableError: the input is neither windows of several frames nor an image.
        ParameterError: a reference for an image, or one of another shape; a negative shift.
    """
    if roll < 0 or jitter < 0 or not 0 <= scaling < 1:
        got = f"roll {roll}, jitter {jitter}, scaling {scaling}"
        raise ParameterError(f"shifts: expected roll and jitter from 0 and scaling from 0 to 1, got {got}")
    if is_image(layout):
        if reference is not None:
            raise ParameterError("reference: expected none for an image, got windows: only subcarriers are whitened")
        return ImageSpectrum(layout.shape, jitter, scaling)
    if layout.cell_order == FEATURE or layout.n_frames < 2:
        raise MethodNotApplicableError(
            f"feature visualisation: expected windows of several frames, or images, got flat input {layout.shape}"
        )
    return TimeSpectrum(layout, reference, roll)


class TimeSpectrum:
    """Windows of CSI: a spectrum over time of each subcarrier, coloured by the covariance of a reference.

    A signal is ``(frames, columns)``: links, components and tones, in the order of ``CellMap.frames``. Null tones stay
    at zero.
    """

    smooth_axes: tuple[int, ...] = (0,)

    def __init__(self, layout: CellMap, reference: npt.NDArray[np.float32] | None = None, roll: int = 2) -> None:
        """Whiten by a reference, where there is one: see ``parametrisation_of``."""
        frames, columns = layout.n_frames, layout.n_columns
        self._layout, self._roll = layout, roll
        self.shape: tuple[int, ...] = (2, frames // 2 + 1, columns)
        # Bins of a real spectrum that stand for two have half the energy each: so the transform keeps lengths.
        self._twice = _doubled(frames)[:, None]
        self._free = ~np.tile(layout.table.null_mask, columns // layout.n_tones)
        self._order = layout.arrange(np.arange(frames * columns).reshape(frames, columns)).ravel()
        self._mean, self._root = np.zeros(columns), np.diag(self._free.astype(np.float64))
        if reference is not None:
            self._mean, self._root = self._statistics(reference)

    def _statistics(self, reference: npt.NDArray[np.float32]) -> tuple[Array, Array]:
        """Return the mean of the subcarriers, and the symmetric root of their covariance."""
        if reference.shape[1:] != self._layout.shape or len(reference) == 0:
            expected = ", ".join(map(str, self._layout.shape))
            raise ParameterError(f"reference: expected windows ({expected}), got {reference.shape}")
        rows = self._layout.frames(reference.astype(np.float64)).reshape(-1, self._layout.n_columns)
        mean = rows.mean(axis=0) * self._free
        centred = (rows - mean) * self._free
        values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        return mean, np.where(np.outer(self._free, self._free), root, 0.0)  # exactly, not to rounding

    def signals(self, numbers: Array) -> Array:
        """Return signals, without their mean."""
        spectrum = (numbers[:, 0] + 1j * numbers[:, 1]) / np.sqrt(self._twice)
        return np.fft.irfft(spectrum, n=self._layout.n_frames, axis=1, norm="ortho") @ self._root

    def pull_back(self, gradient: Array) -> Array:
        """Return the transpose of ``signals``."""
        spectrum = np.fft.rfft(gradient @ self._root.T, axis=1, norm="ortho") * np.sqrt(self._twice)
        return np.stack([spectrum.real, spectrum.imag], axis=1)

    def view(self, draws: list[np.random.Generator] | None) -> View:
        """Return windows rolled over time by up to so many frames."""
        rolls = [0 if draw is None else int(draw.integers(-self._roll, self._roll + 1)) for draw in draws or (None,)]
        return _Rolled(self, rolls)

    def arranged(self, frames: Array) -> Array:
        """Lay frames out as the model's input, with their mean: (n, frames, columns) → (n, *input shape)."""
        flat = (frames + self._mean).reshape(len(frames), -1)[:, self._order]
        return flat.reshape(-1, *self._layout.shape)

    def by_frame(self, cells: Array) -> Array:
        """Undo ``arranged``, but for the mean."""
        return self._layout.frames(cells)


class _Rolled:
    def __init__(self, spectrum: TimeSpectrum, rolls: list[int]) -> None:
        self._spectrum, self._rolls = spectrum, rolls

    def see(self, signals: Array) -> Array:
        return self._spectrum.arranged(self._rolled(signals, 1))

    def pull_back(self, gradient: Array) -> Array:
        return self._rolled(self._spectrum.by_frame(gradient), -1)

    def _rolled(self, frames: Array, sign: int) -> Array:
        rolls = self._rolls if len(self._rolls) == len(frames) else self._rolls * len(frames)
        return np.stack([np.roll(each, sign * by, axis=0) for each, by in zip(frames, rolls, strict=True)])


class ImageSpectrum:
    """Images: a spectrum in two dimensions with amplitudes that fall as 1/f, on a canvas larger than the image.

    A signal is ``(channels, rows, columns)``, padded by what an image is shifted and shrunk by.
    """

    smooth_axes: tuple[int, ...] = (1, 2)

    def __init__(self, shape: tuple[int, ...], jitter: int = 4, scaling: float = 0.1) -> None:
        """Make a canvas for images of a shape that has one or three channels, first or last."""
        axis = channel_axis(shape)
        assert axis is not None  # the caller has looked
        self._channel_axis = axis
        self._sides = tuple(size for at, size in enumerate(shape) if at != axis)
        self._jitter, self._scaling = jitter, scaling
        padding = [jitter + int(np.ceil(scaling * size / 2)) for size in self._sides]
        self.canvas = tuple(size + 2 * pad for size, pad in zip(self._sides, padding, strict=True))
        rows, columns = self.canvas
        self.shape: tuple[int, ...] = (2, shape[axis], rows, columns // 2 + 1)
        frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
        falling = 1 / np.maximum(frequency, 1 / max(self.canvas))
        doubled = _doubled(columns)[None]
        # Of normal numbers, pixels of unit variance.
        falling /= np.sqrt((doubled * falling**2).sum() / doubled.sum() / rows)
        self._gain, self._twice = falling / np.sqrt(doubled), doubled

    def signals(self, numbers: Array) -> Array:
        """Return canvases."""
        spectrum = (numbers[:, 0] + 1j * numbers[:, 1]) * self._gain
        return np.fft.irfft2(spectrum, s=self.canvas, norm="ortho")

    def pull_back(self, gradient: Array) -> Array:
        """Return the transpose of ``signals``."""
        spectrum = np.fft.rfft2(gradient, norm="ortho") * (self._gain * self._twice)
        return np.stack([spectrum.real, spectrum.imag], axis=1)

    def view(self, draws: list[np.random.Generator] | None) -> View:
        """Return images cut from the canvas, moved and scaled a little."""
        crops = [self._crop(draw) for draw in draws or (None,)]
        return _Cropped(crops, self._channel_axis)

    def _crop(self, draw: np.random.Generator | None) -> tuple[Array, Array]:
        """Return two matrices of linear interpolation, one for the rows and one for the columns."""
        shifts = (0, 0) if draw is None else draw.integers(-self._jitter, self._jitter + 1, 2)
        scale = 1.0 if draw is None else 1.0 + self._scaling * draw.uniform(-1, 1)
        pairs = zip(self._sides, self.canvas, shifts, strict=True)
        rows, columns = (_interpolation(size, of, float(by), scale) for size, of, by in pairs)
        return rows, columns


class _Cropped:
    def __init__(self, crops: list[tuple[Array, Array]], channel_axis: int) -> None:
        self._crops, self._axis = crops, channel_axis

    def see(self, signals: Array) -> Array:
        seen = [rows @ signal @ columns.T for (rows, columns), signal in self._each(signals)]
        return np.moveaxis(np.stack(seen), 1, self._axis + 1)

    def pull_back(self, gradient: Array) -> Array:
        first = np.moveaxis(gradient, self._axis + 1, 1)
        return np.stack([rows.T @ each @ columns for (rows, columns), each in self._each(first)])

    def _each(self, arrays: Array) -> list[tuple[tuple[Array, Array], Array]]:
        crops = self._crops if len(self._crops) == len(arrays) else self._crops * len(arrays)
        return list(zip(crops, arrays, strict=True))


def _interpolation(size: int, of: int, by: float, scale: float) -> Array:
    """Return the matrix that reads ``size`` places from ``of``: centred, moved by ``by``, ``scale`` apart."""
    places = (of - 1) / 2 + by + scale * (np.arange(size) - (size - 1) / 2)
    return np.asarray(np.maximum(0, 1 - np.abs(np.clip(places, 0, of - 1)[:, None] - np.arange(of)[None])))


def _doubled(size: int) -> Array:
    """Say of each bin of a real spectrum how many it stands for: 1 at zero and at half the rate, else 2."""
    count = np.full(size // 2 + 1, 2.0)
    count[0] = 1.0
    if size % 2 == 0:
        count[-1] = 1.0
    return count
