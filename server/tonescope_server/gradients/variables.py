"""Values on a tape, and arithmetic with them. What emits the nodes is the tape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from tonescope_server.gradients.tape import Tape


@dataclass(frozen=True)
class Var:
    """A value on the tape: batch first, then ``shape``. Arithmetic on it emits nodes.

    Attributes:
        tape: the tape it is on.
        value: the graph's value.
        shape: sizes after the batch axis; −1 where a size is known at run time only.
    """

    tape: Tape
    value: ir.Value
    shape: tuple[int, ...]

    def __add__(self, other: Var | float) -> Var:
        return self.tape.binary("Add", self, other)

    def __sub__(self, other: Var | float) -> Var:
        return self.tape.binary("Sub", self, other)

    def __mul__(self, other: Var | float) -> Var:
        return self.tape.binary("Mul", self, other)

    def __truediv__(self, other: Var | float) -> Var:
        return self.tape.binary("Div", self, other)

    def __abs__(self) -> Var:
        return Var(self.tape, self.tape.context.op("Abs", self.value), self.shape)

    def sum(self, axis: int) -> Var:
        """Sum over one axis of ``shape``, counted from 0."""
        return self._reduced("ReduceSum", axis)

    def mean(self, axis: int) -> Var:
        """Average over one axis of ``shape``, counted from 0."""
        return self._reduced("ReduceMean", axis)

    def slice(self, axis: int, start: int, stop: int) -> Var:
        """Take a stretch of one axis of ``shape``, counted from 0; the axis must be as long as that."""
        context = self.tape.context
        value = context.op("Slice", self.value, context.ints([start]), context.ints([stop]), context.ints([axis + 1]))
        return Var(self.tape, value, (*self.shape[:axis], stop - start, *self.shape[axis + 1 :]))

    def unsqueeze(self, axis: int) -> Var:
        """Insert an axis of size one into ``shape``."""
        value = self.tape.context.op("Unsqueeze", self.value, self.tape.context.ints([axis + 1]))
        return Var(self.tape, value, (*self.shape[:axis], 1, *self.shape[axis:]))

    def _reduced(self, op_type: str, axis: int) -> Var:
        context = self.tape.context
        value = context.op(op_type, self.value, context.ints([axis + 1]), keepdims=0)
        return Var(self.tape, value, self.shape[:axis] + self.shape[axis + 1 :])


@dataclass(frozen=True)
class Evaluation:
    """The model, evaluated and differentiated at some points.

    Attributes:
        gradient: by ``at``, of its shape.
        score: the target's value at the points: ``(batch)``, or ``(batch, K)`` for K points per sample.
        at: what the model was differentiated by: the input, the points, or an internal value.
        reference_score: the target's value at the reference, ``(batch)``; None without one.
    """

    gradient: Var
    score: Var
    at: Var
    reference_score: Var | None = None


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an elementwise result; −1 stays −1, unless the other side knows the size."""
    if len(a) != len(b):
        a, b = (1,) * (len(b) - len(a)) + a, (1,) * (len(a) - len(b)) + b
    return tuple(max(m, n) if min(m, n) > 0 or max(m, n) > 1 else -1 for m, n in zip(a, b, strict=True))
