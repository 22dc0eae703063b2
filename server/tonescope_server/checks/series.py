"""What data checks look at: the amplitudes of one stream in order, and what the manifest declares of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import CellMap
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.windows import StreamKey
from tonescope_server.models.manifest import Manifest
from tonescope_server.models.model import Model
from tonescope_server.types import BoolArray, FloatArray, IntArray

Float64Array = npt.NDArray[np.float64]

NORMALISED_KINDS = ("manifest", "recording", "running")


@dataclass(frozen=True, eq=False)
class Series:
    """Frames of one stream, or of windows end to end, in order.

    Shapes:
        amplitude: ``[n_frames, n_rows]``.
        rows: ``[n_rows]``: the row of the tone table that each column is.
        follows: ``[n_frames]``: whether a frame comes right after the one before it, in one window or stream; the
            first never does.
        time_s, rssi_dbm, agc_gain: ``[n_frames]``, NaN where not known; None where never known.

    Attributes:
        key: node, transmitter, antenna, length of the frames as they came.
        one_clock: whether ``time_s`` is of a clock that every node shares; else it counts from the node's own start.
    """

    amplitude: FloatArray
    rows: IntArray
    follows: BoolArray
    key: StreamKey = (0, "", 0, 0)
    time_s: Float64Array | None = None
    rssi_dbm: Float64Array | None = None
    agc_gain: Float64Array | None = None
    one_clock: bool = True

    def __len__(self) -> int:
        return len(self.amplitude)

    @property
    def node_id(self) -> int:
        """Give the node."""
        return self.key[0]

    def only(self, keep: BoolArray) -> Series:
        """Return the frames marked in ``keep`` (``[n_frames]``), joined up."""

        def of(values: Float64Array | None) -> Float64Array | None:
            return None if values is None else values[keep]

        # A frame follows the last one kept where no window began between them.
        run = np.cumsum(~self.follows)[keep]
        follows = np.concatenate([[False], run[1:] == run[:-1]]) if run.size else np.zeros(0, dtype=np.bool_)
        return replace(
            self,
            amplitude=self.amplitude[keep],
            follows=follows,
            time_s=of(self.time_s),
            rssi_dbm=of(self.rssi_dbm),
            agc_gain=of(self.agc_gain),
        )


@dataclass(frozen=True, eq=False)
class Declared:
    """What a model's manifest says of its input, as far as data can contradict it.

    Attributes:
        cells: how cells map to frames and tones.
        normalisation: name of the normaliser: "none" means that the model takes raw amplitudes.
        mean, std: training statistics per tone; None where the manifest has none.
        eps: added to ``std``.
        rate_hz: frames a second; 0 means not known.
        tolerance: the relative deviation of the rate that is still fine.
        nodes: the nodes that ought to send; empty means not known.
    """

    cells: CellMap
    normalisation: str = "none"
    mean: Float64Array | None = None
    std: Float64Array | None = None
    eps: float = 1e-6
    rate_hz: float = 0.0
    tolerance: float = 0.2
    nodes: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: Model) -> Declared:
        """Read the declarations of a model."""
        return cls.stated(model.manifest, model.cells)

    @classmethod
    def stated(cls, manifest: Manifest, cells: CellMap) -> Declared:
        """Read the declarations of a manifest, whose map of cells is known."""
        stated = manifest.normalisation
        # Statistics of phases, or of parts of complex values, say nothing of amplitudes.
        known = bool(stated.mean) and not cells.has_parts and manifest.input.quantity == "amplitude"
        return cls(
            cells=cells,
            normalisation=stated.kind,
            mean=np.broadcast_to(np.asarray(stated.mean, np.float64), cells.n_tones) if known else None,
            std=np.broadcast_to(np.asarray(stated.std, np.float64), cells.n_tones) if known else None,
            eps=stated.eps,
            rate_hz=manifest.sampling.rate_hz,
            tolerance=manifest.sampling.tolerance,
            nodes=manifest.sampling.nodes,
        )

    @property
    def takes_z_scores(self) -> bool:
        """Say whether cells are z-scores once normalised."""
        return self.normalisation in NORMALISED_KINDS


def series_of(frames: Iterable[Frame | Skipped]) -> list[Series]:
    """Sort the frames of a recording into one series for each stream and frame length.

    Streams are apart by node, transmitter, antenna and shape of frame; the longest series comes first.
    """
    found: dict[tuple[int, str, tuple[int, ...]], list[Frame]] = {}
    for frame in frames:
        if isinstance(frame, Frame):
            found.setdefault((frame.node_id, frame.transmitter, frame.values.shape), []).append(frame)
    made = []
    for (node, transmitter, shape), alike in found.items():
        # All at once: taken one by one, the frames of a live stream would cost as much as all that is checked of them.
        values = np.concatenate([frame.values for frame in alike]).reshape(len(alike), *shape)
        amplitude = (np.abs(values) if values.dtype.kind == "c" else values).astype(np.float32, copy=False)
        by_antenna = amplitude.reshape(len(alike), -1, shape[-1]).swapaxes(0, 1)
        made += [_series((node, transmitter, rx, shape[-1]), rows, alike) for rx, rows in enumerate(by_antenna)]
    return sorted(made, key=len, reverse=True)


def _series(key: StreamKey, amplitude: FloatArray, frames: list[Frame]) -> Series:
    follows = np.ones(len(frames), dtype=np.bool_)
    follows[0] = False
    times = [frame.capture_time_ns for frame in frames]
    return Series(
        amplitude,
        np.arange(amplitude.shape[1]),
        follows,
        key,
        _column([None if t is None else t / 1e9 for t in times]),
        _column([frame.rssi_dbm for frame in frames]),
        _column([frame.agc_gain for frame in frames]),
        all(frame.capture_time_ns == frame.unix_time_ns for frame in frames),
    )


def _column(values: list[float | None]) -> Float64Array | None:
    if all(value is None for value in values):
        return None
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
