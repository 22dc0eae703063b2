"""The tone layout of each kind of frame in a recording, from what the frames say and from what stays zero.

Evidence is gathered here, kind by kind; what a layout is, and which one evidence settles, belongs to ``tones``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.tones import ToneTable, detect_layout, may_be, tone_table
from tonescope_server.types import BoolArray

_SECONDARY = {1: "above", 2: "below"}
_SIDED = frozenset({"esp_lltf_secondary", "esp192_ht40"})
_RADIO = ("chip", "bandwidth_mhz", "sig_mode", "bandwidth", "stbc", "secondary_channel")
_MOST_KINDS = 1024

FrameKind = tuple[object, ...]


def kind_of(frame: Frame) -> FrameKind:
    """Name the kind of a frame: its node, its length, and what its header says of how it was sent.

    Frames of one kind have one tone layout.
    """
    return (frame.node_id, frame.n_tones, frame.tone_layout, *(frame.header.get(name) for name in _RADIO))


@dataclass(frozen=True)
class DetectedLayout:
    """The tone layout of the frames of one kind.

    Attributes:
        layout: its id; ``"unknown_<n>"`` where the evidence settles none.
        candidates: the layouts that the zeros had to choose from.
        zero_rows: the rows that stayed zero, on every antenna.
        frames: how many frames were looked at.
        reason: one line: what settles it, or why nothing does.
    """

    layout: str
    candidates: tuple[str, ...]
    zero_rows: tuple[int, ...]
    frames: int
    reason: str

    @property
    def table(self) -> ToneTable:
        """Give the layout's tone table."""
        return tone_table(self.layout)

    @property
    def is_known(self) -> bool:
        """Say whether the rows have an identity."""
        return not self.layout.startswith("unknown_")


@dataclass
class _Evidence:
    """What was seen of one kind of frame; ``zero`` marks the rows that were zero in every frame."""

    like: Frame
    zero: BoolArray
    frames: int = 0


@dataclass
class LayoutSurvey:
    """Gather, frame by frame, which rows stay zero; memory grows with the kinds of frame, not with the frames."""

    _seen: dict[FrameKind, _Evidence] = field(default_factory=dict)

    def take(self, frame: Frame) -> None:
        """Take note of a frame; beyond 1,024 kinds, frames of new ones are passed over."""
        kind = kind_of(frame)
        evidence = self._seen.get(kind)
        if evidence is None:
            if len(self._seen) >= _MOST_KINDS:
                return
            evidence = self._seen[kind] = _Evidence(frame, np.ones(frame.n_tones, dtype=np.bool_))
        evidence.frames += 1
        evidence.zero &= ~np.any(np.atleast_2d(frame.values), axis=0)

    def layouts(self) -> Mapping[FrameKind, DetectedLayout]:
        """Give the layout of every kind of frame seen."""
        return {kind: _detected(evidence) for kind, evidence in self._seen.items()}


def survey_layouts(items: Iterable[Frame | Skipped]) -> Mapping[FrameKind, DetectedLayout]:
    """Read frames through and tell the layout of every kind among them."""
    survey = LayoutSurvey()
    for item in items:
        if isinstance(item, Frame):
            survey.take(item)
    return survey.layouts()


def _detected(evidence: _Evidence) -> DetectedLayout:
    frame = evidence.like
    zero_rows = tuple(int(row) for row in np.flatnonzero(evidence.zero))
    if frame.tone_layout:
        return DetectedLayout(frame.tone_layout, (), zero_rows, evidence.frames, "named by the frames themselves")
    n, chip, bandwidth = frame.n_tones, frame.header.get("chip"), frame.header.get("bandwidth_mhz")
    candidates = may_be(n, chip, bandwidth)
    layout = detect_layout(n, chip, zero_rows, bandwidth)
    if layout.startswith("unknown_"):
        return DetectedLayout(layout, candidates, zero_rows, evidence.frames, _why_unknown(n, candidates, zero_rows))
    side = _SECONDARY.get(frame.header.get("secondary_channel", 0))
    if layout in _SIDED and side is not None:
        layout = f"{layout}_{side}"
    return DetectedLayout(layout, candidates, zero_rows, evidence.frames, "settled by the rows that stay zero")


def _why_unknown(n: int, candidates: tuple[str, ...], zero_rows: tuple[int, ...]) -> str:
    if not candidates:
        return f"no known layout has {n} rows"
    zeros = f"{len(zero_rows)} rows stay zero" if zero_rows else "no row stays zero"
    fits = {1: "not its pattern", 2: "the pattern of neither"}.get(len(candidates), "the pattern of none")
    return f"{n} rows could be {' or '.join(candidates)}, and {zeros}: {fits}"
