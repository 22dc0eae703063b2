"""Feature visualisation: the window that a class, a unit or a channel answers most to, climbed to from random starts.

How a window is written as numbers is in ``parametrisations``. Source: Erhan et al. 2009 (activation maximisation); Olah
et al. 2017 (spectra, shifts). Our departures: windows of CSI have a spectrum over time, whitened over subcarriers by a
reference, in place of one in two dimensions decorrelated over colours; images are not squashed into a range, for that
of the model's input is not known; they are moved and scaled, not turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import CellMap
from tonescope_server.engine.parametrisations import Array, Parametrisation, parametrisation_of
from tonescope_server.engine.targets import Resolved, TargetLike, is_open
from tonescope_server.errors import MethodNotApplicableError, ParameterError, TargetError, UnknownTensorError
from tonescope_server.gradients.differentiate import named, values_by_name
from tonescope_server.models.model import Model, TensorSpec
from tonescope_server.types import FloatArray, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tonescope_server.engine.explainer import Explainer

RANDOM_INPUTS = 64
BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
CORNER = 1e-3  # where total variation is rounded off, so that it has a gradient at zero


@dataclass(frozen=True)
class Climb:
    """How a window is climbed to; every field is a parameter of ``Explainer.visualise``.

    Attributes:
        steps: of Adam, whose rate is ``learning_rate``.
        learning_rate: see ``steps``.
        seeds: how many starts there are; ``seed`` numbers the first.
        seed: see ``seeds``.
        tv: weight of the mean |difference| of neighbours: in time, or of pixels.
        l2: weight of the mean square.
        roll: frames that a window is shifted by at most, at each step.
        jitter: pixels that an image is shifted by at most, at each step.
        scaling: the part that an image is scaled by at most, at each step.
    """

    steps: int = 512
    learning_rate: float = 0.05
    seeds: int = 3
    seed: int = 0
    tv: float = 0.1
    l2: float = 1.0
    roll: int = 2
    jitter: int = 4
    scaling: float = 0.1

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "seeds": 1, "seed": 0, "tv": 0, "l2": 0}.items():
            if getattr(self, name) < least:
                raise ParameterError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ParameterError(f"learning_rate: expected more than 0, got {self.learning_rate}")


@dataclass(frozen=True)
class Visualisation:
    """The windows that were found, one for each start, and how much they are worth.

    Attributes:
        objective: what was maximised, in words.
        windows: (seeds, *input shape), not shifted.
        score: the objective of each, without penalties, ``(seeds,)``.
        start_score: where each began, ``(seeds,)``.
        random_score: of random inputs from the same parametrisation, brought to the same norm, ``(seeds, 64)``.
        stability: the mean correlation between the windows of different seeds, where no tone is null; None for one.
        history: the objective at each step, of shifted windows, ``(seeds, steps)``.
        parameters: of the climb, and whether it was whitened by a reference.
        layout: how a window's cells lie.
        model_digest: sha256 of the model.
    """

    objective: str
    windows: FloatArray
    score: Array
    start_score: Array
    random_score: Array
    stability: float | None
    history: Array
    parameters: Mapping[str, Any]
    layout: CellMap = field(repr=False)
    model_digest: str = ""

    @property
    def gain(self) -> Array:
        """How much the objective rose from the start, ``(seeds,)``."""
        return self.score - self.start_score

    @property
    def gain_over_random(self) -> Array:
        """How much it is above the mean of random inputs of the same norm, ``(seeds,)``."""
        return np.asarray(self.score - self.random_score.mean(axis=1))

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Draw the windows, and how the objective rose; save it to ``path`` as well, where given."""
        from tonescope_server.pictures.files import save  # matplotlib takes its time to import
        from tonescope_server.pictures.optimised import Optimised, optimised_figure

        figure = optimised_figure(
            Optimised(
                title=f"What maximises {self.objective}",
                subtitle=f"{len(self.score)} seeds · {self.history.shape[1]} steps · {self._worth}",
                layout=self.layout,
                windows=self.windows,
                score=self.score,
                history=self.history,
                random_score=self.random_score,
            )
        )
        if path is not None:
            save(figure, Path(path))
        return figure

    @property
    def _worth(self) -> str:
        alike = "" if self.stability is None else f" · correlation between seeds {self.stability:.2f}"
        over = f"{self.gain_over_random.mean():.3g} over random inputs of the same norm"
        return f"gain {self.gain.mean():.3g} over the start, {over}{alike}"


def visualise(
    explainer: Explainer, resolved: Resolved, objective: str, reference: npt.NDArray[np.float32] | None, climb: Climb
) -> Visualisation:
    """Climb from every seed's start.

    Raises:
        ParameterError, MethodNotApplicableError: as ``parametrisation_of``.
        TargetError: the target leaves its class to the prediction, which a random start does not have.
    """
    if is_open(resolved.target):
        raise TargetError("target: expected a class or another element by index or name, got the predicted class")
    model = explainer.model
    space = parametrisation_of(model.cells, reference, climb.roll, climb.jitter, climb.scaling)
    numbers = np.stack([_generator(climb.seed + i, 0).standard_normal(space.shape) for i in range(climb.seeds)])
    still, start = space.view(None), space.signals(numbers)
    evaluate = _Objective(explainer, resolved)
    found, history = _climbed(space, numbers, climb, evaluate)
    signals = space.signals(found)
    random = [_random_scores(space, signal, climb.seed + i, evaluate) for i, signal in enumerate(signals)]
    return Visualisation(
        objective=objective,
        windows=still.see(signals).astype(np.dtype(model.input.dtype)),
        score=evaluate(still.see(signals))[0],
        start_score=evaluate(still.see(start))[0],
        random_score=np.stack(random),
        stability=_stability(signals),
        history=history,
        parameters={**vars(climb), "is_whitened": reference is not None},
        layout=model.cells,
        model_digest=model.digest,
    )


class _Objective:
    """The target and its gradient, by the plan that explanations use; one window at a time where a batch is coupled."""

    def __init__(self, explainer: Explainer, resolved: Resolved) -> None:
        self._name, self._dtype = explainer.model.input.name, np.dtype(explainer.model.input.dtype)
        self._resolved, self._plan = resolved, explainer.differentiated(resolved)
        self._most = 1 if explainer.model.is_coupled or explainer.model.input.shape[0] == 1 else 64

    def __call__(self, windows: Array) -> tuple[Array, Array]:
        """Return the score and its gradient: (n, *input shape) → (n,), (n, *input shape)."""
        parts = [self._run(windows[i : i + self._most]) for i in range(0, len(windows), self._most)]
        scores, gradients = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(gradients)

    def _run(self, windows: Array) -> tuple[Array, Array]:
        feeds = {self._name: windows.astype(self._dtype), **self._resolved.feeds(slice(None), len(windows))}
        results = self._plan.session.run(feeds)
        return np.asarray(results["score"], np.float64), np.asarray(results["gradient"], np.float64)


def _climbed(space: Parametrisation, numbers: Array, climb: Climb, evaluate: _Objective) -> tuple[Array, Array]:
    """Run Adam, and return where it ended with the objective at each step."""
    mean, square = np.zeros_like(numbers), np.zeros_like(numbers)
    history = np.empty((len(numbers), climb.steps))
    for step in range(1, climb.steps + 1):
        signals = space.signals(numbers)
        view = space.view([_generator(climb.seed + i, step) for i in range(len(numbers))])
        history[:, step - 1], by_window = evaluate(view.see(signals))
        by_signal = view.pull_back(by_window) - penalty_gradient(signals, space.smooth_axes, climb.tv, climb.l2)
        gradient = space.pull_back(by_signal)
        mean += (1 - BETAS[0]) * (gradient - mean)
        square += (1 - BETAS[1]) * (gradient**2 - square)
        slope = mean / (1 - BETAS[0] ** step)
        size = np.sqrt(square / (1 - BETAS[1] ** step))
        numbers = numbers + climb.learning_rate * slope / (size + ADAM_EPSILON)
    return numbers, history


def penalty(signals: Array, smooth_axes: tuple[int, ...], tv: float, l2: float) -> Array:
    """Return tv · mean √(Δ² + ε²) + l2 · mean x² of each signal, Δ between neighbours along each of the axes."""
    of_each = tuple(range(1, signals.ndim))
    found = l2 * (signals**2).mean(axis=of_each)
    for axis in smooth_axes:
        if signals.shape[axis + 1] > 1:
            found = found + tv * np.sqrt(np.diff(signals, axis=axis + 1) ** 2 + CORNER**2).mean(axis=of_each)
    return np.asarray(found)


def penalty_gradient(signals: Array, smooth_axes: tuple[int, ...], tv: float, l2: float) -> Array:
    """Return the gradient of ``penalty`` by the signals."""
    size = signals[0].size
    found = 2 * l2 * signals / size
    for axis in smooth_axes if tv else ():
        change = np.diff(signals, axis=axis + 1)
        if change.size:
            slope = tv * change / np.sqrt(change**2 + CORNER**2) / change[0].size
            none = [(0, 0)] * signals.ndim
            before, after = list(none), list(none)
            before[axis + 1], after[axis + 1] = (1, 0), (0, 1)
            found = found + np.pad(slope, before) - np.pad(slope, after)
    return np.asarray(found)


def _random_scores(space: Parametrisation, signal: Array, seed: int, evaluate: _Objective) -> Array:
    """Score random signals of the same norm as one that was found."""
    draw = _generator(seed, 2**32)
    random = space.signals(draw.standard_normal((RANDOM_INPUTS, *space.shape)))
    norms = np.sqrt((random**2).sum(axis=tuple(range(1, random.ndim)), keepdims=True))
    scaled = random * np.linalg.norm(signal) / np.maximum(norms, np.finfo(np.float64).tiny)
    scores: Array = evaluate(space.view(None).see(scaled))[0]
    return scores


def _stability(signals: Array) -> float | None:
    """Return the mean correlation of pairs, over the places where any signal is not zero."""
    flat = signals.reshape(len(signals), -1)
    flat = flat[:, flat.any(axis=0)]
    if len(flat) < 2 or flat.shape[1] < 2:
        return None
    pairs = np.asarray(np.corrcoef(flat))[np.triu_indices(len(flat), 1)]
    return float(pairs.mean())


def _generator(seed: int, step: int) -> np.random.Generator:
    """Draw from a counter: the same seed and step, the same draws, however many seeds and steps there are."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))


# -- internal values as objectives -----------------------------------------------------------------------------------


def with_output(model: Model, name: str) -> Model:
    """Return the model with an internal value among its outputs.

    Raises:
        MethodNotApplicableError: the value has no fixed shape behind the batch.
    """
    if any(spec.name == name for spec in model.outputs):
        return model
    graph = model.graph.clone(deep_copy=False)
    value = named(values_by_name(graph.graph), name)
    spec = TensorSpec.of(value)
    if len(spec.shape) < 2 or spec.shape[0] not in (-1, model.input.shape[0]) or min(spec.shape[1:]) < 1:
        shape = " x ".join(str(size) for size in spec.shape) or "unknown"
        raise MethodNotApplicableError(f"layer '{name}': expected the batch and then a fixed shape, got {shape}")
    graph.graph.outputs.append(value)
    return replace(model, graph=graph, outputs=(*model.outputs, spec), digest=f"{model.digest}+{name}")


def layer_target(
    model: Model, layer: str, channel: int | None, unit: tuple[int, ...] | None, axis: int
) -> tuple[Target, str]:
    """Return the mean of a layer, of one of its channels, or one unit, as a target; and what it is in words.

    Args:
        model: with the layer among its outputs.
        layer: the name of that output.
        channel: which channel; None for all.
        unit: a position in the layer, without the batch; None for a channel.
        axis: the layer's axis of channels, the batch's being 0.

    Raises:
        UnknownTensorError: the layer has no such channel or unit.
        ParameterError: both a channel and a unit.
    """
    shape = next(spec.shape for spec in model.outputs if spec.name == layer)[1:]
    if channel is not None and unit is not None:
        raise ParameterError("unit: expected a channel or a unit, got both")
    if unit is not None:
        if len(unit) != len(shape) or not all(0 <= at < size for at, size in zip(unit, shape, strict=False)):
            raise UnknownTensorError(f"layer '{layer}' has no unit {unit}: expected a position in {shape}")
        return Target.element(tuple(unit), layer), f"unit {', '.join(map(str, unit))} of layer '{layer}'"
    if channel is None:
        return Target.mean(output=layer), f"the mean of layer '{layer}'"
    along = axis - 1 if axis > 0 else axis + len(shape)
    if not 0 <= along < len(shape):
        raise ParameterError(f"channel_axis: expected 1 to {len(shape)}, or negative, got {axis} of layer '{layer}'")
    if not 0 <= channel < shape[along]:
        raise UnknownTensorError(f"layer '{layer}' has no channel {channel}: expected 0 to {shape[along] - 1}")
    places = np.take(np.arange(np.prod(shape)).reshape(shape), channel, axis=along).ravel()
    return Target.mean([int(place) for place in places], layer), f"channel {channel} of layer '{layer}'"


def class_in_words(given: TargetLike, target: Target, model: Model) -> str:
    """Say what a target is: the name of a class, where it has one."""
    names = model.manifest.output(str(target.output)).class_names
    index = given if isinstance(given, str) else target.index
    if isinstance(index, int) and index < len(names):
        return f"'{names[index]}'"
    said = str(target.kind).replace("_", " ")
    return f"'{index}'" if isinstance(index, str) else said if index is None else f"{said} {index} of '{target.output}'"
