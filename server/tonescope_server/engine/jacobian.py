"""Jacobians: the gradients of many targets, from as few forward passes as memory allows.

What a target is made of is in ``targets``; how several share one forward pass is in ``gradients``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tonescope_server.engine.plan import Plan
from tonescope_server.engine.targets import Resolved, TargetLike
from tonescope_server.errors import TargetError
from tonescope_server.gradients.differentiate import named, values_by_name
from tonescope_server.gradients.seed import Seed, Term, weights_name
from tonescope_server.types import FloatArray

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer

# Backward passes in one graph. Compiling grows with them (a ResNet takes 40 ms with one, 0.6 s with eight), and what
# more would save is an eighth of a forward pass per target.
TARGETS_PER_GRAPH = 8
# Up to this many windows the targets are folded into the batch of one backward pass. Eight targets folded take, of what
# they take with a pass for each, on one core: at batch 1 0.2 × (LSTM), 0.4 × (GRU), 0.8 × (Transformer, MLP), 0.9 to
# 1.0 × (CountNet, depthwise, ResNet); at batch 4 0.9 to 1.5 ×; at batch 32 1.3 to 2.2 ×. With many windows it is no
# longer the number of kernels that counts, but that what they read is repeated.
FOLDED_WINDOWS = 2
# Rows of one run, as for every other plan: what bounds the memory that is at work.
ROWS_PER_RUN = 256


def jacobian(
    explainer: Explainer, x: FloatArray, targets: Sequence[TargetLike] | None, names: Sequence[str], rule_set: str
) -> list[FloatArray]:
    """Differentiate targets by values.

    Args:
        explainer: compiles.
        x: windows, as ``engine.windows.checked`` returns them.
        targets: what is differentiated; None means every element of the model's first output.
        names: of values in the model's graph, at least one.
        rule_set: backward rules by name.

    Returns:
        By name: ``(targets, *shape of the value)``, in which the batch is where the value has it.

    Raises:
        TargetError: no target, or one that the model does not have; nothing was run.
    """
    count, resolve = _chosen(explainer, targets)
    # Folded targets would be windows of one batch, and have part in each other's where the model couples those.
    fold = len(x) <= FOLDED_WINDOWS and not explainer.model.is_coupled
    size = max(ROWS_PER_RUN // len(x), 1) if fold else TARGETS_PER_GRAPH
    axes = [_batch_axis(explainer, name) for name in names]
    made: list[FloatArray] = []
    for first in range(0, count, size):
        part = resolve(slice(first, first + size))
        terms = _terms(part)
        plan = _plan(explainer, part[0], terms, len(part), tuple(names), rule_set, fold)
        for rows in _rows(len(x)):
            feeds = {explainer.model.input.name: x[rows], **_weights(part, terms, rows, len(x))}
            # What nothing depends on has zeros, which no weight is read for: the plan then does not take it.
            results = plan.session.run({name: fed for name, fed in feeds.items() if name in plan.session.inputs})
            found = [results[f"jacobian:{number}"] for number in range(len(names))]
            if len(part) == count and len(x[rows]) == len(x):
                return found
            made = made or [_room(v, count, axis, len(x), len(x[rows])) for v, axis in zip(found, axes, strict=True)]
            for whole, piece, axis in zip(made, found, axes, strict=True):
                each = piece.shape[axis + 1] // len(x[rows])  # rows of a window: attention may fold its heads into them
                place = slice(rows.start * each, rows.start * each + piece.shape[axis + 1])
                whole[slice(first, first + len(part)), *[slice(None)] * axis, place] = piece
    return made


def _batch_axis(explainer: Explainer, name: str) -> int:
    """Return which axis of a value the windows are along: the first, where inference cannot tell.

    Recurrent layers have steps in front, and directions.
    """
    value = named(values_by_name(explainer.model.graph.graph), name)
    dims = [d if isinstance(d, int) else str(d.value) for d in value.shape or ()]
    batch = str(explainer.model.graph.graph.inputs[0].shape[0])  # type: ignore[index]  # a model's input has a shape
    open_axes = [axis for axis, d in enumerate(dims) if isinstance(d, str)]
    return next((axis for axis in open_axes if dims[axis] == batch), open_axes[0] if open_axes else 0)


def _room(like: FloatArray, count: int, axis: int, batch: int, rows: int) -> FloatArray:
    """Return room for all targets and windows, of which a part was found."""
    shape = [count, *like.shape[1:]]
    shape[axis + 1] = shape[axis + 1] // rows * batch
    return np.empty(shape, like.dtype)


def _chosen(
    explainer: Explainer, targets: Sequence[TargetLike] | None
) -> tuple[int, Callable[[slice], Sequence[Resolved]]]:
    """Return how many targets there are, and what resolves a run of them: the weights of all would be a matrix."""
    if targets is None:
        elements = range(_elements(explainer))
        return len(elements), lambda part: [explainer.resolve(element) for element in elements[part]]
    if isinstance(targets, str) or not isinstance(targets, Sequence | np.ndarray) or not len(targets):
        raise TargetError(f"targets: expected a sequence of at least one target, got {targets!r:.60}")
    resolved = [explainer.resolve(target) for target in targets]
    return len(resolved), lambda part: resolved[part]


def _elements(explainer: Explainer) -> int:
    output = explainer.model.outputs[0]
    if any(d < 0 for d in output.shape[1:]):
        raise TargetError(f"targets: output '{output.name}' has no fixed shape: {output.shape}; name its elements")
    return prod(output.shape[1:])


def _rows(batch: int) -> Iterator[slice]:
    for start in range(0, batch, ROWS_PER_RUN):
        yield slice(start, min(start + ROWS_PER_RUN, batch))


def _terms(part: Sequence[Resolved]) -> Seed:
    """Return what the targets are made of, without scales: a term is in the graph once, whoever has it."""
    return tuple(dict.fromkeys(_unscaled(term) for resolved in part for term in resolved.seed))


def _plan(
    explainer: Explainer, some: Resolved, terms: Seed, count: int, names: tuple[str, ...], rule_set: str, fold: bool
) -> Plan:
    key = ("jacobian", names, rule_set, count, fold)
    return explainer.compiled(
        key, replace(some, seed=terms), lambda tape: tape.jacobian(names, count, rule_set, fold=fold), keep=names
    )


def _weights(part: Sequence[Resolved], terms: Seed, rows: slice, batch: int) -> dict[str, Any]:
    """Return what is fed: per term the weights, ``(targets, batch, elements)``, or the factors of a predicted one."""
    fed: dict[str, Any] = {}
    each = [_by_term(resolved, rows, batch) for resolved in part]
    for number, term in enumerate(terms):
        given = [found.get(term) for found in each]
        like = next(v for v in given if v is not None)
        fed[weights_name(number)] = np.stack([np.zeros_like(like) if v is None else v for v in given])
    return fed


def _by_term(resolved: Resolved, rows: slice, batch: int) -> dict[Any, FloatArray]:
    """Return a target's weights by the term without its scale; a predicted term's is its scale, ``(1, 1)``."""
    feeds = resolved.feeds(rows, batch)
    return {
        _unscaled(term): feeds.get(weights_name(number), np.full((1, 1), term.scale, np.float32))
        for number, term in enumerate(resolved.seed)
    }


def _unscaled(term: Term) -> Term:
    return term if term.scale == 1.0 else replace(term, scale=1.0)
