"""Frames that were sent before, and frames that hold nothing: copies, loops, a sender that froze, silence.

Noise alone keeps any two real frames apart, so equality needs no threshold. Two things are allowed for all the same:
a channel so weak, or amplitudes so coarse, that few values recur by chance, and windows that overlap. A frame that
equals one of the last ``REACH`` is a copy wherever it stands, unless frames farther apart, which no sender's copy
explains, are equal about as often; one that equals an older frame is one only in a row of ``LOOP_RUN`` frames that all
equal the frame as long before; and frames are compared within a window, but for a sender that froze.

Frames are compared by a mark of 64 bits. Of two frames that differ, the marks are equal with a probability of about
2^-40.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.series import Series
from tonescope_server.types import BoolArray, IntArray

DUPLICATE_FRAMES = "DUPLICATE_FRAMES"
FROZEN_SENDER = "FROZEN_SENDER"
NO_SIGNAL = "NO_SIGNAL"

Marks = npt.NDArray[np.uint64]

FEWEST_FRAMES = 16
SMALLEST_SHARE = 0.005  # of the frames
REACH = 3  # frames: senders repeat at once, if at all
LOOP_RUN = 8  # frames in a row that all equal the one as long before
CHANCE_RATIO = 2.0  # a channel that moves slowly repeats near frames somewhat more often than far ones
CHANCE_ERRORS = 3.0  # standard errors of a count
FROZEN_RUN = 16  # frames in a row that all equal the one before: no copy now and then, but a sender that stands still


def marks_of(values: npt.NDArray[np.generic]) -> Marks:
    """Return a mark for each row: equal rows have equal marks.

    Shapes:
        values: ``[n, m]``, of four or eight bytes each → ``[n]``.
    """
    words = np.ascontiguousarray(values).view(np.uint32)
    marks: Marks = words.astype(np.uint64) @ _multipliers(words.shape[1])
    return marks


@lru_cache(maxsize=32)
def _multipliers(n: int) -> Marks:
    return np.random.default_rng(64).integers(0, 1 << 63, n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True, eq=False)
class Copies:
    """Which frames of a series say nothing new.

    Shapes:
        silent: ``[n]``: zero throughout.
        frozen: ``[n]``: in a long row of frames that all equal the one before.
        again: ``[n]``: any other frame that came before.

    Attributes:
        period: frames, where most of ``again`` are those of a loop; else 0.
    """

    silent: BoolArray
    frozen: BoolArray
    again: BoolArray
    period: int

    @classmethod
    def among(cls, marks: Marks, silent: BoolArray, follows: BoolArray) -> Copies:
        """Find them.

        Args:
            marks: of each frame.
            silent: whether a frame is zero throughout.
            follows: as in ``Series``.
        """
        same = np.concatenate([[False], marks[1:] == marks[:-1]]) & ~silent
        frozen = _in_runs(same, np.zeros(len(same), dtype=np.int64), FROZEN_RUN)
        window: IntArray = np.cumsum(~follows, dtype=np.int64)
        lag = _lag(marks, window)
        looped = _in_runs((lag > REACH) & ~silent & ~frozen, lag, LOOP_RUN)
        recent = (lag > 0) & (lag <= REACH) & ~silent & ~frozen
        repeated = _repeated_windows(marks, follows) & ~silent & ~frozen
        if recent.any() and not _more_than_chance(recent, marks, window, ~(silent | frozen | looped)):
            recent = _in_runs(recent & (lag > 1), lag, LOOP_RUN)  # chance makes no loop, even of two or three frames
        many = looped.sum() > recent.sum() + repeated.sum()
        period = int(np.median(lag[looped])) if many else 0
        return cls(silent, frozen, looped | recent | repeated, period)

    @classmethod
    def of(cls, series: Series) -> Copies:
        """Find those of a series."""
        silent: BoolArray = np.asarray(~series.amplitude.any(axis=1))
        return cls.among(marks_of(series.amplitude), silent, series.follows)

    @property
    def any(self) -> BoolArray:
        """Mark every frame that says nothing new."""
        return self.silent | self.frozen | self.again

    def findings(self, node_id: int | None) -> list[Finding]:
        """Say what was found."""
        if len(self.again) < FEWEST_FRAMES:
            return []
        found = []
        if _is_many(self.silent):
            found.append(_no_signal(self.silent, node_id))
        if self.frozen.any():
            found.append(_frozen(self.frozen, node_id))
        if _is_many(self.again):
            found.append(_duplicates(self.again, self.period, node_id))
        return found


def check_copies(series: Series) -> tuple[list[Finding], Series]:
    """Tell frames that came before, and frames without any signal.

    Returns:
        What was found, and the series without them.
    """
    if len(series) < FEWEST_FRAMES:
        return [], series
    copies = Copies.of(series)
    found = copies.findings(series.node_id)
    return found, series.only(~copies.any) if found else series


def _is_many(marked: BoolArray) -> bool:
    return int(marked.sum()) >= 2 and float(marked.mean()) >= SMALLEST_SHARE


def _lag(marks: Marks, window: IntArray) -> IntArray:
    """Return how many frames before each frame its like came last, in the same window; 0 where none did."""
    order = np.lexsort((marks, window))  # stable: equals stay in order of time
    lag = np.zeros(len(marks), dtype=np.int64)
    like = (marks[order[1:]] == marks[order[:-1]]) & (window[order[1:]] == window[order[:-1]])
    lag[order[1:][like]] = (order[1:] - order[:-1])[like]
    return lag


def _more_than_chance(recent: BoolArray, marks: Marks, window: IntArray, known: BoolArray) -> bool:
    """Say whether frames repeat one of the last few more often than frames farther apart equal each other."""
    order = np.lexsort((marks[known], window[known]))
    sorted_marks, sorted_window = marks[known][order], window[known][order]
    begins = (sorted_marks[1:] != sorted_marks[:-1]) | (sorted_window[1:] != sorted_window[:-1])
    equal = _pairs(np.bincount(np.concatenate([[0], np.cumsum(begins)])))
    pairs = _pairs(np.bincount(window[known]))
    for lag in range(1, REACH + 1):
        near = known[lag:] & known[:-lag] & (window[lag:] == window[:-lag])
        equal -= int((near & (marks[lag:] == marks[:-lag])).sum())
        pairs -= int(near.sum())
    expected = int(known.sum()) * (1.0 - (1.0 - equal / max(pairs, 1)) ** REACH)
    return int(recent.sum()) > CHANCE_RATIO * expected + CHANCE_ERRORS * math.sqrt(expected)


def _pairs(counts: IntArray) -> int:
    return int((counts * (counts - 1) // 2).sum())


def _in_runs(marked: BoolArray, kind: IntArray, least: int) -> BoolArray:
    """Mark the members of runs: ``least`` or more in a row that are marked, and of one kind."""
    if not marked.any():
        return marked
    begins = np.concatenate([[True], (marked[1:] != marked[:-1]) | (kind[1:] != kind[:-1])])
    run = np.cumsum(begins) - 1
    members: BoolArray = marked & (np.bincount(run)[run] >= least)
    return members


def _repeated_windows(marks: Marks, follows: BoolArray) -> BoolArray:
    """Mark the frames of windows that equal the window before, frame by frame: windows overlap, and move on."""
    starts = np.flatnonzero(~follows)
    length = len(marks) // max(len(starts), 1)
    if len(starts) < 2 or not np.array_equal(starts, length * np.arange(len(starts))) or len(marks) % length:
        return np.zeros(len(marks), dtype=np.bool_)
    windows = marks.reshape(-1, length)
    equal = np.concatenate([[False], (windows[1:] == windows[:-1]).all(axis=1)])
    return np.repeat(equal, length)


def _no_signal(silent: BoolArray, node_id: int | None) -> Finding:
    message = f"{int(silent.sum())} of {len(silent)} frames are zero throughout: they hold no channel at all"
    remedy = "see to the receiver: what it sends is no measurement; leave such frames out"
    return Finding(NO_SIGNAL, Severity.FAULT, message, remedy, {"silent_share": float(silent.mean())}, node_id)


def _frozen(frozen: BoolArray, node_id: int | None) -> Finding:
    message = (
        f"{int(frozen.sum())} of {len(frozen)} frames equal the one before exactly, {FROZEN_RUN} and more in a row: "
        "the sender stands still while it goes on sending"
    )
    remedy = "restart the sender, and see why it stops to measure; what is said of such windows is of one old frame"
    return Finding(FROZEN_SENDER, Severity.FAULT, message, remedy, {"frozen_share": float(frozen.mean())}, node_id)


def _duplicates(again: BoolArray, period: int, node_id: int | None) -> Finding:
    share = float(again.mean())
    figures = {"duplicate_share": share}
    if period:
        figures["period_frames"] = float(period)
        message = (
            f"{int(again.sum())} of {len(again)} frames equal the one {period} before: a buffer of {period} frames is "
            "sent over and over"
        )
        remedy = "see why the sender repeats its buffer: nothing new is measured meanwhile"
    else:
        message = f"{int(again.sum())} of {len(again)} frames repeat one of the last few exactly"
        remedy = "find what sends frames twice: windows of copies hold less time than they say"
    return Finding(DUPLICATE_FRAMES, Severity.FAULT, message, remedy, figures, node_id)
