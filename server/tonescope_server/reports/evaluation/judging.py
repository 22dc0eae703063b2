"""One metric of one method: its value, and what random attributions get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from tonescope_server.errors import ParameterError, PluginError, TonescopeError
from tonescope_server.plugin.api import Parameters
from tonescope_server.plugin.metric import Float64Array, Judged, Measured, Metric
from tonescope_server.reports.evaluation.chance import by_chance

LIKELY_CHANCE = 0.05
SAME, TINY = 1e-9, 1e-15  # what rounding makes of equal values, relative and absolute: where all tones have the same


@dataclass(frozen=True, eq=False)
class Curve:
    """What a metric was worked out from, the mean over windows.

    Shapes:
        at, mean: ``(steps,)``; chance: ``(draws, steps)``.

    Attributes:
        name: which curve of the metric.
        at: where the steps are: the share of the features; None where steps have names.
        steps: names of the steps; () where they have places.
        mean: of the method.
        chance: of each draw of random attributions.
    """

    name: str
    at: Float64Array | None
    steps: tuple[str, ...]
    mean: Float64Array
    chance: Float64Array


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a metric says of a method.

    Shapes:
        values: ``(n,)``; chance: ``(draws,)``.

    Attributes:
        metric: the metric.
        parameters: its own, defaults filled in.
        values: one a window.
        chance: the mean over the windows for each draw of random attributions.
        curves: what it was worked out from.
    """

    metric: Metric
    parameters: Mapping[str, Any]
    values: Float64Array
    chance: Float64Array
    curves: tuple[Curve, ...]

    @property
    def mean(self) -> float:
        """The metric: its mean over the windows."""
        return float(self.values.mean())

    @property
    def spread(self) -> float:
        """The standard deviation over the windows; 0 for one."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def p_value(self) -> float | None:
        """How likely random attributions do at least as well: (1 + draws that do) / (1 + draws).

        None for a metric that has no better and worse.
        """
        return self._share_of_draws(self.metric.higher_is_better)

    @property
    def p_worse(self) -> float | None:
        """How likely random attributions do at most as well, likewise."""
        better = self.metric.higher_is_better
        return self._share_of_draws(None if better is None else not better)

    @property
    def is_told_from_chance(self) -> bool:
        """Say whether random attributions hardly ever do as well; fewer than 19 draws cannot tell."""
        return self.p_value is not None and self.p_value <= LIKELY_CHANCE

    @property
    def is_worse_than_chance(self) -> bool:
        """Say whether random attributions hardly ever do as badly: random weights that an attribution survives, say."""
        return self.p_worse is not None and self.p_worse <= LIKELY_CHANCE

    def _share_of_draws(self, at_least: bool | None) -> float | None:
        if at_least is None:
            return None
        sign, size = (1 if at_least else -1), max(abs(self.mean), float(np.abs(self.chance).max()))
        rounding = SAME * size + TINY
        return (1 + int((sign * self.chance >= sign * self.mean - rounding).sum())) / (1 + len(self.chance))


def checked_parameters(metric: Metric, given: Mapping[str, Any]) -> Parameters:
    """Return a metric's parameters.

    Raises:
        ParameterError: which is wrong.
    """
    try:
        return metric.Parameters.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"][:1]) or "parameters"
        raise ParameterError(f"metric '{metric.name}', parameter '{name}': {first['msg']}") from error


def judge(
    metric: Metric,
    judged: Judged,
    parameters: Parameters,
    draws: int,
    advance: Callable[[], object] = lambda: None,
) -> Judgement:
    """Judge the attributions of a method by a metric, and random ones as often as is asked for.

    Raises:
        PluginError: the metric failed, or gave values that are not finite, or not one a window.
        TonescopeError: what the model or the method said of being asked again.
    """
    own = _measured(metric, judged, parameters)
    advance()
    random = []
    for draw in range(draws):
        random.append(_measured(metric, by_chance(judged, metric.chance, draw), parameters))
        advance()
    curves = tuple(
        Curve(
            name,
            own.at.get(name),
            own.steps.get(name, ()),
            values.mean(axis=0),
            np.stack([each.curves[name].mean(axis=0) for each in random]),
        )
        for name, values in own.curves.items()
    )
    chance = np.array([each.values.mean() for each in random])
    return Judgement(metric, parameters.model_dump(mode="json"), own.values, chance, curves)


def _measured(metric: Metric, judged: Judged, parameters: Parameters) -> Measured:
    try:
        found = metric.measure(judged, parameters)
    except TonescopeError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise PluginError(f"metric '{metric.name}' failed: {type(error).__name__}: {first}") from error
    if found.values.shape != (len(judged.x),) or not np.isfinite(found.values).all():
        raise PluginError(
            f"metric '{metric.name}': expected a finite value for each of {len(judged.x)} windows, "
            f"got {np.array2string(found.values, threshold=4)}"
        )
    return found
