"""The checks of one stream: when they look at its samples, and what they look for.

The checks themselves are in ``checks``. Copies of frames, their rate and steps of gain are told from facts of every
frame; all that looks at single tones looks at the latest frames. Looks are amortised: after the first frames or
windows, then four times as many, and so on up to a fixed distance, chosen so that they cost a twentieth of the rest of
the stream at most (``make bench`` measures it). What lasts is found early; what begins later, by the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.checks import Declared, Finding, Series, Severity, series_of
from tonescope_server.checks.data import check_recording, check_windows
from tonescope_server.checks.drift import ATTRIBUTION_DRIFT, FEWEST_WINDOWS, INPUT_DRIFT, attribution_profile
from tonescope_server.checks.frames import MIXED_TRAINING_FIELDS, RATE_MISMATCH
from tonescope_server.checks.gain import GAIN_DRIFT, GAIN_STEPS, REMEDY, SMALLEST_STEP_DB
from tonescope_server.checks.normalisation import WRONG_NORMALISATION
from tonescope_server.checks.results import Answers, check_answers
from tonescope_server.checks.series import Float64Array
from tonescope_server.csi.frames import Frame
from tonescope_server.live.facts import Seen
from tonescope_server.live.findings import Findings
from tonescope_server.live.protocol import Agreement
from tonescope_server.live.samples import Samples, Taken
from tonescope_server.models.model import Model
from tonescope_server.types import BoolArray

FIRST_FRAMES, FRAMES_APART = 64, 2048  # of each node
FIRST_WINDOWS, WINDOWS_APART = 64, 2048  # of each node
GROWTH = 4

_DRIFT = {INPUT_DRIFT, ATTRIBUTION_DRIFT}
_OF_LEVELS = {*_DRIFT, WRONG_NORMALISATION, GAIN_DRIFT}


class StreamChecker:
    """Checks one stream.

    Args:
        model: the model that explains, whose manifest is held against the stream.
        agreement: what was negotiated: how frames and windows are normalised.
        method: the attribution method.
        resolves_tones: whether what it gives a tone is meant for that tone alone.

    Attributes:
        samples: where frames, windows and answers are to be noted.
        findings: what was found so far.
    """

    def __init__(self, model: Model, agreement: Agreement, method: str, *, resolves_tones: bool = True) -> None:
        self.samples = Samples(model.cells.n_cells)
        self.findings = Findings()
        self._model = model
        self._method = method
        self._resolves_tones = resolves_tones
        self._lengths = agreement.frame_lengths
        declared = Declared.of(model)
        other = agreement.normalisation != declared.normalisation
        self._of_frames = _without_statistics(declared, agreement.normalisation) if other else declared
        self._sent_normalised = agreement.window_normalisation == "none"
        self._of_windows = declared if self._sent_normalised else self._of_frames
        self._starts: dict[int, Float64Array] = {}
        self._at_first: dict[int, bool] = {}  # by node: whether its levels were those of the training
        self._stepped: set[int | None] = set()
        self._drifting: set[tuple[str, int | None]] = set()
        self._frames_apart, self._windows_apart = FIRST_FRAMES, FIRST_WINDOWS

    @property
    def due(self) -> bool:
        """Say whether it is time for a look."""
        samples = self.samples
        return samples.frames_since >= self._frames_apart * max(
            samples.streams, 1
        ) or samples.windows_since >= self._windows_apart * max(samples.nodes, 1)

    @property
    def has_news(self) -> bool:
        """Say whether anything came since the last look."""
        return bool(self.samples.frames_since or self.samples.windows_since)

    def begin(self) -> Callable[[], list[Finding]]:
        """Take the samples as they are now; return what looks at them, in any thread."""
        samples = self.samples
        if samples.frames_since >= self._frames_apart:
            self._frames_apart = min(GROWTH * self._frames_apart, FRAMES_APART)
        if samples.windows_since >= self._windows_apart:
            self._windows_apart = min(GROWTH * self._windows_apart, WINDOWS_APART)
        samples.frames_since = samples.windows_since = 0
        seen, frames, windows, answers = samples.seen(), samples.frames(), samples.windows(), samples.answers()
        return lambda: self._look(seen, frames, windows, answers)

    def _look(
        self,
        seen: Sequence[Seen],
        frames: Sequence[Frame],
        windows: dict[int, list[npt.NDArray[Any]]],
        answers: dict[int, Taken],
    ) -> list[Finding]:
        found: list[Finding] = []
        if frames:
            found += self._check_frames(seen, frames)
        for node, sent in windows.items():
            cells = stacked(sent)
            if len(cells):
                data = check_windows(cells, self._of_windows, normalised=self._sent_normalised)
                found += [replace(finding, node_id=node) for finding in data]
        unsound = {finding.node_id for finding in found}
        for node, taken in answers.items():
            found += self._check_answers(node, taken, sound=node not in unsound)
        return self._settled(found)

    def _check_frames(self, seen: Sequence[Seen], frames: Sequence[Frame]) -> list[Finding]:
        """Put together what all frames say and what the latest say; where both say the same, what all do."""
        latest = check_recording(finite(series_of(frames)), self._of_frames, self._lengths)
        mixed = {each.node_id for each in latest if each.code == MIXED_TRAINING_FIELDS}
        # Frames of two fields, in turn, are not steps of gain.
        told = [
            each
            for facts in seen
            for each in facts.findings(self._of_frames)
            if each.code != GAIN_STEPS or each.node_id not in mixed
        ]
        already = {(each.code, each.node_id) for each in told}
        judged = {facts.node_id for facts in seen}
        # The rate of all frames since the last look is better known than that of the latest.
        told += [
            each
            for each in latest
            if (each.code, each.node_id) not in already and not (each.code == RATE_MISMATCH and each.node_id in judged)
        ]
        wrong = {each.node_id for each in latest if each.code == WRONG_NORMALISATION}
        for facts in seen:
            self._at_first.setdefault(facts.node_id, facts.node_id not in wrong)
        moved = {
            facts.node_id: facts.moved_db
            for facts in seen
            if abs(facts.moved_db) >= SMALLEST_STEP_DB and self._at_first[facts.node_id]
        }
        return [_since_the_beginning(each, moved) for each in told]

    def _settled(self, found: list[Finding]) -> list[Finding]:
        """Leave out what a look at so few frames may mistake: levels after steps of gain, and drift seen but once."""
        self._stepped |= {each.node_id for each in found if each.code == GAIN_STEPS}
        found = [each for each in found if each.code not in _OF_LEVELS or each.node_id not in self._stepped]
        before, self._drifting = self._drifting, {(each.code, each.node_id) for each in found if each.code in _DRIFT}
        return [each for each in found if each.code not in _DRIFT or (each.code, each.node_id) in before]

    def _check_answers(self, node: int, taken: Taken, *, sound: bool) -> list[Finding]:
        start = self._starts.get(node)
        found = taken.tones, taken.cells, taken.classes
        answers = Answers(self._method, *found, start, node, resolves_tones=self._resolves_tones)
        if start is None and sound and len(taken.tones) >= FEWEST_WINDOWS:
            self._starts[node] = attribution_profile(taken.tones)
        return check_answers(answers, self._model.manifest, self._model.cells, sound=sound)


def _since_the_beginning(finding: Finding, moved: dict[int, float]) -> Finding:
    """Tell levels that went off in the course of the stream as that: the statistics were right when it began."""
    if finding.code != WRONG_NORMALISATION or finding.node_id not in moved:
        return finding
    moved_db = moved[finding.node_id]
    message = (
        f"the level of all tones is {moved_db:+.1f} dB from where the stream began, and by no step: the receiver's "
        "gain, or whatever weakens the whole channel"
    )
    figures = {**finding.figures, "drift_db": moved_db}
    return Finding(GAIN_DRIFT, Severity.WARNING, message, REMEDY, figures, finding.node_id)


def _without_statistics(declared: Declared, normalisation: str) -> Declared:
    """Return what holds where the client chose another normalisation: the manifest's statistics play no part."""
    return replace(declared, normalisation=normalisation, mean=None, std=None)


def finite(all_series: Sequence[Series]) -> list[Series]:
    """Leave out frames with values that are not numbers: no window takes them."""
    kept = []
    for series in all_series:
        sound: BoolArray = np.asarray(np.isfinite(series.amplitude).all(axis=1))
        kept.append(series if sound.all() else series.only(sound))
    return [series for series in kept if len(series)]


def stacked(windows: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Put the windows together that have the last one's shape and are numbers throughout."""
    alike = [window for window in windows if window.shape == windows[-1].shape]
    cells = np.stack(alike).astype(np.float32, copy=False)
    sound = np.isfinite(cells.reshape(len(cells), -1)).all(axis=1)
    return cells if sound.all() else cells[sound]
