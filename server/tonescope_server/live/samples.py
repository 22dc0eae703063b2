"""The latest of what a stream brought and was answered, in bounded memory: what its checks look at.

This is on the way of every frame, window and answer, so it keeps references and looks at nothing: that is for
``checker``. Of frames that make room for later ones, facts are kept: see ``facts``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.frames import Frame
from tonescope_server.engine.attribution import Attribution
from tonescope_server.live.facts import FrameFacts, Seen
from tonescope_server.types import FloatArray

FRAMES = 128  # of each node and transmitter: in a row, for what happens from one frame to the next
FOLDED = 256  # frames, at least, that leave their facts together: in numpy, few at a time cost as much as many
WINDOWS = 32  # of each node
ANSWERS = 32  # of each node
EVERY = 8  # once there are enough windows and answers, one in so many is kept
MOST_KEYS = 16  # a sender that invents nodes does not fill the memory
MOST_SHAPES = 4  # of the frames of one node and transmitter
LARGEST_FRAME = 4096  # values
LARGEST_WINDOW = 65_536  # cells


class _FramesOf:
    """Frames of one node and transmitter: the latest, some of which may have left their facts already."""

    __slots__ = ("facts", "latest", "noted")

    def __init__(self) -> None:
        self.latest: list[Frame] = []
        self.noted = 0
        self.facts: dict[tuple[int, ...], FrameFacts] = {}

    def fold(self) -> None:
        """Note the facts of those frames that did not leave theirs yet, and let go of all but the latest."""
        by_shape: dict[tuple[int, ...], list[Frame]] = {}
        for frame in self.latest[self.noted :]:
            alike = by_shape.get(shape := frame.values.shape)
            if alike is None:
                by_shape[shape] = [frame]
            else:
                alike.append(frame)
        for shape, frames in by_shape.items():
            if shape not in self.facts and len(self.facts) < MOST_SHAPES:
                self.facts[shape] = FrameFacts(frames[0].node_id)
            if shape in self.facts:
                self.facts[shape].take(frames)
        del self.latest[:-FRAMES]
        self.noted = len(self.latest)


@dataclass(slots=True)
class _WindowsOf:
    """Windows of one node: how many there were, and those that are kept."""

    count: int = 0
    kept: deque[npt.NDArray[Any]] = field(default_factory=lambda: deque(maxlen=WINDOWS))


@dataclass(slots=True)
class _AnswersOf:
    """Answers of one node: how many there were, and those that are kept."""

    count: int = 0
    tones: deque[FloatArray] = field(default_factory=lambda: deque(maxlen=ANSWERS))
    cells: deque[FloatArray] = field(default_factory=lambda: deque(maxlen=ANSWERS))
    classes: deque[int] = field(default_factory=lambda: deque(maxlen=ANSWERS))


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Samples of one node's answers, put together.

    Shapes:
        tones: ``[n, n_tones]``.
        cells: ``[n, *shape]``; None for a method that has none.
        classes: ``[n]``; None for regression.
    """

    tones: FloatArray
    cells: FloatArray | None
    classes: npt.NDArray[np.int64] | None


class Samples:
    """What one stream brought of late, by node.

    Args:
        n_cells: cells of a window; windows of any other size are not kept.

    Attributes:
        frames_since: frames since somebody set this to zero; ``windows_since``: windows.
    """

    def __init__(self, n_cells: int) -> None:
        self._n_cells = n_cells
        self._frames: dict[tuple[int, str], _FramesOf] = {}
        self._windows: dict[int, _WindowsOf] = {}
        self._answers: dict[int, _AnswersOf] = {}
        self.frames_since = self.windows_since = 0

    @property
    def streams(self) -> int:
        """Count the nodes and transmitters that frames come from."""
        return len(self._frames)

    @property
    def nodes(self) -> int:
        """Count the nodes that windows come from."""
        return len(self._windows)

    def note(self, frames: Iterable[Frame]) -> None:
        """Take note of frames that were not dropped: a message's at once."""
        kept_of, count = self._frames, 0
        for frame in frames:
            key = frame.node_id, frame.transmitter
            kept = kept_of.get(key)
            if kept is None:
                if len(kept_of) >= MOST_KEYS:
                    continue
                kept = kept_of[key] = _FramesOf()
            if frame.values.size <= LARGEST_FRAME:
                kept.latest.append(frame)
                count += 1
        self.frames_since += count
        for kept in kept_of.values():
            if len(kept.latest) >= FOLDED + FRAMES:
                kept.fold()

    def window(self, values: npt.NDArray[Any], node: int) -> None:
        """Take note of a window that came as such: its values as sent, whether or not they fit the model."""
        of_node = self._windows.get(node)
        if of_node is None:
            if len(self._windows) >= MOST_KEYS:
                return
            of_node = self._windows[node] = _WindowsOf()
        count = of_node.count
        of_node.count = count + 1
        self.windows_since += 1
        if (count < WINDOWS or count % EVERY == 0) and values.size == self._n_cells <= LARGEST_WINDOW:
            of_node.kept.append(values)

    def answer(self, result: Attribution, row: int, node: int) -> None:
        """Take note of an answer: row ``row`` of a result."""
        kept = self._answers.get(node)
        if kept is None:
            if len(self._answers) >= MOST_KEYS:
                return
            kept = self._answers[node] = _AnswersOf()
        kept.count += 1
        if kept.count > ANSWERS and kept.count % EVERY:
            return
        # Copies: a row would keep its whole batch.
        kept.tones.append(result.tones[row].copy())
        if result.cells is not None and self._n_cells <= LARGEST_WINDOW:
            kept.cells.append(result.cells[row].copy())
        if result.prediction.class_index is not None:
            kept.classes.append(int(result.prediction.class_index[row]))

    def frames(self) -> list[Frame]:
        """Return the latest frames, stream by stream, each in order."""
        return [frame for kept in self._frames.values() for frame in kept.latest[-FRAMES:]]

    def seen(self) -> list[Seen]:
        """Return what is known of all frames since the last call, stream by stream and by the frames' shape."""
        found = []
        for kept in self._frames.values():
            kept.fold()
            found += [seen for facts in kept.facts.values() if (seen := facts.since()) is not None]
        return found

    def windows(self) -> dict[int, list[npt.NDArray[Any]]]:
        """Return the windows that are kept, by node."""
        return {node: list(of_node.kept) for node, of_node in self._windows.items() if of_node.kept}

    def answers(self) -> dict[int, Taken]:
        """Return the answers that are kept, by node."""
        return {node: _taken(kept) for node, kept in self._answers.items() if kept.tones}


def _taken(kept: _AnswersOf) -> Taken:
    whole = len(kept.tones)
    return Taken(
        np.stack(kept.tones),
        np.stack(kept.cells) if len(kept.cells) == whole else None,
        np.array(kept.classes, dtype=np.int64) if len(kept.classes) == whole else None,
    )
