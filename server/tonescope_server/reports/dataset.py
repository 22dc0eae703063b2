"""What a report is made of: a recording, a paired file or an array of windows, read through one interface.

A recording holds frames, which are cut into windows in whatever order of cells is asked for. The other two hold windows
that were laid out by somebody else: their cells are kept exactly as they lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import CellMap
from tonescope_server.csi.decoders import open_recording
from tonescope_server.csi.decoders.recordings import PairedWindow, read_paired
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.normalisation import statistics
from tonescope_server.csi.windows import StreamKey, Windower, accepted_lengths
from tonescope_server.engine.explainer import Explainer
from tonescope_server.engine.windows import checked
from tonescope_server.errors import DtypeError, EmptyRecordingError, ParameterError, RecordingError, ShapeError
from tonescope_server.models.model import Model
from tonescope_server.models.rows import column_statistics, frame_reader
from tonescope_server.reports.arrays import ARRAYS, read_named
from tonescope_server.types import FloatArray, IntArray

PAIRED = "ruview_paired"
LABEL = "n_persons_mode"
LABELS = ("labels", "y")  # in a .npz file
NODES = ("node_ids", "nodes")


class Kind(StrEnum):
    """What a file holds."""

    RECORDING = "recording"
    PAIRED = "paired file"
    WINDOWS = "windows"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data for one model, before it is normalised.

    Shapes:
        cells: ``[n, *stated shape]`` as they lie in the file; None for a recording.
        node_ids: ``[n]``: the node of each window; zeros where the file names none; None for a recording.
        labels: ``[n]``: the class of each window; None where not every window has one.

    Attributes:
        name: the file's name.
        kind: what the file holds.
        frames: of a recording; empty for windows.
        skipped: records without a usable frame or window, by kind.
    """

    name: str
    kind: Kind
    frames: tuple[Frame, ...] = ()
    cells: FloatArray | None = None
    node_ids: IntArray | None = None
    labels: IntArray | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def is_raw(self) -> bool:
        """Say whether these may be amplitudes: windows with a negative value are none, and are normalised already."""
        return self.cells is None or not bool((self.cells < 0).any())


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows as a model takes them.

    Shapes:
        cells: ``[n, *input shape]``.
        raw: the same, before they were normalised.
        node_ids: ``[n]``.
        labels: ``[n]``; None where not known.

    Attributes:
        normalisation: the normaliser that was used; "none" for windows taken as they are.
        skipped: frames that entered no window, by kind.
    """

    cells: FloatArray
    raw: FloatArray
    node_ids: IntArray
    labels: IntArray | None
    normalisation: str
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.cells)

    def only(self, chosen: IntArray) -> Windows:
        """Return the windows of these indices."""
        labels = None if self.labels is None else self.labels[chosen]
        return Windows(
            self.cells[chosen], self.raw[chosen], self.node_ids[chosen], labels, self.normalisation, self.skipped
        )


def read_dataset(path: Path, explainer: Explainer, format: str = "") -> Dataset:
    """Read a file for a model.

    Args:
        path: a recording of any format there is a decoder for, a paired file, or windows (``.npy``, ``.npz``; beside
            them ``labels`` and ``node_ids``).
        explainer: its model says what a window is, its host which decoders there are.
        format: a decoder's name; "" recognises the format.

    Raises:
        RecordingError: the file cannot be read, or no decoder knows it.
        EmptyRecordingError: it holds nothing usable.
        ShapeError, DtypeError, NonFiniteError: windows that are not this model's.
    """
    if path.suffix in ARRAYS and not format:
        return _windows_file(path, explainer.model)
    recording = open_recording(path, explainer.host.decoders, format or None)
    if recording.format == PAIRED:
        return _paired_file(path, explainer.model)
    skipped: Counter[str] = Counter()
    frames = []
    for item in recording:
        if isinstance(item, Frame):
            frames.append(item)
        else:
            skipped[item.kind] += 1
    return Dataset(path.name, Kind.RECORDING, tuple(frames), skipped=skipped)


def cut_windows(
    data: Dataset, explainer: Explainer, normalise: str = "", hop: int = 0, cells: CellMap | None = None
) -> Windows:
    """Make of a data set the windows that a model takes.

    Frames are cut exactly as the daemon cuts them. Windows that are raw amplitudes in a paired file are normalised as
    frames are; those of an array, and any with negative values, are taken as they are unless ``normalise`` says more.

    Args:
        data: of this model.
        explainer: the model and its normalisers.
        normalise: a normaliser; "" means the manifest's.
        hop: frames from one window of a recording to the next; 0 means the manifest's.
        cells: the map by which frames are laid out and rows are normalised; None means the model's. A map of another
            order gives what there would be if the manifest declared that order.

    Returns:
        The windows; there may be none.

    Raises:
        ParameterError: an unknown normaliser, or statistics that it cannot use.
    """
    model = explainer.model
    cells = model.cells if cells is None else cells
    name = normalise or _usual_normalisation(data, model)
    if data.cells is None:
        return _from_frames(data, explainer, name, hop or model.manifest.window.hop or cells.n_frames, cells)
    return _from_cells(data, data.cells, explainer, name, cells)


def need_windows(data: Dataset, windows: Windows, model: Model) -> None:
    """Make sure that there is something to report on.

    Raises:
        EmptyRecordingError: there is no window; the message says what became of the frames.
    """
    if not len(windows):
        skipped = data.skipped + windows.skipped
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())) or "none"
        raise EmptyRecordingError(
            f"recording {data.name!r}: expected a run of {model.cells.n_frames} frames of {model.cells.n_tones} tones "
            f"for model '{model.name}', got none (skipped: {counts})"
        )


def frame_lengths(model: Model) -> tuple[int, ...]:
    """List the lengths that a frame may have to be used for a model."""
    return tuple(model.manifest.window.frame_lengths) or accepted_lengths(model.table)


# -- reading -------------------------------------------------------------------------------------------------------


def _windows_file(path: Path, model: Model) -> Dataset:
    array, beside = read_named(path)
    cells = _as_they_lie(array, model)
    return Dataset(
        path.name,
        Kind.WINDOWS,
        cells=cells,
        node_ids=_one_each(beside, NODES, len(cells), path.name, np.zeros(len(cells), np.int64)),
        labels=_one_each(beside, LABELS, len(cells), path.name, None),
    )


def _as_they_lie(array: npt.NDArray[Any], model: Model) -> FloatArray:
    """Check windows, but let those pass whose axes are the other way round: that is for the checks to tell."""
    wanted = model.cells.shape
    if len(wanted) > 1 and array.shape[1:] == wanted[::-1] != wanted:
        flat = array.reshape(len(array), *wanted)
        return np.asarray(checked(model, flat), np.float32).reshape(array.shape)
    return np.asarray(checked(model, array), np.float32)


def _one_each(beside: Any, names: tuple[str, ...], n: int, file: str, default: IntArray | None) -> IntArray | None:
    name = next((each for each in names if each in beside), None)
    if name is None:
        return default
    values = beside[name]
    if values.dtype.kind not in "iu":
        raise DtypeError(f"{file}: array '{name}': expected integers, got {values.dtype}")
    if values.shape != (n,):
        raise ShapeError(f"{file}: array '{name}': expected one for each of {n} windows, got shape {values.shape}")
    return np.asarray(values, np.int64)


def _paired_file(path: Path, model: Model) -> Dataset:
    skipped: Counter[str] = Counter()
    found: list[PairedWindow] = []
    for item in read_paired(path, model.cells.n_tones):
        if isinstance(item, Skipped):
            skipped[item.kind] += 1
        elif item.n_frames != model.cells.n_frames:
            raise RecordingError(
                f"{path.name}:{item.line}: csi_shape: expected [{model.cells.n_tones}, {model.cells.n_frames}] for "
                f"model '{model.name}', got [{item.n_tones}, {item.n_frames}]"
            )
        else:
            found.append(item)
    if not found:
        raise EmptyRecordingError(f"recording {path.name!r}: expected at least one window, got none")
    cells = checked(model, np.stack([window.cells.reshape(model.cells.shape) for window in found]))
    labels = [window.record.get(LABEL) for window in found]
    known = np.array(labels, np.int64) if all(type(label) is int for label in labels) else None
    nodes = np.zeros(len(found), np.int64)
    return Dataset(path.name, Kind.PAIRED, (), np.asarray(cells, np.float32), nodes, known, skipped)


# -- windows -------------------------------------------------------------------------------------------------------


class _Apply(Protocol):
    """Normalises the frames of one window of a stream: ``[n_frames, n_tones]``."""

    def __call__(self, frames: npt.NDArray[Any], key: StreamKey) -> FloatArray: ...


class _Observe(Protocol):
    """Takes note of frames."""

    def __call__(self, frames: npt.NDArray[Any], key: Hashable) -> None: ...


def _usual_normalisation(data: Dataset, model: Model) -> str:
    as_they_are = data.kind is Kind.WINDOWS or not data.is_raw
    return "none" if as_they_are else model.manifest.normalisation.kind


def _normaliser(
    name: str, explainer: Explainer, frames_of: dict[tuple[int, int], FloatArray]
) -> tuple[_Apply, _Observe | None]:
    """Return what normalises, and what has to see the frames first.

    Statistics are by node and frame length, as the daemon's are.
    """
    if name not in explainer.host.normalisers:
        known = ", ".join(explainer.host.normalisers)
        raise ParameterError(f"normalisation '{name}': unknown, expected one of {known}")
    stated = explainer.model.manifest.normalisation
    if name == "recording":
        measured = {key: statistics(frames) for key, frames in frames_of.items()}
        given = explainer.host.normalisers["manifest"]
        fixed = {
            key: given.for_stream(mean.astype(np.float32), std.astype(np.float32), stated.eps)
            for key, (mean, std) in measured.items()
        }
        return (lambda frames, key: fixed[key[0], key[3]].apply(frames, key)), None
    mean, std = column_statistics(explainer.model.manifest, explainer.model.cells.n_columns)
    stream = explainer.host.normalisers[name].for_stream(mean, std, stated.eps)
    observes = name not in ("none", "manifest")
    return stream.apply, stream.observe if observes else None


def _from_frames(data: Dataset, explainer: Explainer, name: str, hop: int, cells: CellMap) -> Windows:
    lengths = frame_lengths(explainer.model)
    reader = frame_reader(explainer.model.manifest, cells.table)
    windower = Windower(cells.n_frames, hop, cells.n_tones, accept=lengths, reader=reader)
    frames_of = {key: np.stack(rows) for key, rows in reader.columns(data.frames, lengths).items()}
    apply, observe = _normaliser(name, explainer, frames_of)
    made: list[FloatArray] = []
    raw: list[FloatArray] = []
    nodes: list[int] = []
    for frame in data.frames:
        windows = windower.push(frame)
        if observe is not None:
            for key, row in windower.taken:
                observe(row, key)
        for window in windows:
            raw.append(cells.arrange(window.frames))
            made.append(cells.arrange(apply(window.frames, window.key)))
            nodes.append(window.node_id)
    return Windows(
        _stacked(made, cells), _stacked(raw, cells), np.array(nodes, np.int64), None, name, windower.counts.skipped
    )


def _from_cells(data: Dataset, lying: FloatArray, explainer: Explainer, name: str, cells: CellMap) -> Windows:
    if lying.shape[1:] != cells.shape:
        lying = np.ascontiguousarray(lying.transpose(0, *range(lying.ndim - 1, 0, -1)))
    assert data.node_ids is not None  # windows always have nodes
    made = lying
    if name != "none":
        frames = cells.frames(lying)
        nodes = set(data.node_ids)
        of = {(int(node), 0): frames[data.node_ids == node].reshape(-1, cells.n_columns) for node in nodes}
        apply, observe = _normaliser(name, explainer, of)
        made = _stacked(list(_normalised(frames, data.node_ids, apply, observe, cells)), cells)
    return Windows(made, lying, data.node_ids, data.labels, name)


def _normalised(
    frames: FloatArray, nodes: IntArray, apply: _Apply, observe: _Observe | None, cells: CellMap
) -> Iterator[FloatArray]:
    for window, node in zip(frames, nodes, strict=True):
        key = (int(node), "", 0, 0)
        if observe is not None:
            observe(window, key)
        yield cells.arrange(apply(window, key))


def _stacked(windows: list[FloatArray], cells: CellMap) -> FloatArray:
    return np.stack(windows) if windows else np.zeros((0, *cells.shape), np.float32)
