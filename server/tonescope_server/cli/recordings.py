"""Recordings as commands need them: opened, surveyed, cut into windows, and turned into frames for a daemon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tonescope
from tonescope_server.cli.counted import Counted
from tonescope_server.csi.cells import CellMap
from tonescope_server.csi.decoders import Recording, open_recording
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.normalisation import statistics
from tonescope_server.csi.quantities import FrameReader
from tonescope_server.errors import EmptyRecordingError, ParameterError
from tonescope_server.live.intake import Intake
from tonescope_server.live.messages import Job, Options, StatisticsKey
from tonescope_server.live.protocol import negotiate
from tonescope_server.models.model import Model
from tonescope_server.models.rows import frame_reader
from tonescope_server.plugin.host import PluginHost
from tonescope_server.types import FloatArray

MeasuredStatistics = dict[tuple[int, int], tuple[FloatArray, FloatArray]]


@dataclass
class NodeSurvey:
    """What one node recorded.

    Attributes:
        lengths: frames by their number of tones.
        skipped: records without a usable frame, by kind.
        always_zero: by length, the rows that were zero in every frame.
        first_ns: capture time of the first frame; ``last_ns``: of the last; None where not known.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    always_zero: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    transmitters: set[str] = field(default_factory=set)
    first_ns: int | None = None
    last_ns: int | None = None

    @property
    def frames(self) -> int:
        """Count the frames."""
        return self.lengths.total()

    @property
    def seconds(self) -> float:
        """Give the time from the first frame to the last; zero where not known."""
        if self.first_ns is None or self.last_ns is None:
            return 0.0
        return max(0.0, (self.last_ns - self.first_ns) * 1e-9)

    @property
    def rate_hz(self) -> float:
        """Give frames per second; zero where not known."""
        return (self.frames - 1) / self.seconds if self.seconds else 0.0

    def take(self, frame: Frame) -> None:
        """Take note of a frame."""
        n = frame.n_tones
        self.lengths[n] += 1
        self.transmitters.add(frame.transmitter)
        zero = np.all(np.atleast_2d(frame.values) == 0, axis=0)
        self.always_zero[n] = self.always_zero.get(n, np.ones(n, dtype=np.bool_)) & zero
        if frame.capture_time_ns is not None:
            self.first_ns = frame.capture_time_ns if self.first_ns is None else self.first_ns
            self.last_ns = frame.capture_time_ns


def open_file(path: Path, host: PluginHost, format: str = "") -> Recording:
    """Open a recording."""
    return open_recording(path, host.decoders, format or None)


def survey(recording: Iterable[Frame | Skipped]) -> dict[int | None, NodeSurvey]:
    """Read a recording through, node by node; records without a known node are under None."""
    nodes: dict[int | None, NodeSurvey] = {}
    for item in recording:
        node = nodes.setdefault(item.node_id, NodeSurvey())
        if isinstance(item, Frame):
            node.take(item)
        else:
            node.skipped[item.kind] += 1
    return dict(sorted(nodes.items(), key=lambda pair: -1 if pair[0] is None else pair[0]))


def need_nodes(recording: Recording, asked: Collection[int]) -> None:
    """Make sure that the recording has frames of each node that was asked for.

    Raises:
        ParameterError: it has none of one of them; the message says which nodes there are.
    """
    if not asked:
        return
    there = {item.node_id for item in recording if isinstance(item, Frame)}
    for node in asked:
        if node not in there:
            known = ", ".join(map(str, sorted(there)))
            raise ParameterError(f"--node: expected a node of {recording.name} ({known}), got {node}")


def recording_statistics(
    recording: Iterable[Frame | Skipped], lengths: Sequence[int], reader: FrameReader
) -> MeasuredStatistics:
    """Measure mean and standard deviation of every value of the frames that windows take, by node and frame length."""
    rows = reader.columns((item for item in recording if isinstance(item, Frame)), lengths)
    measured = {key: statistics(np.stack(kept)) for key, kept in rows.items()}
    return {key: (mean.astype(np.float32), std.astype(np.float32)) for key, (mean, std) in measured.items()}


def windows_of(
    recording: Recording,
    model: Model,
    host: PluginHost,
    normalise: str = "",
    hop: int = 0,
) -> tuple[list[Job], Counted]:
    """Cut a recording into windows for a model, exactly as the daemon would, and count what became of its frames.

    Raises:
        EmptyRecordingError: it makes not one window for this model.
    """
    asked, counted = Options(hop_frames=hop, normalisation=normalise or None), Counted()
    if (normalise or model.manifest.normalisation.kind) == "recording":
        lengths = negotiate(Options(), model, 1).frame_lengths
        measured: dict[StatisticsKey, tuple[FloatArray, FloatArray]] = {}
        measured.update(recording_statistics(recording, lengths, frame_reader(model.manifest, model.table)).items())
        asked = Options(hop_frames=hop, normalisation="recording" if measured else "none", statistics=measured)
    intake = Intake(asked, negotiate(asked, model, 1), model, host.normalisers)
    jobs = intake.frames(counted.frames_of(recording), 0.0)
    summary = intake.summary()
    counted.close(summary.frames_used, summary.frames_skipped, len(jobs), summary.gaps)
    need_windows(recording, counted, model.name, model.cells)
    return jobs, counted


def need_windows(recording: Recording, counted: Counted, model: str, cells: CellMap) -> None:
    """Make sure that a recording made a window.

    Raises:
        EmptyRecordingError: it made none; the message says what a window takes, and what became of the frames.
    """
    if not counted.windows:
        raise EmptyRecordingError(
            f"recording {recording.name!r}: expected a run of {cells.n_frames} frames of {cells.n_tones} tones for "
            f"model '{model}', got none: {counted.text}"
        )


def frames_for_daemon(frame: Frame, whole: bool = False) -> Iterator[tonescope.Frame]:
    """Turn a frame into what the client sends: one for each antenna, or all of it for windows of several links.

    Each antenna is a stream of its own: only then can a stream be resumed between the windows of two antennas.
    """
    rows = [frame.values] if whole else np.atleast_2d(frame.values)
    for rx, row in enumerate(rows):
        transmitter = frame.transmitter if len(rows) == 1 else f"{frame.transmitter}/rx{rx}"
        payload: dict[str, Any] = {"iq" if np.iscomplexobj(row) else "amplitude": row}
        yield tonescope.Frame(
            **payload,
            node_id=frame.node_id,
            transmitter=transmitter,
            sequence=frame.sequence,
            capture_time_ns=frame.unix_time_ns,
            rssi_dbm=frame.rssi_dbm,
            noise_floor_dbm=frame.noise_floor_dbm,
            agc_gain=frame.agc_gain,
        )
