"""Attention: what the tokens of a Transformer look at, and how that adds up over its layers.

Weights are found in the graph, or named. A matrix has a row for each token that looks and a column for each that is
looked at; the row of the class token, or the mean of all rows, is brought from tokens to the input's cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from tonescope_server import plugin
from tonescope_server.errors import MethodNotApplicableError, ParameterError
from tonescope_server.gradients.axes import Axis
from tonescope_server.gradients.grids import along_of, interpolated, on_grid, onto_input
from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Var

MAP = "attention:"


class RolloutParameters(plugin.Parameters):
    """Parameters that all of them have."""

    layers: tuple[str, ...] | None = Field(
        None,
        description="Attention weights, from the input onwards, by the names of values, nodes or modules; by default "
        "all that are found in the graph, which the answer's parameters then name.",
    )
    tokens: Literal["frame", "tone", "patch"] | None = Field(
        None, description="What a token stands for; by default as far as the graph tells."
    )
    class_token: bool | None = Field(
        None,
        description="Whether the first token is a class token, whose row is then shown, not the mean of all rows; by "
        "default as far as the graph, or the number of tokens, tells.",
    )
    patch: tuple[int, int] | None = Field(
        None, description="Rows and columns of a patch along the input's last two axes, with tokens=patch."
    )


class AttentionParameters(RolloutParameters):
    """Parameters of attention."""

    head: int | None = Field(None, ge=0, description="The head whose weights are shown; by default the mean of all.")


class Rollout(plugin.GraphMethod):
    """Attention followed through the layers: ``R = Ā_L · … · Ā_1``, ``Ā = ½·mean_heads(A) + ½·I``, rows made to sum 1.

    ``maps["rollout"]`` is R, ``(batch, tokens, tokens)``, and ``maps["tokens"]`` the row of it that cells are made of.
    It is the same whatever the target.

    Source: Abnar & Zuidema, "Quantifying Attention Flow in Transformers" (2020), section 3. Heads are averaged.
    """

    name = "attention_rollout"
    summary = "What the last layer's tokens look at, followed through all layers of attention."
    source = "Abnar & Zuidema 2020, arXiv:2005.00928"
    requirement = plugin.Requirement.ATTENTION
    resolves_tones = False
    sums_to_one = True
    Parameters: ClassVar[type[plugin.Parameters]] = RolloutParameters

    def taps(self, layers: Sequence[plugin.Layer], parameters: Any) -> Sequence[str]:
        """Choose the attention weights that are named, else all that there are."""
        found = [layer for layer in layers if layer.attention]
        if parameters.layers is not None:
            chosen = [name for asked in parameters.layers for name in _named(found, asked)]
        else:
            chosen = [layer.name for layer in found]
        if not chosen:
            raise MethodNotApplicableError(
                f"method '{self.name}': no attention was found in the graph (a softmax between two products); name its "
                "weights with the parameter 'layers'"
            )
        return list(dict.fromkeys(chosen))

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Follow the attention, and bring the row that is shown to the input's cells."""
        if parameters.layers is None:
            tape.settle("layers", list(tape.taps))
        matrix, keys = self.matrix(tape, parameters)
        size = matrix.shape[-1]
        class_token = _has_class_token(tape, keys, size, parameters)
        row = _row(matrix, 0 if class_token else None)
        tape.result("tokens", row)
        cells = _cells(tape, row, keys, class_token, parameters, self.name)
        tape.result("cells", cells)
        tape.result("tones", tape.sum_over_tones(cells))

    def matrix(self, tape: Tape, parameters: Any) -> tuple[Var, Axis]:
        """Return the matrix whose row is shown, ``(batch, queries, keys)``, and what its keys lie along."""
        tape.score(outputs=True)
        weights = tape.values(tape.taps)
        total: Var | None = None
        for heads in _square(tape, weights, self.name):
            identity = _identity(tape, heads.shape[-1], heads)
            mixed = Var(tape, tape.context.op("Add", _mean(heads, 1).value, identity), heads.shape[1:])
            layer = mixed / _row_sums(mixed)
            total = layer if total is None else _times(layer, total)
        assert total is not None  # taps are never empty
        tape.result("rollout", total)
        return total, tape.axes(weights[0])[-1]

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Say that all of it is part of the graph."""
        return (repr(parameters),)

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Show the matrices beside the cells."""
        shown = [name for name in totals if name in ("rollout", "relevance", "tokens") or name.startswith(MAP)]
        return plugin.Estimate(totals["cells"], totals["tones"], maps={name: totals[name] for name in shown})


class AttentionRelevance(Rollout):
    """Attention that matters to the target, through the layers: ``R ← R + mean_heads(relu(∇A ⊙ A))·R``, from ``I``.

    ``maps["relevance"]`` is R, ``(batch, tokens, tokens)``; ``maps["tokens"]`` is the row of it that cells are made of.

    Source: Chefer, Gur & Wolf, "Generic Attention-model Explainability" (2021), equations 5 and 6, for self-attention.
    What a token has of itself by the identity is kept in R and in the cells.
    """

    name = "attention_relevance"
    summary = "What tokens look at that matters to the target, followed through all layers of attention."
    source = "Chefer et al. 2021, arXiv:2103.15679"
    sums_to_one = False

    def matrix(self, tape: Tape, parameters: Any) -> tuple[Var, Axis]:
        """Weigh attention by its gradient, and add it up."""
        found = tape.evaluate_at(tape.taps)
        if not any(tape.influences(each.at) for each in found):
            raise MethodNotApplicableError(
                f"method '{self.name}', parameter 'layers': the target does not depend on {', '.join(tape.taps)}"
            )
        weighed = [Var(tape, _relu(e.gradient * e.at), e.at.shape) for e in found]
        for product, each in zip(weighed, found, strict=True):
            tape.context.typed(product.value, each.at.value)
        layers = _square(tape, weighed, self.name, like=[e.at for e in found])
        size = layers[0].shape[-1]
        total = Var(tape, _identity(tape, size, found[0].at), (size, size))
        for heads in layers:
            total = total + _times(_mean(heads, 1), total)
        tape.result("relevance", total)
        return total, tape.axes(found[0].at)[-1]


class Attention(Rollout):
    """What tokens look at, layer by layer and head by head.

    ``maps["attention:<layer>"]`` are the weights, ``(batch, heads, queries, keys)``; cells are made of the last
    layer's, and ``maps["tokens"]`` is the row of those that they are made of. It is the same whatever the target.

    Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1: the softmax in it.
    """

    name = "attention"
    summary = "What tokens look at, layer by layer and head by head."
    source = "Vaswani et al. 2017, arXiv:1706.03762"
    Parameters = AttentionParameters

    def matrix(self, tape: Tape, parameters: Any) -> tuple[Var, Axis]:
        """Name the weights of every layer, and average the last one's heads, or take one."""
        tape.score(outputs=True)
        weights = tape.values(tape.taps)
        last: Var | None = None
        for name, each in zip(tape.taps, weights, strict=True):
            last = _by_head(tape, each, each, self.name)
            tape.result(MAP + name, last)
        assert last is not None  # taps are never empty
        head = parameters.head
        if head is not None and head >= last.shape[0]:
            raise ParameterError(
                f"method '{self.name}', parameter 'head': expected one of {last.shape[0]}, from 0 on, got {head}"
            )
        shown = _mean(last, 1) if head is None else _picked(last, 1, head)
        return shown, tape.axes(weights[-1])[-1]


def _named(found: Sequence[plugin.Layer], asked: str) -> Iterator[str]:
    """Yield the weights that a name stands for; the name itself where it is not that of attention that was found."""
    names = [
        layer.name
        for layer in found
        if asked in (layer.name, layer.module, *layer.attention) or layer.module.startswith(f"{asked}.")
    ]
    yield from names or [asked]


# -- matrices -----------------------------------------------------------------------------------------------------


def _square(tape: Tape, weights: Sequence[Var], method: str, like: Sequence[Var] | None = None) -> list[Var]:
    """Return the weights of layers that follow each other, ``(batch, heads, tokens, tokens)`` each.

    Raises:
        MethodNotApplicableError: they look at other tokens than those that look, or at another number of them.
    """
    heads = [_by_head(tape, each, of, method) for each, of in zip(weights, like or weights, strict=True)]
    if len({size for each in heads for size in each.shape[1:]}) != 1:
        sizes = ", ".join(f"'{name}' {each.shape[1:]}" for name, each in zip(tape.taps, heads, strict=True))
        raise MethodNotApplicableError(
            f"method '{method}': expected every layer to look at the same tokens, got {sizes} (queries, keys); name "
            "those that do with the parameter 'layers'"
        )
    return heads


def _by_head(tape: Tape, weights: Var, of: Var, method: str) -> Var:
    """Return attention weights as ``(batch, heads, queries, keys)``, however the graph lays them out.

    Args:
        tape: the tape.
        weights: the weights, or what has their layout.
        of: the model's own value, whose axes can be followed.
        method: who asks.

    Raises:
        MethodNotApplicableError: another layout, as that of attention within windows of the input.
    """
    context, axes = tape.context, tape.axes(of)
    first, rank = [part.axis for part in axes[0].parts], len(axes)
    is_batch = first == [0] or context.dims(of.value)[0] == context.dims(tape.x.value)[0]
    queries, keys = (axis.size or -1 for axis in axes[-2:])
    heads, value = -1, weights.value
    if is_batch and rank == 4 and not _is_along_input(axes[1]):
        heads = axes[1].size or -1
    elif is_batch and rank == 3:
        heads, value = 1, context.op("Unsqueeze", value, context.ints([1]))
    elif first == [0, None] and rank == 3:
        heads = axes[0].parts[1].size or -1
        value = context.op("Reshape", value, context.ints([-1, heads, queries, keys]))
    if min(heads, queries, keys) < 1:
        raise MethodNotApplicableError(
            f"method '{method}': expected attention weights as (batch, heads, queries, keys) or (batch · heads, "
            f"queries, keys), got ({', '.join(map(str, context.dims(of.value)))}) in '{of.value.name}'; name others "
            "with the parameter 'layers'"
        )
    value.type = of.value.type
    return Var(tape, value, (heads, queries, keys))


def _is_along_input(axis: Axis) -> bool:
    return any(part.axis is not None for part in axis.parts)


def _identity(tape: Tape, size: int, like: Var) -> ir.Value:
    return tape.context.constant(np.eye(size)[None], tape.context.dtype(like.value).numpy())


def _mean(var: Var, axis: int) -> Var:
    return var.mean(axis - 1)


def _picked(var: Var, axis: int, index: int) -> Var:
    value = var.tape.context.op("Gather", var.value, var.tape.context.constant(np.int64(index)), axis=axis)
    return Var(var.tape, value, var.shape[: axis - 1] + var.shape[axis:])


def _row_sums(matrix: Var) -> Var:
    value = matrix.tape.context.op("ReduceSum", matrix.value, matrix.tape.context.ints([2]), keepdims=1)
    return Var(matrix.tape, value, (matrix.shape[0], 1))


def _times(a: Var, b: Var) -> Var:
    return Var(a.tape, a.tape.context.op("MatMul", a.value, b.value), (a.shape[0], b.shape[1]))


def _relu(var: Var) -> Any:
    return var.tape.context.op("Relu", var.value)


def _row(matrix: Var, place: int | None) -> Var:
    """Return one row of a matrix, or the mean of all."""
    return _mean(matrix, 1) if place is None else _picked(matrix, 1, place)


# -- from tokens to the input --------------------------------------------------------------------------------------


def _has_class_token(tape: Tape, keys: Axis, size: int, parameters: Any) -> bool:
    """Say whether the first token is a class token: as stated, as followed in the graph, or by the number of tokens."""
    if parameters.class_token is not None:
        return bool(parameters.class_token)
    if parameters.tokens is None:
        return bool(keys.before)
    places = {"frame": tape.n_frames, "tone": tape.n_tones, "patch": int(np.prod(_patches(tape, parameters.patch)))}
    return size == places[parameters.tokens] + 1


def _cells(tape: Tape, row: Var, keys: Axis, class_token: bool, parameters: Any, method: str) -> Var:
    """Bring a value per token to the input's cells.

    Raises:
        MethodNotApplicableError: it cannot be told what tokens stand for.
        ParameterError: they do not fit what was stated.
    """
    if parameters.tokens is None:
        if not 1 <= len(keys.grid) <= 2:
            raise MethodNotApplicableError(
                f"method '{method}': the graph does not tell what each of {row.shape[0]} tokens stands for; state it "
                "with the parameters 'tokens' (frame, tone or patch), 'class_token' and 'patch'"
            )
        if not tape.tells_tones_apart(along_of([keys])):
            _warn_of_frames(tape)
        return onto_input(tape, row, [keys])
    if parameters.tokens == "patch" and parameters.patch is None:
        raise ParameterError(f"method '{method}', parameter 'patch': expected rows and columns of a patch, got none")
    if class_token:
        row = row.slice(0, 1, row.shape[0])
    patches = _patches(tape, parameters.patch)
    most = {"frame": tape.n_frames, "tone": tape.n_tones, "patch": int(np.prod(patches))}[parameters.tokens]
    if row.shape[0] > most or (parameters.tokens == "patch" and row.shape[0] != most):
        raise ParameterError(
            f"method '{method}', parameter 'tokens': expected {most} tokens of kind '{parameters.tokens}'"
            f"{', with' if class_token else ', without'} a class token before them, got {row.shape[0]}; see the "
            "parameters 'class_token' and 'patch'"
        )
    if parameters.tokens == "patch":
        return on_grid(tape, row, patches, len(tape.x.shape) - 1)
    if parameters.tokens == "frame":
        _warn_of_frames(tape)
        return tape.cells_of_frames(interpolated(tape, row, tape.n_frames))
    return tape.cells_of_tones(interpolated(tape, row, tape.n_tones))


def _patches(tape: Tape, patch: tuple[int, int] | None) -> tuple[int, ...]:
    """Return how many patches lie along the input's last two axes; none where their size is not stated or too large."""
    if patch is None or len(tape.x.shape) < 2 or min(patch) < 1:
        return (0, 0)
    return tuple(size // step for size, step in zip(tape.x.shape[-2:], patch, strict=True))


def _warn_of_frames(tape: Tape) -> None:
    tape.warn(
        "NO_TONE_RESOLUTION",
        "tokens stand for frames: attention tells frames apart, and every tone of a frame was given the same",
    )


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer attention, rollout and relevance."""
    return [Attention(), Rollout(), AttentionRelevance()]
