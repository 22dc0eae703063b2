"""What the daemon answers, as plain frozen values with NumPy arrays. ``decode`` builds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from tonescope.errors import TonescopeError

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tone:
    """One row of a tone table.

    Attributes:
        row: the row in the window and in every per-tone result.
        subcarrier_index: the signed index (DC = 0); None where it is not known.
        offset_hz: offset from the centre frequency, hertz; None where it is not known.
        kind: "data", "pilot", "null" or "unknown".
        training_field: "lltf", "ht_ltf", …; empty where it is not known.
        frequency_mhz: the absolute frequency; None where the model's manifest does not settle it.
        name: of a feature; empty for a tone.
    """

    row: int
    subcarrier_index: int | None
    offset_hz: float | None
    kind: str
    training_field: str = ""
    frequency_mhz: float | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class ToneTable:
    """The identity of every row of a result.

    Attributes:
        id: the layout's name.
        rows_are: "tones", or "features" for a model that takes engineered features and has no tone axis.
        centre_mhz: the frequency that offsets are measured from; None where it is not known.
        links: names of the antenna links that one window holds; empty where it holds one.
        components: what each tone's values in a frame are, such as "real" and "imaginary"; empty where it has one.
    """

    id: str
    tones: tuple[Tone, ...] = ()
    rows_are: str = "tones"
    centre_mhz: float | None = None
    links: tuple[str, ...] = ()
    components: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tones)

    @property
    def null_rows(self) -> tuple[int, ...]:
        """The rows that carry no signal."""
        return tuple(tone.row for tone in self.tones if tone.kind == "null")


@dataclass(frozen=True, slots=True)
class TopTone:
    """A tone among the strongest: its row, its raw signed attribution, and who it is (None if the table is unknown)."""

    row: int
    attribution: float
    tone: Tone | None = None


@dataclass(frozen=True, slots=True)
class ResultWarning:
    """What a user should know before believing a result: a stable ``code`` and one line."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said of one window.

    Attributes:
        class_index: the predicted class; None for a regression model.
        class_name: its name; empty where the manifest has none.
        probability: in [0, 1]; None for a regression model.
        scores: the first output's elements, flat.
        class_never_trained: whether this class never occurred in training; None where the manifest does not say.
        outputs: the other outputs, by name.
    """

    class_index: int | None
    class_name: str
    probability: float | None
    scores: Array
    class_never_trained: bool | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunningStatistics:
    """Mean and standard error of the per-tone attribution over ``count`` windows of one node of a stream.

    One window alone has no standard error: None.
    """

    count: int
    mean: Array
    standard_error: Array | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of one window.

    Where ``problem`` is set, only what identifies the window, the two times and ``dropped_before`` hold anything.

    Attributes:
        score: the target's value; None where there is a problem.
        tones: attribution per row of ``tone_table``, float32, raw and signed.
        cells: attribution per input cell, in the input's shape without the batch axis; None unless asked for.
        declared_rows: attribution per row of the axis that the model's own shape calls tones, whatever its cells
            really hold; None unless asked for, and where there is no such axis.
        parts: what each antenna link and component had of every tone's attribution, (n_links, n_components,
            n_tones), in the order of ``tone_table.links`` and ``.components``; None unless asked for.
        transmitter: of the window's frames; empty where it is not known.
        link: the row of its frames that the window was made of; None where frames have one, or it holds them all.
        top: the strongest tones by |attribution|, strongest first.
        convergence_delta: Σ cells − (f(x) − f(baseline)); None for a method that has none.
        null_tone_share: the part of Σ|attribution| on tones without signal, [0, 1]; None where none is known as
            null, and where the attribution is zero everywhere.
        target: the target as resolved, as a mapping (``{"index": 3}``).
        queue_ms: milliseconds the window waited; ``compute_ms``: milliseconds it took.
        dropped_before: windows of its stream dropped since the previous explanation.
        evaluations: model evaluations spent; None where there is a problem.
        problem: why this window could not be explained; None where it was.
        standard_error: of ``tones``, for a sampled estimate; None for an exact method.
        maps: what else the method has to show, by name; empty unless asked for.
        units: attribution per group of cells, (n_units); None unless asked for, and where there are no groups.
        batches: how many independent batches of samples ``standard_error`` was worked out from; None for an exact
            method, and for one that does not say.
    """

    node_id: int
    first_sequence: int | None
    last_sequence: int | None
    capture_time_ns: int | None
    window_index: int
    prediction: Prediction
    target: Mapping[str, Any]
    score: float | None
    tones: Array
    cells: Array | None
    top: tuple[TopTone, ...]
    tone_table: ToneTable
    convergence_delta: float | None
    null_tone_share: float | None
    warnings: tuple[ResultWarning, ...]
    running: RunningStatistics | None
    model_digest: str
    method: str
    parameters: Mapping[str, Any]
    rule_set: str
    normalisation: str
    queue_ms: float
    compute_ms: float
    dropped_before: int
    evaluations: int | None
    standard_error: Array | None
    problem: TonescopeError | None = None
    declared_rows: Array | None = None
    parts: Array | None = None
    transmitter: str = ""
    link: int | None = None
    maps: Mapping[str, Array] = field(default_factory=dict)
    units: Array | None = None
    batches: int | None = None


class Explanations(Sequence[Explanation]):
    """The explanations of a batch, in the order of its windows; also stacked: ``.tones``, ``.cells``, ``.score``."""

    def __init__(self, items: Sequence[Explanation], tone_table: ToneTable) -> None:
        self._items = tuple(items)
        self.tone_table = tone_table

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> Explanations: ...
    def __getitem__(self, index: int | slice) -> Explanation | Explanations:
        if isinstance(index, slice):
            return Explanations(self._items[index], self.tone_table)
        return self._items[index]

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self._items)

    @property
    def tones(self) -> Array:
        """Attribution per tone of the windows that were explained, shape (n_explained, n_tones)."""
        return np.stack([each.tones for each in self._items if each.problem is None])

    @property
    def cells(self) -> Array | None:
        """Attribution per cell of the windows that were explained, shape (n_explained, …); None if not asked for."""
        kept = [each.cells for each in self._items if each.cells is not None]
        return np.stack(kept) if kept else None

    @property
    def score(self) -> Array:
        """The target's value per window that was explained, shape (n_explained,)."""
        return np.array([each.score for each in self._items if each.problem is None], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model of the store: ``state`` is "ready", "failed" (``failure`` says why) or "unloaded"."""

    name: str
    version: str
    state: str
    failure: str
    digest: str
    description: str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A graph input, output or layer: ``shape`` has −1 for an axis that varies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    op_type: str = ""


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """One output: ``kind`` is "logits", "probabilities" or "regression"."""

    tensor: TensorInfo
    kind: str
    class_names: tuple[str, ...]
    trained_classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelDetail:
    """Everything the daemon knows about one model.

    Attributes:
        operators: (operator, how many nodes, whether it can be differentiated), most frequent first.
        methods: by method name, "" where it applies, else why it does not.
        manifest: the manifest as resolved.
        warnings: guesses and oddities met while loading.
    """

    info: ModelInfo
    manifest: Mapping[str, Any]
    input: TensorInfo
    outputs: tuple[OutputInfo, ...]
    layers: tuple[TensorInfo, ...]
    operators: tuple[tuple[str, int, bool], ...]
    methods: Mapping[str, str]
    tone_table: ToneTable
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One attribution method.

    Attributes:
        parameters: a JSON Schema.
        requirement: what it needs of a model.
        quarantined: why the daemon refuses it until its next start; "" where it does not.
    """

    name: str
    summary: str
    parameters: Mapping[str, Any]
    requirement: str
    source: str
    plugin: str
    version: str
    complete: bool
    quarantined: str = ""


@dataclass(frozen=True, slots=True)
class RuleSetInfo:
    """One backward rule set.

    Attributes:
        reference: its rules compare with a second forward pass, at a reference input.
        relevance: what flows back is relevance, which starts as the target's own value, and not a gradient.
    """

    name: str
    summary: str
    source: str
    plugin: str
    version: str
    reference: bool
    relevance: bool


@dataclass(frozen=True, slots=True)
class Methods:
    """The daemon's methods and rule sets, and the plugins that failed to load with the reason."""

    methods: tuple[MethodInfo, ...]
    failures: Mapping[str, str]
    rule_sets: tuple[RuleSetInfo, ...] = ()

    def __iter__(self) -> Iterator[MethodInfo]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)


@dataclass(frozen=True, slots=True)
class Opened:
    """What was negotiated when a live stream opened."""

    stream_id: str
    model: str
    model_version: str
    model_digest: str
    tone_table: ToneTable
    window_frames: int
    hop_frames: int
    normalisation: str
    method: str
    parameters: Mapping[str, Any]
    queue_windows: int
    overload: str
    inline: bool
    window_shape: tuple[int, ...]
    frame_lengths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """The daemon's counts of a whole stream, over all its connections that the daemon summed up.

    ``frames_skipped`` is by kind, in the words that ``live.proto`` lists; ``findings`` is what its checks found, by
    code: how often each appeared, node by node. Frames that were sent again after a reconnection count again.
    """

    frames_received: int
    frames_used: int
    frames_skipped: Mapping[str, int]
    windows: int
    explained: int
    dropped: int
    failed: int
    gaps: int
    reordered: int
    duplicates: int
    findings: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Summary) -> Summary:
        """Add the counts of another connection."""
        return Summary(
            **{each.name: _sum(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        )


def _sum(one: Any, other: Any) -> Any:
    """Add two counts, or two tables of counts."""
    return one + other if isinstance(one, int) else dict(Counter(one) + Counter(other))


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about a live stream that is not an explanation.

    Attributes:
        kind: "warning", "rejected", "dropped" or "draining".
        code: its stable word.
        message: one line.
        severity: of what the daemon's checks found: "fault" (answers about tones are wrong until something is
            changed), "warning" or "note"; empty for anything else.
        remedy: one line: what to change; empty where nothing is proposed.
        figures: the numbers behind it, by name.
        node_id: the node it is about; None for all of them, or where that does not matter.
    """

    kind: str
    code: str
    message: str
    severity: str = ""
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    node_id: int | None = None

    def __str__(self) -> str:
        """Say it in one line."""
        where = "" if self.node_id is None else f"node {self.node_id}: "
        remedy = f"; to do: {self.remedy}" if self.remedy else ""
        return f"{self.severity or self.kind}: {self.code}: {where}{self.message}{remedy}"
