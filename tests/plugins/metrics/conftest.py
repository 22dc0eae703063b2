"""Judged attributions of functions that are written down, so that every metric has an answer known by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tonescope_server.plugin import Judged

N, TONES, FRAMES = 3, 6, 2


def judged_of(
    function: Callable[[Any], Any],
    attribution: Any = None,
    *,
    explain: Callable[[Any], Any] | None = None,
    x: Any = None,
    baseline: float = 0.0,
    planted: Any = None,
    randomised: Any = None,
    null_tone: int | None = None,
) -> Judged:
    """Judge ``attribution`` of a function of windows ``(k, TONES, FRAMES)``; by default every tone is a feature."""
    if x is None:
        x = np.random.default_rng(4).standard_normal((N, TONES, FRAMES))
    tones = np.repeat(np.arange(TONES), FRAMES)
    of_cell = tones
    if null_tone is not None:
        of_cell = np.where(tones == null_tone, -1, tones - (tones > null_tone))
    features = TONES - (null_tone is not None)
    if attribution is None:
        assert explain is not None
        attribution = explain(x)

    def attribute(points: Any, window: Any) -> Any:
        assert explain is not None, "this metric should not ask for attributions"
        return explain(points)

    def steps(order: Any, most: int, draw: int) -> Any:
        for name, other in randomised(order, most, draw):
            yield name, (lambda points, window, other=other: other(points))

    return Judged(
        x=x,
        attribution=np.asarray(attribution, np.float64).reshape(len(x), features),
        elsewhere=np.zeros(len(x)),
        feature_of_cell=of_cell,
        baseline=np.full((1, TONES, FRAMES), baseline),
        seed=7,
        score=lambda points, window: np.asarray(function(points), np.float64),
        attribute=attribute,
        randomised=steps,
        planted=None if planted is None else np.isin(np.arange(features), planted),
    )


@pytest.fixture
def judged() -> Callable[..., Judged]:
    return judged_of


@pytest.fixture
def linear() -> Any:
    """A linear function of the windows, and what each tone contributes to it."""
    weights = np.random.default_rng(5).standard_normal((TONES, FRAMES))

    class Linear:
        def __call__(self, points: Any) -> Any:
            return (points * weights).sum(axis=(1, 2))

        def contributions(self, points: Any) -> Any:
            return (points * weights).sum(axis=2)

        def gradient(self, points: Any) -> Any:
            return np.broadcast_to(weights.sum(axis=1), (len(points), TONES))

    return Linear()


def measured(metric: Any, judged: Judged, **parameters: Any) -> Any:
    return metric.measure(judged, metric.Parameters(**parameters))


@pytest.fixture
def measure() -> Callable[..., Any]:
    return measured
