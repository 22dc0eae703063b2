"""From frames and windows as they come to windows that can be explained. Every one that cannot is counted.

No I/O and no clock: the time of arrival is given. Waiting and computing are the session's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from tonescope_server.csi.frames import Frame
from tonescope_server.csi.normalisation import Normaliser, StreamNormaliser
from tonescope_server.csi.windows import RESUME_SPAN, StreamKey, Window, Windower
from tonescope_server.engine.windows import checked
from tonescope_server.errors import FrameError, NotFoundError, ParameterError, ShapeError, TonescopeError
from tonescope_server.live.messages import (
    Job,
    Options,
    ReceivedWindow,
    Rejected,
    StatisticsKey,
    Summary,
    Undecodable,
    Warned,
)
from tonescope_server.live.protocol import Agreement
from tonescope_server.live.samples import Samples
from tonescope_server.models.model import Model
from tonescope_server.models.rows import column_statistics, frame_reader
from tonescope_server.types import FloatArray

# Each node and reason is reported once; a sender that invents nodes does not get a report for each.
MAX_REPORTS = 64
_RULES = {
    "gaps": "sequence numbers are missing: no window spans the gap",
    "duplicates": "frames came twice: the second ones were dropped",
    "reordered": "frames came after newer ones: they were dropped",
}


class Intake:
    """One stream's frames and windows on their way to the queue.

    Args:
        options: what the client asked for.
        agreement: what was negotiated.
        model: the model that explains.
        normalisers: what there is, by name.
        first_window: the number of the first window.
        samples: where what comes is noted for the stream's checks; None where there are none.

    Raises:
        NotFoundError: no normaliser of that name.
        ParameterError: statistics that the normaliser cannot use.
    """

    def __init__(
        self,
        options: Options,
        agreement: Agreement,
        model: Model,
        normalisers: Mapping[str, Normaliser],
        first_window: int = 0,
        samples: Samples | None = None,
    ) -> None:
        self._agreement = agreement
        self._cells = model.cells
        self._model = model
        self._windower = Windower(
            agreement.window_frames,
            agreement.hop_frames,
            model.cells.n_tones,
            accept=agreement.frame_lengths,
            starts=options.resume_starts,
            reader=frame_reader(model.manifest, model.table),
        )
        self._normalise = StreamNormalisation(agreement.normalisation, options, model, normalisers)
        self._resume = dict(options.resume_from)
        self._reported: set[tuple[int | None, str]] = set()
        self._undecodable: Counter[str] = Counter()
        self.notices: list[Warned | Rejected] = []
        self._received = 0
        self._first_window = first_window
        stated = model.manifest.input
        complex_only = "" if stated.quantity == "amplitude" else "complex "
        self._takes = f"{complex_only}{f'{len(stated.links)}-link ' if stated.links else ''}"
        self._samples = samples
        self.windows = 0

    def frames(self, frames: Iterable[Frame | Undecodable], now: float) -> list[Job]:
        """Take frames in; return the windows that they complete."""
        jobs: list[Job] = []
        fresh: list[Frame] | None = None if self._samples is None else []
        for frame in frames:
            self._received += 1
            if isinstance(frame, Undecodable):
                self._reject(frame)
                continue
            jobs += [
                self._job_of(window, now)
                for window in self._push(frame, fresh)
                if not self._answered_before(window.node_id, window.last_sequence)
            ]
        if self._samples is not None and fresh:
            self._samples.note(fresh)
        self._report_skipped()
        return jobs

    def take(self, windows: Iterable[ReceivedWindow], now: float) -> list[Job]:
        """Take windows in."""
        jobs: list[Job] = []
        normalisation = self._agreement.window_normalisation
        for window in windows:
            if self._answered_before(window.node_id, window.last_sequence):
                continue
            try:
                cells: npt.NDArray[Any] | TonescopeError = self._window_cells(window)
            except TonescopeError as error:
                cells = error
            jobs.append(
                Job(
                    cells,
                    self._next_index(),
                    now,
                    normalisation,
                    window.node_id,
                    window.first_sequence,
                    window.last_sequence,
                    window.capture_time_ns,
                )
            )
        return jobs

    def summary(self) -> Summary:
        """Return the counts of the intake; what became of its windows is the session's to add."""
        counts = self._windower.counts
        skipped = Counter(counts.skipped) + self._undecodable
        skipped.update({"duplicate": counts.duplicates, "reordered": counts.reordered, "answered_before": counts.known})
        return Summary(
            frames_received=self._received,
            frames_used=counts.frames,
            frames_skipped={kind: count for kind, count in skipped.items() if count},
            windows=self.windows,
            gaps=counts.gaps,
            reordered=counts.reordered,
            duplicates=counts.duplicates,
        )

    def _push(self, frame: Frame, fresh: list[Frame] | None) -> list[Window]:
        """Return the windows that a frame completes; note it in ``fresh`` where it is not dropped."""
        counts = self._windower.counts
        dropped = counts.duplicates + counts.reordered
        windows = self._windower.push(frame)
        if fresh is not None and counts.duplicates + counts.reordered == dropped:
            fresh.append(frame)
        if self._normalise.observes:
            for key, row in self._windower.taken:
                self._normalise.observe(row, key)
        return windows

    def _job_of(self, window: Window, now: float) -> Job:
        try:
            frames = self._normalise.apply(window.frames, window.key)
            cells: npt.NDArray[Any] | TonescopeError = checked(self._model, self._cells.arrange(frames)[None])
        except TonescopeError as error:
            cells = error
        return Job(
            cells,
            self._next_index(),
            now,
            self._agreement.normalisation,
            window.node_id,
            window.first_sequence,
            window.last_sequence,
            window.capture_time_ns,
            window.transmitter,
            window.rx,
        )

    def _window_cells(self, window: ReceivedWindow) -> npt.NDArray[Any]:
        values = window.values
        if isinstance(values, TonescopeError):
            raise values
        if self._samples is not None:
            self._samples.window(values, window.node_id)
        cells = checked(self._model, in_shape(values, self._cells.shape)[None])
        if self._agreement.window_normalisation == "none":
            return cells
        frames, node = self._cells.frames(cells)[0], window.node_id
        if self._normalise.observes:
            self._normalise.observe_window(frames, node)
        normalised = self._normalise.apply(frames, (node, "", 0, 0))
        return checked(self._model, self._cells.arrange(normalised)[None])

    def _next_index(self) -> int:
        self.windows += 1
        return self._first_window + self.windows - 1

    def _answered_before(self, node: int, last_sequence: int | None) -> bool:
        """Say whether a window was answered before the reconnection; the first newer one ends the question."""
        until = self._resume.get(node)
        if until is None or last_sequence is None:
            return False
        if 0 <= until - last_sequence <= RESUME_SPAN:
            return True
        del self._resume[node]
        return False

    def _reject(self, frame: Undecodable) -> None:
        kind = frame.error.kind if isinstance(frame.error, FrameError) else frame.error.reason.lower()
        self._undecodable[kind] += 1
        if self._first((frame.node_id, kind)):
            self.notices.append(Rejected(frame.error, frame.node_id, frame.sequence))

    def _report_skipped(self) -> None:
        counts = self._windower.counts
        for kind in counts.skipped:
            if self._first((-1, kind)):
                lengths = ", ".join(map(str, self._agreement.frame_lengths))
                text = f"frames are skipped as '{kind}': windows take finite {self._takes}frames of {lengths} tones"
                self.notices.append(Warned("FRAMES_SKIPPED", text))
        for name, text in _RULES.items():
            if getattr(counts, name) and self._first((-1, name)):
                self.notices.append(Warned(name.upper(), text))

    def _first(self, report: tuple[int | None, str]) -> bool:
        if report in self._reported or len(self._reported) >= MAX_REPORTS:
            return False
        self._reported.add(report)
        return True


def in_shape(values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return a window's values in the input's shape: as they are, flat, or with or without axes of one.

    Raises:
        ShapeError: any other shape; above all a transposed one.
    """
    got = values.shape
    if got == shape:
        return values
    fits = values.size == math.prod(shape) and (
        len(got) == 1 or [size for size in got if size != 1] == [size for size in shape if size != 1]
    )
    if not fits:
        raise ShapeError(f"values: expected {shape}, got {got}")
    return values.reshape(shape)


class StreamNormalisation:
    """One normaliser for a whole stream, with whatever statistics it takes."""

    def __init__(self, name: str, options: Options, model: Model, normalisers: Mapping[str, Normaliser]) -> None:
        self.observes = name not in ("none", "manifest", "recording")
        self._given: dict[StatisticsKey, StreamNormaliser] = {}
        self._stream: StreamNormaliser | None = None
        stated = model.manifest.normalisation
        if name == "recording":
            given = _named(normalisers, "manifest")
            for key, (mean, std) in options.statistics.items():
                if mean.shape != (model.cells.n_columns,):
                    raise ShapeError(f"statistics: expected {model.cells.n_columns} tones, got {mean.shape}")
                self._given[key] = given.for_stream(mean, std, stated.eps)
        else:
            mean_stated, std_stated = column_statistics(model.manifest, model.cells.n_columns)
            self._stream = _named(normalisers, name).for_stream(mean_stated, std_stated, stated.eps)

    def observe(self, row: FloatArray, key: StreamKey) -> None:
        """Take note of a frame that was used: the values read off it."""
        if self._stream is not None:
            self._stream.observe(row, key)

    def observe_window(self, frames: npt.NDArray[Any], node: int) -> None:
        """Take note of a window that came as such."""
        if self._stream is not None:
            self._stream.observe(frames, (node, "", 0, 0))

    def apply(self, frames: npt.NDArray[Any], key: StreamKey) -> FloatArray:
        """Normalise a window.

        Raises:
            ParameterError: no statistics were sent for this node, or none for frames of this length.
        """
        if self._stream is not None:
            return self._stream.apply(frames, key)
        node, length = key[0], key[3]
        for name in ((node, length), (node, None), (None, length), (None, None)):
            if name in self._given:
                return self._given[name].apply(frames, key)
        whose = f"node {node}{f', frames of {length} tones' if length else ''}"
        raise ParameterError(f"normalisation: expected the recording's statistics of {whose}, got none")


def _named(normalisers: Mapping[str, Normaliser], name: str) -> Normaliser:
    if name not in normalisers:
        known = ", ".join(sorted(normalisers))
        raise NotFoundError(f"normalisation '{name}': unknown, expected one of {known}")
    return normalisers[name]
