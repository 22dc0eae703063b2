"""What a metric of explanations is: a diagnostic that judges how well attributions say what a model does.

A metric is a plain object that is handed an attribution under judgement, and may ask the model for scores, the method
for attributions of other points, and for the same with randomised weights. How these are made belongs to the engine;
what random attributions come to under the same metric is worked out by whoever asks for the judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tonescope_server.plugin.api import Parameters
from tonescope_server.plugin.sampling import generator
from tonescope_server.types import BoolArray, FloatArray, IntArray

Float64Array = npt.NDArray[np.float64]
Score = Callable[[FloatArray, IntArray], Float64Array]
"""``(points (n, *input shape), window (n,)) → (n,)``: the target's value; as ``ModelAccess.score``."""
Attribute = Callable[[FloatArray, IntArray], Float64Array]
"""``(points (n, *input shape), window (n,)) → (n, features)``: the attribution of other points, for the same target."""

CELLS_AT_ONCE = 2**24
"""Cells of points that are made before they are scored: what bounds the memory that a judgement takes."""


class Need(StrEnum):
    """What a metric asks for beside the attribution itself."""

    SCORES = "scores"
    ATTRIBUTIONS = "attributions"
    RANDOMISED_WEIGHTS = "randomised_weights"
    PLANTED_TRUTH = "planted_truth"


class Chance(StrEnum):
    """What random attributions of the same distribution are, for a metric to be compared with."""

    PERMUTED = "permuted"
    """The attribution's own values, each given to a feature drawn at random."""
    NORMAL = "normal"
    """Normal numbers of the same mean and standard deviation: for a metric that permuting does not change."""


class LayerOrder(StrEnum):
    """In which order layers are randomised; those that came before stay random."""

    BOTTOM_UP = "bottom_up"
    """From the layer that reads the input upwards."""
    TOP_DOWN = "top_down"
    """From the layer that makes the output downwards."""


Randomised = Callable[[LayerOrder, int, int], Iterator[tuple[str, Attribute]]]
"""``(order, most steps, draw of weights) →`` the last layer randomised, and the method on the model as it then is."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Attributions under judgement: of one method, of several windows, and what may be asked about them.

    A feature is what is ranked and removed as one: a tone, or a single cell. Tones that carry no signal are no
    features: what a method puts there is the null-tone share, and says nothing of the model.

    Shapes:
        x: ``(n, *input shape)``; attribution: ``(n, features)``; elsewhere: ``(n,)``; feature_of_cell: ``(cells,)``;
        baseline: ``(1 or n, *input shape)``; planted: ``(features,)``.

    Attributes:
        x: the windows.
        attribution: of each feature, raw and signed.
        elsewhere: the sum of what is attributed to no feature.
        feature_of_cell: the feature of each flat cell; −1 for a cell of none, which is always left as it is.
        baseline: what removed features are put at.
        seed: of all that a metric draws.
        score: the target's value at any points; the class is the one that the window was explained for.
        attribute: the method at any points.
        randomised: the method on models whose layers are randomised one after the other.
        planted: which features are known to matter; None where that is not known.
    """

    x: FloatArray
    attribution: Float64Array
    elsewhere: Float64Array
    feature_of_cell: IntArray
    baseline: FloatArray
    seed: int
    score: Score
    attribute: Attribute
    randomised: Randomised
    planted: BoolArray | None = None

    @property
    def n_features(self) -> int:
        """Count the features."""
        return int(self.attribution.shape[1])

    @property
    def everyone(self) -> IntArray:
        """The windows' own places: what ``score`` and ``attribute`` are told for one point of each."""
        return np.arange(len(self.x), dtype=np.int64)

    def generator(self, purpose: str, number: int = 0) -> np.random.Generator:
        """Return the generator of one draw: the same for every window, whatever else is drawn."""
        return generator(self.seed, purpose, number)

    def without(self, removed: BoolArray, window: IntArray) -> FloatArray:
        """Return windows with some features at the baseline.

        Shapes:
            removed ``(k, features)``, window ``(k,)`` → ``(k, *input shape)``.
        """
        put = np.append(removed, np.zeros((len(removed), 1), np.bool_), axis=1)  # −1 is the last: cells of no feature
        gone = put[:, self.feature_of_cell].reshape(len(removed), *self.x.shape[1:])
        filling = self.baseline[window] if len(self.baseline) > 1 else self.baseline
        result: FloatArray = np.where(gone, filling, self.x[window])
        return result

    def score_without(self, removed: BoolArray) -> Float64Array:
        """Return the target's value with some features at the baseline.

        Shapes:
            removed ``(n, k, features)``: k times for each window → ``(n, k)``.
        """
        n, k, features = removed.shape
        flat, window = removed.reshape(-1, features), np.repeat(self.everyone, k)
        most = max(CELLS_AT_ONCE // self.feature_of_cell.size, 1)
        parts = [slice(start, start + most) for start in range(0, n * k, most)]
        scores = [self.score(self.without(flat[rows], window[rows]), window[rows]) for rows in parts]
        return np.concatenate(scores).reshape(n, k)


@dataclass(frozen=True, eq=False)
class Measured:
    """What a metric found.

    Shapes:
        values: ``(n,)``: one a window, finite; curves: each ``(n, steps)``.

    Attributes:
        values: the metric.
        curves: what it was worked out from, by name: the target's value as features go, say.
        at: for each curve where its steps are, ``(steps,)``, from 0 to 1; steps that are names have theirs in
            ``steps``.
        steps: names of the steps of each curve, where they have some.
    """

    values: Float64Array
    curves: Mapping[str, Float64Array] = field(default_factory=dict)
    at: Mapping[str, Float64Array] = field(default_factory=dict)
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Metric:
    """A diagnostic of explanations. Subclass it, state its attributes, and write ``measure``.

    ``measure`` is pure: the same judged attribution and parameters, the same answer, also where an attribution is zero
    everywhere or has one feature only. A docstring says what it is then; it is never NaN.

    Attributes:
        name: what requests call it.
        summary: one line.
        source: the paper.
        higher_is_better: whether more of it speaks for an explanation; None for one that says neither.
        needs: what it asks for.
        chance: what random attributions are, to compare with.
        unit: of its values; "" for a plain number.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    higher_is_better: ClassVar[bool | None] = None
    needs: ClassVar[frozenset[Need]] = frozenset()
    chance: ClassVar[Chance] = Chance.PERMUTED
    unit: ClassVar[str] = ""
    Parameters: ClassVar[type[Parameters]] = Parameters

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Judge the attributions of some windows."""
        raise TypeError(f"metric '{self.name}' does not say how it measures: it needs measure()")
