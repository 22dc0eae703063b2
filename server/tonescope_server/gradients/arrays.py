"""Arrays that are not known yet: what NumPy code does with them becomes nodes of a graph.

A method says in NumPy what its runs are fed and what it makes of their results. Handed these in place of arrays, the
same code writes that down as a graph. What is known beforehand stays an array and is computed at once; what a graph
cannot say, a choice by value or a loop until something holds, is refused. What methods are is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.gradients.context import Context

_SIZES = (311, 313, 317, 331, 337, 347, 349, 353, 359, 367, 373, 379, 383, 389, 397, 401)


class NotTraceableError(Exception):
    """NumPy code does something, with what is known at run time only, that a graph has no nodes for."""


@dataclass(frozen=True)
class Tracer:
    """Where arrays that are not known yet are written down.

    Attributes:
        context: emits the nodes.
        like: a value with the batch in front.
        batch: the number that stands for the size of the batch, which is not known: a prime that no other size is a
            multiple of, so that sizes made of it, and no others, are multiples of it.
    """

    context: Context
    like: ir.Value
    batch: int

    def array(self, value: ir.Value, shape: Sequence[int], dtype: npt.DTypeLike) -> TracedArray:
        """Make an array of a value of the graph."""
        return TracedArray(self, value, tuple(shape), np.dtype(dtype))

    def is_open(self, size: int) -> bool:
        """Say whether a size is known at run time only."""
        return size != 0 and size % self.batch == 0

    def known(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array that is known with one entry for all windows, where it has one for each.

        Raises:
            NotTraceableError: they differ.
        """
        for axis, size in enumerate(array.shape):
            if self.is_open(size):
                first = array.take([0], axis=axis)
                if not np.array_equal(array, np.broadcast_to(first, array.shape), equal_nan=array.dtype.kind == "f"):
                    raise NotTraceableError("something differs from window to window, whatever they hold")
                array = first
        return array

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> TracedArray:
        """Turn an array that is known into one of the graph; what is the same for all windows has one entry."""
        data = self.known(np.asarray(array, dtype))
        return self.array(self.context.constant(data), data.shape, data.dtype)

    def dims(self, shape: Iterable[int]) -> ir.Value:
        """Return a shape as a value, in which the size of the batch is that of the windows."""
        context, parts, still = self.context, [], []
        for size in shape:
            if not self.is_open(size):
                still.append(size)
                continue
            batch = context.op("Shape", self.like, start=0, end=1)
            if size != self.batch:
                batch = context.op("Mul", batch, context.ints([size // self.batch]))
            parts += [*([context.ints(still)] if still else []), batch]
            still = []
        parts += [context.ints(still)] if still or not parts else []
        return parts[0] if len(parts) == 1 else context.op("Concat", *parts, axis=0)


def tracer_for(context: Context, like: ir.Value, sizes: Iterable[int]) -> Tracer:
    """Return a tracer whose number for the batch is none of some sizes, nor a divisor of one."""
    taken = {abs(size) for size in sizes if size}
    return Tracer(context, like, next(n for n in _SIZES if not any(size % n == 0 for size in taken)))


class TracedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that is known at run time only.

    Attributes:
        tracer: where it is written down.
        value: what it is in the graph.
        shape: its shape; see ``Tracer.batch``.
        dtype: its type.
    """

    def __init__(self, tracer: Tracer, value: ir.Value, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.tracer = tracer
        self.value = value
        self.shape = shape
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def T(self) -> TracedArray:  # noqa: N802  as NumPy has it
        """The same with its axes the other way round."""
        return self.transpose()

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        raise NotTraceableError("it chooses by a value that is known at run time only")

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        raise NotTraceableError("it needs the elements of what is known at run time only")

    def __iter__(self) -> Any:
        raise NotTraceableError("it goes through the elements of what is known at run time only")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise NotTraceableError("it changes elements in place")

    __float__ = __int__ = __index__ = __bool__

    def __array_ufunc__(self, ufunc: np.ufunc, kind: str, *inputs: Any, **options: Any) -> Any:
        from tonescope_server.gradients.array_functions import REDUCTIONS, ufunc_on

        if kind == "reduce" and ufunc in REDUCTIONS and len(inputs) == 1:
            return REDUCTIONS[ufunc](inputs[0], **{"axis": 0} | options)
        if kind != "__call__" or options:
            raise NotTraceableError(f"numpy.{ufunc.__name__} with {kind if kind != '__call__' else [*options]}")
        return ufunc_on(self.tracer, ufunc, inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from tonescope_server.gradients.array_functions import FUNCTIONS

        if function not in FUNCTIONS:
            raise NotTraceableError(f"no graph says what numpy.{function.__name__} does")
        return FUNCTIONS[function](*args, **kwargs)

    def __getitem__(self, key: Any) -> TracedArray:
        from tonescope_server.gradients.array_functions import indexed

        return indexed(self, key)

    def made(self, op_type: str, *others: ir.Value, shape: Sequence[int], **attributes: Any) -> TracedArray:
        """Emit an operator on it, whose result has its type."""
        value = self.tracer.context.op(op_type, self.value, *others, **attributes)
        return self.tracer.array(value, shape, self.dtype)

    def astype(self, dtype: npt.DTypeLike, copy: bool = True) -> TracedArray:
        """Return it as another type."""
        kind = np.dtype(dtype)
        if kind == self.dtype:
            return self
        value = self.tracer.context.op("Cast", self.value, to=int(ir.DataType.from_numpy(kind)))
        return self.tracer.array(value, self.shape, kind)

    def reshape(self, *shape: Any) -> TracedArray:
        """Return it in another shape; one size may be −1."""
        asked = [int(n) for n in (shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)]
        if -1 in asked:
            asked[asked.index(-1)] = self.size // max(-prod(asked), 1)
        sizes = [-1 if self.tracer.is_open(n) else n for n in asked]
        if prod(asked) != self.size or sizes.count(-1) > 1:
            raise NotTraceableError(f"numpy.reshape of {self.shape} to {tuple(asked)}")
        return self.made("Reshape", self.tracer.context.ints(sizes), shape=asked)

    def ravel(self) -> TracedArray:
        """Return it with one axis."""
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> TracedArray:
        """Return it with its axes in another order."""
        asked = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = [int(a) % self.ndim for a in asked] if asked else list(range(self.ndim))[::-1]
        return self.made("Transpose", shape=[self.shape[a] for a in order], perm=order)

    def swapaxes(self, one: int, other: int) -> TracedArray:
        """Return it with two axes in each other's place."""
        order = list(range(self.ndim))
        order[one], order[other] = order[other], order[one]
        return self.transpose(order)

    def broadcast_to(self, shape: Sequence[int]) -> TracedArray:
        """Return it repeated to a shape."""
        sizes = tuple(int(n) for n in shape)
        return self if sizes == self.shape else self.made("Expand", self.tracer.dims(sizes), shape=sizes)

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> TracedArray:
        """Sum it over axes."""
        kind = dtype or (np.int64 if self.dtype.kind in "bi" else self.dtype)
        return self.astype(kind)._reduced("ReduceSum", axis, keepdims)

    def mean(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> TracedArray:
        """Average it over axes."""
        kind = dtype or (np.float64 if self.dtype.kind in "bi" else self.dtype)
        return self.astype(kind)._reduced("ReduceMean", axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> TracedArray:
        """Return the largest along axes."""
        return self._reduced("ReduceMax", axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> TracedArray:
        """Return the smallest along axes."""
        return self._reduced("ReduceMin", axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> TracedArray:
        """Say whether anything along axes is other than zero."""
        return self._as_numbers().max(axis, keepdims).astype(np.bool_)

    def all(self, axis: Any = None, keepdims: bool = False) -> TracedArray:
        """Say whether everything along axes is other than zero."""
        return self._as_numbers().min(axis, keepdims).astype(np.bool_)

    def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> TracedArray:
        """Return the variance along axes."""
        away = self - self.mean(axis, keepdims=True)
        squares: TracedArray = away * away
        count = prod(self.shape[a] for a in self._axes(axis)) - ddof
        summed: TracedArray = squares.sum(axis, keepdims=keepdims) / count
        return summed

    def std(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> TracedArray:
        """Return the standard deviation along axes."""
        result: Any = np.sqrt(self.var(axis, ddof, keepdims))
        return result  # type: ignore[no-any-return]

    def _as_numbers(self) -> TracedArray:
        """Return 1 where it is other than zero, and 0 elsewhere: no operator tells the largest of truths."""
        truth = self if self.dtype == np.bool_ else self != 0
        return truth.astype(np.int32)

    def _axes(self, axis: Any) -> list[int]:
        asked = range(self.ndim) if axis is None else axis if isinstance(axis, tuple | list) else [axis]
        return [int(a) % self.ndim for a in asked]

    def _reduced(self, op_type: str, axis: Any, keepdims: bool) -> TracedArray:
        axes = self._axes(axis)
        if any(self.tracer.is_open(self.shape[a]) for a in axes):
            raise NotTraceableError("it reduces over the windows of a batch, which are not to depend on each other")
        if not axes:
            return self
        kept = [1 if i in axes else n for i, n in enumerate(self.shape) if keepdims or i not in axes]
        return self.made(op_type, self.tracer.context.ints(axes), shape=kept, keepdims=int(keepdims))
