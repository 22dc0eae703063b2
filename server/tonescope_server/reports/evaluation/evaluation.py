"""Methods compared on a model and its data: which metrics, on which windows, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tonescope_server.engine.explainer import Explainer
from tonescope_server.engine.targets import TargetLike
from tonescope_server.errors import MethodNotApplicableError, ParameterError, TonescopeError
from tonescope_server.models.model import Model
from tonescope_server.plugin.api import Parameters
from tonescope_server.plugin.host import PluginHost
from tonescope_server.plugin.metric import Need
from tonescope_server.reports.evaluation.judging import Judgement, checked_parameters, judge
from tonescope_server.reports.evaluation.subject import Over, Subject
from tonescope_server.types import FloatArray, IntArray, ResultWarning

DRAWS = 20


@dataclass(frozen=True)
class Plan:
    """What to judge, and by what.

    Attributes:
        methods: attribution methods by name.
        metrics: metrics by name; () means every one that there is, but those of planted truth where none is known.
        parameters: of methods and metrics, by their names.
        target: what is explained; None means the model's default.
        over: what a feature is.
        planted: rows of the tone table that are known to matter; None where that is not known.
        draws: how many random attributions each metric is compared with.
        seed: of everything that is drawn.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    target: TargetLike = None
    over: Over = Over.TONES
    planted: tuple[int, ...] | None = None
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True, eq=False)
class OfMethod:
    """What was found of one method.

    Attributes:
        method: its name.
        parameters: its own, defaults filled in.
        judgements: by metric.
        failed: metrics that could not judge it, and why.
        evaluations: model evaluations that one explanation of one window took.
        warnings: what should be known of its explanations before they are believed, each once.
    """

    method: str
    parameters: Mapping[str, Any]
    judgements: Mapping[str, Judgement]
    failed: Mapping[str, str]
    evaluations: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found.

    Attributes:
        model: the model.
        plan: as asked for; its metrics are those that were used.
        n_windows: how many windows were explained.
        n_features: how many features each has.
        methods: what was found of each, in the order of the plan.
        refused: methods that cannot explain this model, and why.
    """

    model: Model
    plan: Plan
    n_windows: int
    n_features: int
    methods: tuple[OfMethod, ...]
    refused: Mapping[str, str]


def metrics_of(plan: Plan, host: PluginHost) -> dict[str, Parameters]:
    """Return the metrics that a plan asks for, each with its parameters checked.

    Raises:
        NotFoundError: no such metric.
        ParameterError: a parameter that is wrong; parameters of what is not asked for; or a metric of planted truth
            where none is known.
    """
    names = plan.metrics or tuple(
        name
        for name, metric in sorted(host.diagnostics.items())
        if plan.planted is not None or Need.PLANTED_TRUTH not in metric.needs
    )
    for name in plan.parameters:
        if name not in names and name not in plan.methods:
            raise ParameterError(f"parameters of '{name}': expected of a method or a metric that is asked for")
    found = {name: checked_parameters(host.metric(name), plan.parameters.get(name, {})) for name in names}
    for name in names:
        if plan.planted is None and Need.PLANTED_TRUTH in host.metric(name).needs:
            raise ParameterError(f"metric '{name}': expected to be told which tones are planted, got none")
    return found


def evaluate(
    explainer: Explainer, x: FloatArray, plan: Plan, advance: Callable[[], object] = lambda: None
) -> Evaluation:
    """Judge methods on the windows of a model.

    A method that cannot explain this model, and a metric that cannot judge a method, are told with the reason, and the
    others go on.

    Args:
        explainer: the model.
        x: windows, ``(n, *input shape)``.
        plan: what to judge, and by what.
        advance: called ``work_of`` times, as the work goes on.

    Raises:
        UnknownMethodError, NotFoundError, ParameterError: a plan that cannot be.
        MethodNotApplicableError: no method can explain this model.
    """
    metrics = metrics_of(plan, explainer.host)
    subject = Subject(explainer, x, plan.target, plan.over, plan.planted, plan.seed)
    for method in plan.methods:
        explainer.host.method(method)
    found, refused = [], {}
    for method in plan.methods:
        made = _judged(subject, method, plan, metrics, advance)
        if isinstance(made, str):
            refused[method] = made
        else:
            found.append(made)
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise MethodNotApplicableError(f"model '{explainer.model.name}': nothing to judge ({reasons})")
    used = replace(plan, metrics=tuple(metrics))
    return Evaluation(explainer.model, used, len(x), len(subject.features.chosen), tuple(found), refused)


def work_of(plan: Plan, host: PluginHost) -> int:
    """Say how often ``evaluate`` calls ``advance``."""
    return len(plan.methods) * len(metrics_of(plan, host)) * (1 + plan.draws)


def spread_over(n: int, most: int) -> IntArray:
    """Return at most ``most`` of ``n`` places, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def _judged(
    subject: Subject,
    method: str,
    plan: Plan,
    metrics: Mapping[str, Parameters],
    advance: Callable[[], object],
) -> OfMethod | str:
    """Judge one method by every metric; return why it cannot be where it cannot."""
    steps = 1 + plan.draws
    try:
        shown, attribution = subject.judged(method, plan.parameters.get(method, {}))
    except ParameterError:
        raise
    except TonescopeError as error:
        _advance(advance, steps * len(metrics))
        return str(error)
    judgements, failed = {}, {}
    for name, parameters in metrics.items():
        done = _Counted(advance)
        try:
            judgements[name] = judge(subject.explainer.host.metric(name), shown, parameters, plan.draws, done)
        except TonescopeError as error:
            failed[name] = str(error)
            _advance(advance, steps - done.calls)
    told = _told(attribution.warnings, len(subject.x))
    return OfMethod(method, attribution.parameters, judgements, failed, attribution.evaluations, told)


def _told(warnings: Sequence[ResultWarning], n: int) -> tuple[str, ...]:
    """Say each warning once, and in how many windows."""
    of_all = [each.message for each in warnings if each.window is None]
    counts = Counter(each.code for each in warnings if each.window is not None)
    first = {each.code: each.message for each in reversed(warnings)}
    of_some = [f"in {count} of {n} windows: {first[code]}" for code, count in counts.items()]
    return tuple(dict.fromkeys([*of_all, *of_some]))


class _Counted:
    """Calls through, and counts."""

    def __init__(self, advance: Callable[[], object]) -> None:
        self._advance, self.calls = advance, 0

    def __call__(self) -> None:
        self.calls += 1
        self._advance()


def _advance(advance: Callable[[], object], times: int) -> None:
    for _ in range(times):
        advance()
