"""From what a user calls a target to the seed that is differentiated and the weights that are fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.errors import TargetError
from tonescope_server.gradients.seed import Seed, Term, weights_name
from tonescope_server.models.model import Model, TensorSpec
from tonescope_server.types import FloatArray, IntArray, Target, TargetKind

TargetLike = Target | int | str | tuple[int, ...] | npt.NDArray[Any] | None
"""A target; or a class index or name, a position, one index per window; None for the model's default."""

_LIKELIHOODS = {TargetKind.LOG_PROBABILITY: 1.0, TargetKind.NEGATIVE_LOG_LIKELIHOOD: -1.0}


@dataclass(frozen=True)
class Resolved:
    """A target, ready to run.

    Attributes:
        target: the target with its defaults filled in.
        seed: what shapes the graph.
        weights: for each term of the seed its weights, ``(1 or batch, elements)``; None for a predicted one.
    """

    target: Target
    seed: Seed
    weights: tuple[FloatArray | None, ...]

    def feeds(self, rows: slice, batch: int) -> dict[str, FloatArray]:
        """Return the weights of the windows ``rows``, by the name of their run-time input.

        Raises:
            TargetError: per-window indices whose number is not the number of windows.
        """
        found: dict[str, FloatArray] = {}
        for number, weights in enumerate(self.weights):
            if weights is None:
                continue
            if len(weights) not in (1, batch):
                raise TargetError(f"target: expected one index for each of {batch} windows, got {len(weights)}")
            count = len(range(*rows.indices(batch)))
            found[weights_name(number)] = np.repeat(weights, count, axis=0) if len(weights) == 1 else weights[rows]
        return found


def as_target(given: TargetLike, model: Model) -> Target:
    """Turn what a user may write into a target; None becomes the model's default.

    The default is the predicted class; for a regression output, which has none, the mean of its elements.

    Raises:
        TargetError: not something that a target can be written as.
    """
    if isinstance(given, Target):
        return given
    if given is None:
        kind = model.manifest.output(model.outputs[0].name).kind
        return Target.mean() if kind == "regression" else Target.predicted()
    if isinstance(given, np.ndarray):
        if given.ndim > 1 or not np.issubdtype(given.dtype, np.integer):
            raise TargetError(f"target: expected integers, one per window; got {given.dtype} of shape {given.shape}")
        return Target.element(int(given) if given.ndim == 0 else given.astype(np.int64))
    if isinstance(given, bool) or not isinstance(given, int | str | tuple | np.integer):
        raise TargetError(f"target: expected an index, a class name or a Target, got {type(given).__name__}")
    return Target.element(int(given) if isinstance(given, np.integer) else given)


def resolve(target: Target, model: Model) -> Resolved:
    """Resolve a target against a model's outputs.

    Raises:
        TargetError: an output, class or element that the model does not have.
    """
    terms: dict[Term, FloatArray | None] = {}
    filled = _collect(target, model, 1.0, terms)
    return Resolved(filled, tuple(terms), tuple(terms.values()))


def _collect(target: Target, model: Model, sign: float, terms: dict[Term, FloatArray | None]) -> Target:
    """Add a target's terms, times ``sign``, and return it with its output filled in."""
    if target.kind is TargetKind.DIFFERENCE:
        if target.plus is None or target.minus is None:
            raise TargetError("target: a difference needs both 'plus' and 'minus'")
        return Target.difference(_collect(target.plus, model, sign, terms), _collect(target.minus, model, -sign, terms))
    output = _output(model, target.output)
    likelihood = target.kind in _LIKELIHOODS
    if target.kind is TargetKind.PREDICTED or (likelihood and target.index is None):
        if model.manifest.output(output.name).kind == "regression":
            raise TargetError(
                f"target: output '{output.name}' is a regression and predicts no class; name an element, or a mean"
            )
        scale = sign * _LIKELIHOODS.get(target.kind, 1.0)
        for same in [t for t in terms if t.predicted and (t.output, t.log_softmax) == (output.name, likelihood)]:
            scale += same.scale
            del terms[same]
        terms[Term(output.name, likelihood, True, scale)] = None
    else:
        term = Term(output.name, likelihood)
        weights = sign * _LIKELIHOODS.get(target.kind, 1.0) * _weights(target, model, output)
        have = terms.get(term)
        terms[term] = (weights if have is None else have + weights).astype(np.float32)
    return Target(target.kind, output.name, target.index)


def is_open(target: Target) -> bool:
    """Say whether a target leaves its class to the prediction."""
    if target.kind is TargetKind.DIFFERENCE:
        return any(t is not None and is_open(t) for t in (target.plus, target.minus))
    return target.kind is TargetKind.PREDICTED or (target.kind in _LIKELIHOODS and target.index is None)


def predicted_as_elements(target: Target, classes: Callable[[str], IntArray]) -> Target:
    """Replace "the predicted class" by the classes that were predicted on an output, one per window."""
    if target.kind is TargetKind.DIFFERENCE:
        assert target.plus is not None  # resolved targets have both
        assert target.minus is not None
        return Target.difference(
            predicted_as_elements(target.plus, classes), predicted_as_elements(target.minus, classes)
        )
    assert target.output is not None  # resolved targets name their output
    if target.kind is TargetKind.PREDICTED:
        return Target.element(classes(target.output), target.output)
    if target.kind in _LIKELIHOODS and target.index is None:
        return Target(target.kind, target.output, classes(target.output))
    return target


def _output(model: Model, name: str | None) -> TensorSpec:
    if name is None or name == "":
        return model.outputs[0]
    for spec in model.outputs:
        if spec.name == name:
            return spec
    names = ", ".join(spec.name for spec in model.outputs)
    raise TargetError(f"target: model '{model.name}' has no output '{name}'; it has {names}")


def _weights(target: Target, model: Model, output: TensorSpec) -> FloatArray:
    shape = output.shape[1:]
    if any(d < 0 for d in shape):
        raise TargetError(f"target: output '{output.name}' has no fixed shape: {output.shape}")
    size = prod(shape)
    if target.kind in (TargetKind.MEAN, TargetKind.SUM):
        return _several(target, output, size)
    index = _flat_index(target.index, model, output, shape)
    bad = index[(index < 0) | (index >= size)]
    if bad.size:
        raise TargetError(f"target: output '{output.name}': expected an index from 0 to {size - 1}, got {bad[0]}")
    weights = np.zeros((len(index), size), np.float32)
    weights[np.arange(len(index)), index] = 1.0
    return weights


def _several(target: Target, output: TensorSpec, size: int) -> FloatArray:
    given: Any = range(size) if target.index is None else target.index
    chosen = list(given) if isinstance(given, range | tuple | list) or np.ndim(given) == 1 else [given]
    if not chosen or not all(map(_is_integer, chosen)):
        got = " ".join(repr(given).split())
        raise TargetError(f"target: {target.kind} of '{output.name}': expected indices, got {got:.60}")
    bad = [i for i in chosen if not 0 <= i < size]
    if bad:
        raise TargetError(
            f"target: {target.kind} of '{output.name}': expected indices from 0 to {size - 1}, got {bad[0]}"
        )
    weights = np.zeros((1, size), np.float32)
    np.add.at(weights[0], chosen, 1.0 / len(chosen) if target.kind is TargetKind.MEAN else 1.0)
    return weights


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _flat_index(index: Any, model: Model, output: TensorSpec, shape: tuple[int, ...]) -> IntArray:
    """Return flat indices, one, or one per window."""
    if isinstance(index, str):
        names = model.manifest.output(output.name).class_names
        if index not in names:
            known = f"its classes are {', '.join(names)}" if names else "none of its classes has a name: give an index"
            raise TargetError(f"target: output '{output.name}' has no class '{index}'; {known}")
        return np.asarray([names.index(index)], np.int64)
    if index is None:
        raise TargetError(f"target: output '{output.name}': an element needs an index")
    if isinstance(index, tuple | list):
        within = all(_is_integer(i) and 0 <= i < n for i, n in zip(index, shape, strict=False))
        if len(index) != len(shape) or not within:
            raise TargetError(f"target: output '{output.name}': expected a position in {shape}, got {tuple(index)}")
        return np.asarray([np.ravel_multi_index(tuple(index), shape)], np.int64)
    if isinstance(index, np.ndarray) and index.dtype.kind in "iu" and index.ndim < 2:
        return np.atleast_1d(index).astype(np.int64)
    if not _is_integer(index):
        got = f"{index.dtype} of shape {index.shape}" if isinstance(index, np.ndarray) else type(index).__name__
        raise TargetError(f"target: output '{output.name}': expected an index, a position or a class name, got {got}")
    return np.asarray([index])
