"""Normalisers: from raw amplitudes to what a model was trained on, saying whose statistics were used.

``z = (amplitude − mean) / (std + eps)`` per tone, with the population standard deviation, or nothing at all.
The windows themselves come from ``windows``.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.marker import hookimpl
from tonescope_server.types import FloatArray

DEFAULT_EPS = 1e-6

_Statistics = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
_Numbers = npt.ArrayLike | None


class StreamNormaliser(Protocol):
    """The normaliser of one stream or recording; nodes and transmitters in it are told apart by key."""

    def observe(self, frames: npt.NDArray[Any], key: Hashable = None) -> None:
        """Take note of amplitudes: ``[n_tones]`` or ``[n_frames, n_tones]``."""
        ...

    def apply(self, frames: npt.NDArray[Any], key: Hashable = None) -> FloatArray:
        """Normalise the amplitudes of a window: ``[n_frames, n_tones]`` → the same, float32."""
        ...


class Normaliser(Protocol):
    """One way to normalise.

    Attributes:
        name: as manifests, clients and results write it.
        summary: one line for people.
    """

    name: str
    summary: str

    def for_stream(self, mean: _Numbers = None, std: _Numbers = None, eps: float = DEFAULT_EPS) -> StreamNormaliser:
        """Start on one stream.

        Args:
            mean: the manifest's mean, per tone or one number; None where it has none.
            std: the manifest's standard deviation, likewise.
            eps: added to the standard deviation.

        Raises:
            ParameterError: statistics that this normaliser needs are not there or not usable.
        """
        ...


def statistics(frames: npt.NDArray[Any]) -> _Statistics:
    """Compute the mean and the population standard deviation of every tone, in float64.

    Shapes:
        frames: ``[n_frames, n_tones]`` → two of ``[n_tones]``.

    Raises:
        ShapeError: not two axes, or no frame.
    """
    if frames.ndim != 2 or frames.shape[0] == 0:
        raise ShapeError(f"statistics: expected (frames, tones) with at least one frame, got {frames.shape}")
    values = frames.astype(np.float64)
    return values.mean(axis=0), values.std(axis=0)


class _Unchanged:
    def observe(self, frames: npt.NDArray[Any], key: Hashable = None) -> None:
        """Note nothing."""

    def apply(self, frames: npt.NDArray[Any], key: Hashable = None) -> FloatArray:
        """Give the amplitudes as they are."""
        return np.asarray(frames, dtype=np.float32)


class _Given:
    """z-scores with statistics that never change."""

    def __init__(self, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64], eps: float) -> None:
        self._mean = mean
        self._divisor = std + eps

    def observe(self, frames: npt.NDArray[Any], key: Hashable = None) -> None:
        """Note nothing: the statistics are the manifest's."""

    def apply(self, frames: npt.NDArray[Any], key: Hashable = None) -> FloatArray:
        if self._mean.size not in (1, frames.shape[-1]):
            raise ShapeError(
                f"normalisation: expected {self._mean.size} tones, as mean and std have, got {frames.shape[-1]}"
            )
        z: FloatArray = ((frames - self._mean) / self._divisor).astype(np.float32)
        return z


class _Moments:
    """Count, mean and squared deviations of one key; frames come in any portions (Chan's update)."""

    __slots__ = ("count", "mean", "squares")

    def __init__(self, n_tones: int) -> None:
        self.count = 0
        self.mean = np.zeros(n_tones)
        self.squares = np.zeros(n_tones)

    def add(self, frames: npt.NDArray[Any]) -> None:
        n = frames.shape[0]
        mean = frames.mean(axis=0, dtype=np.float64)
        delta = mean - self.mean
        total = self.count + n
        self.squares += np.square(frames - mean).sum(axis=0) + delta * delta * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    @property
    def std(self) -> npt.NDArray[np.float64]:
        deviation: npt.NDArray[np.float64] = np.sqrt(self.squares / self.count)
        return deviation


class _Observed:
    """z-scores with the statistics of what was observed under the key; frozen at the first use, or not."""

    def __init__(self, eps: float, *, freeze: bool) -> None:
        self._eps = eps
        self._freeze = freeze
        self._moments: dict[Hashable, _Moments] = {}
        self._frozen: dict[Hashable, _Given] = {}

    def observe(self, frames: npt.NDArray[Any], key: Hashable = None) -> None:
        if key in self._frozen:
            return
        frames = np.atleast_2d(frames)
        moments = self._moments.get(key)
        if moments is None:
            moments = self._moments[key] = _Moments(frames.shape[1])
        if moments.mean.shape[0] != frames.shape[1]:
            raise ShapeError(f"normalisation: expected {moments.mean.shape[0]} tones, got {frames.shape[1]}")
        moments.add(frames)

    def apply(self, frames: npt.NDArray[Any], key: Hashable = None) -> FloatArray:
        given = self._frozen.get(key)
        if given is None:
            if key not in self._moments:
                self.observe(frames, key)
            moments = self._moments[key]
            given = _Given(moments.mean, moments.std, self._eps)
            if self._freeze:
                self._frozen[key] = given
        return given.apply(frames, key)


class NoNormaliser:
    """Feed raw amplitudes."""

    name = "none"
    summary = "raw amplitudes, as the chip gave them"

    def for_stream(
        self,
        mean: _Numbers = None,
        std: _Numbers = None,
        eps: float = DEFAULT_EPS,
    ) -> StreamNormaliser:
        """Start on one stream; every argument is ignored."""
        return _Unchanged()


class ManifestNormaliser:
    """z-scores with the training statistics that the manifest carries."""

    name = "manifest"
    summary = "z-scores with the training statistics of the model's manifest"

    def for_stream(self, mean: _Numbers = None, std: _Numbers = None, eps: float = DEFAULT_EPS) -> StreamNormaliser:
        """Start on one stream.

        Raises:
            ParameterError: no mean or std, or they are not finite, negative, or of different lengths.
        """
        if mean is None or std is None:
            raise ParameterError("normaliser 'manifest': expected mean and std in the manifest, got none")
        m = np.atleast_1d(np.asarray(mean, dtype=np.float64))
        s = np.atleast_1d(np.asarray(std, dtype=np.float64))
        if m.ndim != 1 or m.shape != s.shape:
            raise ParameterError(
                f"normaliser 'manifest': expected mean and std of one length, got {m.shape} and {s.shape}"
            )
        if not (np.isfinite(m).all() and np.isfinite(s).all() and (s >= 0).all()):
            raise ParameterError("normaliser 'manifest': expected finite mean and std ≥ 0, got others")
        return _Given(m, s, _checked(eps))


class RecordingNormaliser:
    """z-scores with the statistics of a whole recording: observe all of it, then apply."""

    name = "recording"
    summary = "z-scores with the statistics of the recording itself, per node, transmitter and frame length"

    def for_stream(
        self,
        mean: _Numbers = None,
        std: _Numbers = None,
        eps: float = DEFAULT_EPS,
    ) -> StreamNormaliser:
        """Start on one recording; the first ``apply`` of a key fixes its statistics."""
        return _Observed(_checked(eps), freeze=True)


class RunningNormaliser:
    """z-scores with the statistics of the stream so far."""

    name = "running"
    summary = "z-scores with the statistics of the stream so far, per node, transmitter and frame length"

    def for_stream(
        self,
        mean: _Numbers = None,
        std: _Numbers = None,
        eps: float = DEFAULT_EPS,
    ) -> StreamNormaliser:
        """Start on one stream; observe each frame before the windows that hold it."""
        return _Observed(_checked(eps), freeze=False)


def _checked(eps: float) -> float:
    if not (np.isfinite(eps) and eps >= 0):
        raise ParameterError(f"eps: expected a finite number ≥ 0, got {eps}")
    return eps


@hookimpl
def tonescope_normalisers() -> list[Normaliser]:
    """Offer the built-in normalisers."""
    return [NoNormaliser(), ManifestNormaliser(), RecordingNormaliser(), RunningNormaliser()]
