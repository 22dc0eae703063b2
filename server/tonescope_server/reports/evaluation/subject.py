"""What a metric is shown: the attributions of one method, and ways to ask the model and the method for more.

Scores and attributions of points that were asked for before are remembered: random attributions are judged on the same
points as those of the method, many times over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.engine.access import Access, free
from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.baselines import manifest_baseline
from tonescope_server.engine.explainer import Explainer
from tonescope_server.engine.fixed_target import target_of_rows
from tonescope_server.engine.plan import PlanCache
from tonescope_server.engine.randomised import weight_layers, with_random_weights
from tonescope_server.engine.targets import TargetLike
from tonescope_server.errors import MethodNotApplicableError, NonFiniteError, ParameterError
from tonescope_server.models.model import Model
from tonescope_server.plugin.metric import Float64Array, Judged, LayerOrder
from tonescope_server.types import BoolArray, FloatArray, IntArray, Target

_Memo = dict[bytes, Float64Array]
WINDOWS_AT_ONCE = 32
RANDOM_MODELS_BYTES = 64 * 1024 * 1024


class Over(StrEnum):
    """What a feature is: what is ranked and removed as one."""

    TONES = "tones"
    CELLS = "cells"


@dataclass(frozen=True, eq=False)
class Features:
    """The features of a model's windows: tones or cells that carry signal.

    Shapes:
        chosen: ``(features,)``, the tones or flat cells that are features; of_cell: ``(cells,)``, the feature of each
        cell, −1 for none; tone: ``(features,)``, the tone of each feature.
    """

    over: Over
    chosen: IntArray
    of_cell: IntArray
    tone: IntArray

    @classmethod
    def of(cls, model: Model, over: Over) -> Features:
        """Return the features of a model."""
        cells = model.cells
        nulls = model.table.null_mask if model.table.knows_nulls else np.zeros(cells.n_tones, np.bool_)
        live = ~nulls if over is Over.TONES else ~nulls[cells.tone_of_cell]
        chosen = np.flatnonzero(live).astype(np.int64)
        feature = np.full(len(live), -1, np.int64)
        feature[chosen] = np.arange(len(chosen))
        of_cell = feature[cells.tone_of_cell] if over is Over.TONES else feature
        return cls(over, chosen, of_cell, chosen if over is Over.TONES else cells.tone_of_cell[chosen])

    def read(self, found: Attribution) -> tuple[Float64Array, Float64Array]:
        """Return an attribution by feature, ``(n, features)``, and the sum of all else, ``(n,)``.

        Raises:
            MethodNotApplicableError: it has no cells, and cells are the features.
            NonFiniteError: it is NaN or infinite.
        """
        values = found.tones if self.over is Over.TONES else found.cells
        if values is None:
            raise MethodNotApplicableError(f"method '{found.method}' attributes tones, and no single cells")
        flat = values.reshape(len(values), -1).astype(np.float64)
        if not np.isfinite(flat).all():
            raise NonFiniteError(f"method '{found.method}': expected finite attributions, got NaN or infinity")
        own = flat[:, self.chosen]
        return own, flat.sum(axis=1) - own.sum(axis=1)

    def planted(self, rows: tuple[int, ...]) -> BoolArray:
        """Mark the features whose tone is one of some rows.

        Raises:
            ParameterError: a row that is no live tone.
        """
        for row in rows:
            if row not in self.tone:
                raise ParameterError(f"--planted: expected rows of tones that carry signal, got {row}")
        return np.isin(self.tone, rows)


@dataclass(eq=False)
class Subject:
    """A model and windows, on which methods are judged.

    Attributes:
        explainer: the model.
        x: the windows, ``(n, *input shape)``.
        target: what is explained; None means the model's default. Classes that are left to the prediction are those of
            the windows, whatever a metric makes of them.
        over: what a feature is.
        planted: rows of the tone table that are known to matter; None where that is not known.
        seed: of all that is drawn.
    """

    explainer: Explainer
    x: FloatArray
    target: TargetLike = None
    over: Over = Over.TONES
    planted: tuple[int, ...] | None = None
    seed: int = 0
    _scores: _Memo = field(default_factory=dict)
    _random: dict[tuple[str, ...], Explainer] = field(default_factory=dict)

    @cached_property
    def features(self) -> Features:
        """The features that are judged."""
        return Features.of(self.explainer.model, self.over)

    def judged(self, method: str, parameters: Mapping[str, Any]) -> tuple[Judged, Attribution]:
        """Explain the windows by a method, and return what metrics are shown of it.

        Raises:
            TonescopeError: the method cannot explain this model, or its parameters are wrong.
        """
        found = self.explainer.prepare(method, self.target, parameters).run(self.x)
        own, elsewhere = self.features.read(found)
        asked = _Asked(self, method, parameters, found.target)
        return Judged(
            x=self.x,
            attribution=own,
            elsewhere=elsewhere,
            feature_of_cell=self.features.of_cell,
            baseline=manifest_baseline(self.explainer.model),
            seed=self.seed,
            score=asked.score,
            attribute=asked.attribute(self.explainer),
            randomised=asked.randomised,
            planted=None if self.planted is None else self.features.planted(self.planted),
        ), found

    def randomised(
        self, order: LayerOrder, most: int, draw: int, output: str | None
    ) -> Iterator[tuple[str, Explainer]]:
        """Yield the model with more and more of its layers randomised, and the name of the last of them."""
        layers = weight_layers(self.explainer.model, output)
        if not layers:
            raise MethodNotApplicableError(f"model '{self.explainer.model.name}' has no weights to randomise")
        ordered = layers if order is LayerOrder.BOTTOM_UP else layers[::-1]
        steps = np.unique(np.round(np.linspace(0, len(layers), min(most, len(layers)) + 1)).astype(int))[1:]
        for count in steps.tolist():
            names = (str(draw), *sorted(layer.name for layer in ordered[:count]))
            if names not in self._random:
                model = with_random_weights(self.explainer.model, ordered[:count], self.seed, draw)
                self._random[names] = Explainer(model, self.explainer.host, cache=PlanCache(RANDOM_MODELS_BYTES))
            yield ordered[count - 1].name, self._random[names]


class _Asked:
    """What the metrics ask about one method."""

    def __init__(self, subject: Subject, method: str, parameters: Mapping[str, Any], target: Target) -> None:
        self._subject, self._method, self._parameters, self._target = subject, method, parameters, target
        resolved = subject.explainer.resolve(target)
        self._access = Access(subject.explainer, resolved, slice(0, len(subject.x)), len(subject.x), free)
        self._remembered: dict[str, _Memo] = {}

    def score(self, points: FloatArray, window: IntArray) -> Float64Array:
        """Return the target's value at points."""
        return _remembered(
            self._subject._scores, points, window, lambda: self._access.score(points, window).astype(np.float64)
        )

    def attribute(self, explainer: Explainer) -> Callable[[FloatArray, IntArray], Float64Array]:
        """Return what asks for the attribution of other points, of this model or of one with random weights."""
        memo = self._remembered.setdefault(explainer.model.digest, {})

        def make(points: FloatArray, window: IntArray) -> Float64Array:
            parts = []
            for start in range(0, len(points), WINDOWS_AT_ONCE):
                rows = slice(start, start + WINDOWS_AT_ONCE)
                prepared = explainer.prepare(self._method, target_of_rows(self._target, window[rows]), self._parameters)
                parts.append(self._subject.features.read(prepared.run(points[rows]))[0])
            return np.concatenate(parts)

        return lambda points, window: _remembered(memo, points, window, lambda: make(points, window))

    def randomised(
        self, order: LayerOrder, most: int, draw: int
    ) -> Iterator[tuple[str, Callable[[FloatArray, IntArray], Float64Array]]]:
        """Yield what asks for the attribution of the model with more and more random layers."""
        for name, explainer in self._subject.randomised(order, most, draw, _output(self._target)):
            yield name, self.attribute(explainer)


def _output(target: Target) -> str | None:
    """Return the output that a target is of; of a difference, that of its first part."""
    while target.plus is not None:
        target = target.plus
    return target.output


def _remembered(
    memo: _Memo, points: npt.NDArray[Any], window: IntArray, make: Callable[[], Float64Array]
) -> Float64Array:
    digest = hashlib.blake2b(np.ascontiguousarray(points).data, digest_size=16)
    digest.update(np.ascontiguousarray(window).data)
    key = digest.digest()
    if key not in memo:
        memo[key] = make()
    return memo[key]
