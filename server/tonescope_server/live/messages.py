"""What goes in and out of a live stream, as plain values. The wire's form of each is in ``services``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy.typing as npt

from tonescope_server.checks import Finding
from tonescope_server.engine.attribution import Attribution
from tonescope_server.errors import TonescopeError
from tonescope_server.types import FloatArray, Target

StatisticsKey = tuple[int | None, int | None]
"""Node, and tones of its frames as they come; None for any."""


class Overload(StrEnum):
    """What to do when windows come faster than they are explained."""

    DROP_OLDEST = "drop_oldest"
    BACK_PRESSURE = "back_pressure"


@dataclass(frozen=True)
class Wanted:
    """What to send beside the attribution per tone.

    Attributes:
        top_k: how many tones to list as the strongest.
        cells: the attribution per cell.
        declared_rows: the attribution per row of the axis that the model's own shape calls tones.
        parts: the attribution per antenna link, component and tone.
        maps: what else the method has to show.
        units: the attribution per group of cells.
    """

    top_k: int = 0
    cells: bool = False
    declared_rows: bool = False
    parts: bool = False
    maps: bool = False
    units: bool = False


@dataclass(frozen=True)
class Options:
    """How to open a stream, as asked. Zero, "" and None mean: as the manifest or the daemon has it.

    Attributes:
        statistics: mean and standard deviation per tone, by node and length of the frames; under None, for every other
            node or length.
        normalisation: a normaliser's name; None means the manifest's for frames, and none for windows.
        resume_from: by node, the last frame of the last window that was answered before a reconnection.
        resume_starts: by node and length, the first frame of the last window of such frames that was.
    """

    model: str = ""
    version: str = ""
    target: Target | None = None
    method: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    want: Wanted = Wanted()
    window_frames: int = 0
    hop_frames: int = 0
    normalisation: str | None = None
    statistics: Mapping[StatisticsKey, tuple[FloatArray, FloatArray]] = field(default_factory=dict)
    tone_layout: str = ""
    source_id: str = ""
    latency_budget_s: float = 0.0
    overload: Overload = Overload.DROP_OLDEST
    queue_windows: int = 0
    resume_from: Mapping[int, int] = field(default_factory=dict)
    resume_starts: Mapping[tuple[int, int], int] = field(default_factory=dict)
    default_format: str = ""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A frame that could not be read; the node is None where nothing said which it was."""

    error: TonescopeError
    node_id: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedWindow:
    """A window as sent: its values, or why they could not be read."""

    values: npt.NDArray[Any] | TonescopeError
    node_id: int = 0
    first_sequence: int | None = None
    last_sequence: int | None = None
    capture_time_ns: int | None = None


@dataclass(slots=True, eq=False)
class Job:
    """A window that waits to be explained: normalised cells, ``(1, *input shape)``, or why there are none.

    Attributes:
        link: the row of its frames that it was made of; None where frames have one, and where it holds them all.
        previous: the window before it, like ``cells``, where the method asks for it; None where there is none.
    """

    cells: npt.NDArray[Any] | TonescopeError
    index: int
    arrived: float
    normalisation: str
    node_id: int = 0
    first_sequence: int | None = None
    last_sequence: int | None = None
    capture_time_ns: int | None = None
    transmitter: str = ""
    link: int | None = None
    previous: npt.NDArray[Any] | None = None


@dataclass(slots=True, eq=False)
class Running:
    """Mean and standard error per tone over one node's windows of this stream, as of one window.

    One window alone has no standard error.
    """

    count: int
    mean: FloatArray
    standard_error: FloatArray | None


@dataclass(slots=True, eq=False)
class Answer:
    """The answer to one job: row ``row`` of a batch's attribution, or the error that this window met."""

    job: Job
    outcome: Attribution | TonescopeError
    row: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    dropped_before: int = 0
    running: Running | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Windows dropped unexplained since the last such notice, and in all."""

    windows: int
    total: int
    cause: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The first frame of its node that was refused as one of its kind. Later ones are only counted."""

    error: TonescopeError
    node_id: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Warned:
    """Something about the stream that its owner should know."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Draining:
    """The daemon is going away."""

    grace_s: float
    cause: str = "shutdown"


@dataclass(slots=True)
class Summary:
    """Counts of a whole stream."""

    frames_received: int = 0
    frames_used: int = 0
    frames_skipped: dict[str, int] = field(default_factory=dict)
    windows: int = 0
    explained: int = 0
    dropped: int = 0
    failed: int = 0
    gaps: int = 0
    reordered: int = 0
    duplicates: int = 0
    findings: dict[str, int] = field(default_factory=dict)


Notice = Dropped | Rejected | Warned | Finding | Draining | Summary
