"""Which tones to send: from recordings and a model to a ranking, its stability, masks, and accuracy against K."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from tonescope_server.csi.tones import ToneKind, ToneTable
from tonescope_server.engine.explainer import Explainer
from tonescope_server.engine.targets import TargetLike
from tonescope_server.errors import EmptyRecordingError, ParameterError, RecordingError
from tonescope_server.models.model import Model
from tonescope_server.reports.dataset import Dataset, Kind, Windows, cut_windows, need_windows
from tonescope_server.reports.tones.masking import Curve, Fill, accuracy_curve, curve_ks
from tonescope_server.reports.tones.masks import Mask, mask_of
from tonescope_server.reports.tones.ranking import DRAWS, Ranking, rank_tones
from tonescope_server.reports.tones.resampling import Float64Array, Sources
from tonescope_server.reports.tones.stability import Stability, compare_all
from tonescope_server.types import BoolArray, FloatArray, IntArray

METHOD = "subcarrier_saliency"
KS = (8, 16, 32)
CSD_FIELD = "csd"
EXPLAINED_AT_ONCE = 32
FEWEST_WINDOWS = 4  # in all: a ranking must be tried on other windows than it is made of


class Left(StrEnum):
    """Why a row is left out of every choice."""

    NULL = "null"
    NO_CHANNEL = "no channel"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Plan:
    """What to find out, and how.

    Attributes:
        method: the attribution method that ranks.
        target: what is explained; None means the model's default.
        parameters: the method's.
        ks: how many tones to choose.
        fill: what stands in place of masked tones; None means the manifest's baseline where it states one, else the
            mean over the windows.
        random_sets: how many random sets of tones to compare with, for each K.
        draws: how often means are drawn again.
        most_windows: of each recording, evenly spread.
        most_tried: windows that sets of tones are tried on in all, evenly spread; this is what takes time.
        seed: of everything that is drawn.
    """

    method: str = METHOD
    target: TargetLike = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ks: tuple[int, ...] = KS
    fill: Fill | None = None
    random_sets: int = 100
    draws: int = DRAWS
    most_windows: int = 1024
    most_tried: int = 256
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Choice:
    """What was found out.

    Shapes:
        importance: ``[n, n_tones]``.

    Attributes:
        model: the model.
        plan: as asked for, its method's parameters with their defaults.
        names: of the recordings.
        sources: where the windows come from.
        importance: of each tone in each window: the magnitude of its attribution.
        left_out: the rows that are never chosen, and why.
        ranking: of the others.
        stability: of the ranking.
        masks: one for each K.
        curve: accuracy against K.
    """

    model: Model
    plan: Plan
    names: tuple[str, ...]
    sources: Sources
    importance: Float64Array
    left_out: Mapping[int, Left]
    ranking: Ranking
    stability: tuple[Stability, ...]
    masks: tuple[Mask, ...]
    curve: Curve

    @property
    def table(self) -> ToneTable:
        """The tones."""
        return self.model.table


def choose(
    explainer: Explainer,
    data: Sequence[Dataset],
    plan: Plan,
    normalise: str = "",
    hop: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Choice:
    """Choose the tones that a model needs most.

    Null tones, rows that hold no channel, and rows that never vary in these recordings are never chosen.

    Args:
        explainer: the model.
        data: recordings, paired files or windows.
        plan: what to find out.
        normalise: a normaliser; "" means what ``cut_windows`` takes.
        hop: frames from one window to the next; 0 means the manifest's.
        advance: called after each set of tones that was tried.

    Raises:
        EmptyRecordingError: a recording without a window, or none whose tones vary.
        RecordingError: too few windows in all.
        ParameterError: a K that is more than there are tones to choose from.
        TonescopeError: whatever is wrong with the method, its parameters or the target.
    """
    parts = [_windows_of(each, explainer, plan, normalise, hop) for each in data]
    windows = [part for part, _ in parts]
    names = tuple(each.name for each in data)
    cells = np.concatenate([part.cells for part in windows])
    if len(cells) < FEWEST_WINDOWS:
        raise RecordingError(
            f"recording {', '.join(names)}: expected at least {FEWEST_WINDOWS} windows, got {len(cells)}"
        )
    sources = _sources(windows, [overlap for _, overlap in parts])
    left_out = rows_left_out(explainer.model, np.concatenate([part.raw for part in windows]))
    eligible = np.array([row not in left_out for row in range(len(explainer.model.table))])
    _check_ks(plan.ks, int(eligible.sum()), names)
    importance = importance_of(explainer, cells, plan)
    rng = np.random.default_rng(plan.seed)
    ranking = rank_tones(importance, sources, eligible, plan.ks, rng, plan.draws)
    return Choice(
        explainer.model,
        plan,
        names,
        sources,
        importance,
        left_out,
        ranking,
        compare_all(importance, sources, eligible, plan.ks, names),
        tuple(mask_of(explainer.model.table, ranking.order, k) for k in plan.ks),
        _curve(explainer, cells, _labels(windows), importance, sources, eligible, plan, rng, advance),
    )


def importance_of(explainer: Explainer, cells: FloatArray, plan: Plan) -> Float64Array:
    """Return the magnitude of the attribution of each tone in each window: ``[n, n_tones]``."""
    found = [
        explainer.explain(cells[start : start + EXPLAINED_AT_ONCE], plan.method, plan.target, **plan.parameters).tones
        for start in range(0, len(cells), EXPLAINED_AT_ONCE)
    ]
    return np.abs(np.concatenate(found)).astype(np.float64)


def rows_left_out(model: Model, raw: FloatArray) -> dict[int, Left]:
    """Say which rows must not be chosen, and why.

    Shapes:
        raw: ``[n, *input shape]``, before normalisation.
    """
    columns = model.cells.frames(raw).reshape(-1, model.cells.n_columns)
    constant = (np.ptp(columns, axis=0) == 0).reshape(-1, model.cells.n_tones).all(axis=0)
    left: dict[int, Left] = {}
    for tone in model.table:
        if tone.kind is ToneKind.NULL:
            left[tone.row] = Left.NULL
        elif tone.training_field == CSD_FIELD:
            left[tone.row] = Left.NO_CHANNEL
        elif constant[tone.row]:
            left[tone.row] = Left.CONSTANT
    return left


def _windows_of(data: Dataset, explainer: Explainer, plan: Plan, normalise: str, hop: int) -> tuple[Windows, int]:
    """Return the windows to go by, and how many consecutive ones share frames."""
    windows = cut_windows(data, explainer, normalise, hop)
    need_windows(data, windows, explainer.model)
    model, n = explainer.model, len(windows)
    overlap = 1
    if data.kind is Kind.RECORDING:
        step = hop or model.manifest.window.hop or model.cells.n_frames
        overlap = -(-model.cells.n_frames // step) * len(np.unique(windows.node_ids))
    if n <= plan.most_windows:
        return windows, overlap
    chosen = spread(n, plan.most_windows)
    return windows.only(chosen), max(-(-overlap * plan.most_windows // n), 1)


def spread(n: int, most: int) -> IntArray:
    """Choose at most ``most`` of ``n``, evenly spread."""
    if n <= most:
        return np.arange(n, dtype=np.int64)
    return np.linspace(0, n - 1, most).round().astype(np.int64)


def _sources(windows: Sequence[Windows], overlap: Sequence[int]) -> Sources:
    numbers = np.repeat(np.arange(len(windows), dtype=np.int64), [len(part) for part in windows])
    return Sources(numbers, np.concatenate([part.node_ids for part in windows]), tuple(overlap))


def _labels(windows: Sequence[Windows]) -> IntArray | None:
    """Return the labels, where every window has one."""
    labels = [part.labels for part in windows if part.labels is not None]
    return np.concatenate(labels) if len(labels) == len(windows) else None


def _check_ks(ks: Sequence[int], n_eligible: int, names: Sequence[str]) -> None:
    if not n_eligible:
        raise EmptyRecordingError(f"recording {', '.join(names)}: expected tones that vary, got none")
    for k in ks:
        if not 1 <= k <= n_eligible:
            raise ParameterError(f"k: expected from 1 to {n_eligible}, the tones that carry signal, got {k}")


def _curve(
    explainer: Explainer,
    cells: FloatArray,
    labels: IntArray | None,
    importance: Float64Array,
    sources: Sources,
    eligible: BoolArray,
    plan: Plan,
    rng: np.random.Generator,
    advance: Callable[[], object],
) -> Curve:
    stated = explainer.model.manifest.baseline
    fill = plan.fill or (Fill.BASELINE if stated.tones or stated.value else Fill.MEAN)
    tried = spread(len(cells), plan.most_tried)
    thinned = [max(-(-each * len(tried) // len(cells)), 1) for each in sources.overlap]
    return accuracy_curve(
        explainer,
        cells[tried],
        None if labels is None else labels[tried],
        importance[tried],
        sources.only(tried, thinned),
        eligible,
        curve_ks(plan.ks, int(eligible.sum())),
        fill,
        plan.random_sets,
        rng,
        advance,
    )
