"""What NumPy's functions are in a graph, for arrays that are not known yet: one table for each kind of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.gradients.arrays import NotTraceableError, TracedArray, Tracer

_ARITHMETIC: Mapping[np.ufunc, str] = {
    np.add: "Add",
    np.subtract: "Sub",
    np.multiply: "Mul",
    np.maximum: "Max",
    np.minimum: "Min",
    np.power: "Pow",
    np.negative: "Neg",
    np.absolute: "Abs",
    np.sign: "Sign",
}
_FRACTIONAL: Mapping[np.ufunc, str] = {  # whole numbers become float64 first
    np.divide: "Div",
    np.sqrt: "Sqrt",
    np.exp: "Exp",
    np.log: "Log",
    np.tanh: "Tanh",
    np.sin: "Sin",
    np.cos: "Cos",
    np.floor: "Floor",
    np.ceil: "Ceil",
}
_COMPARISONS: Mapping[np.ufunc, str] = {
    np.greater: "Greater",
    np.greater_equal: "GreaterOrEqual",
    np.less: "Less",
    np.less_equal: "LessOrEqual",
    np.equal: "Equal",
    np.logical_and: "And",
    np.logical_or: "Or",
    np.bitwise_and: "And",
    np.bitwise_or: "Or",
}


def ufunc_on(tracer: Tracer, ufunc: np.ufunc, inputs: Sequence[Any]) -> TracedArray:
    """Return what a function of elements makes of operands, of which one at least is not known yet."""
    if ufunc is np.square:
        return ufunc_on(tracer, np.multiply, [inputs[0], inputs[0]])
    if ufunc is np.power and isinstance(inputs[1], int) and inputs[1] == 2:
        return ufunc_on(tracer, np.multiply, [inputs[0], inputs[0]])
    if ufunc is np.not_equal:
        return ufunc_on(tracer, np.logical_not, [ufunc_on(tracer, np.equal, inputs)])
    if ufunc is np.isfinite:
        return ufunc_on(tracer, np.less, [abs(inputs[0]), np.inf])  # which no NaN is
    if ufunc is np.matmul:
        return _product(tracer, *inputs)
    if ufunc in (np.logical_not, np.invert, np.isnan):
        return _unary_truth(tracer, "IsNaN" if ufunc is np.isnan else "Not", inputs[0])
    known = {**_ARITHMETIC, **_FRACTIONAL, **_COMPARISONS}
    if ufunc not in known:
        raise NotTraceableError(f"no graph says what numpy.{ufunc.__name__} does")
    kind = _common(inputs, ufunc)
    on = [_as(tracer, each, kind) for each in inputs]
    shape = np.broadcast_shapes(*(each.shape for each in on))
    result = np.dtype(np.bool_) if ufunc in _COMPARISONS else kind
    return tracer.array(tracer.context.op(known[ufunc], *(each.value for each in on)), shape, result)


def _common(inputs: Sequence[Any], ufunc: np.ufunc) -> np.dtype[Any]:
    """Return the type that operands are brought to: Python's own numbers take that of the others."""
    kind = np.result_type(*(each if _is_plain(each) else _dtype(each) for each in inputs))
    if ufunc in _FRACTIONAL and kind.kind in "biu":
        return np.dtype(np.float64)
    if ufunc in (np.logical_and, np.logical_or, np.bitwise_and, np.bitwise_or) and kind != np.bool_:
        raise NotTraceableError(f"numpy.{ufunc.__name__} of numbers")
    return kind


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float) and not isinstance(value, np.generic)


def _dtype(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, TracedArray) else np.asarray(value).dtype


def _as(tracer: Tracer, value: Any, kind: np.dtype[Any]) -> TracedArray:
    return value.astype(kind) if isinstance(value, TracedArray) else tracer.constant(value, kind)


def _unary_truth(tracer: Tracer, op_type: str, value: TracedArray) -> TracedArray:
    if op_type == "Not" and value.dtype != np.bool_:
        raise NotTraceableError("numpy.invert of numbers")
    return tracer.array(tracer.context.op(op_type, value.value), value.shape, np.bool_)


def _product(tracer: Tracer, a: Any, b: Any) -> TracedArray:
    kind = _common([a, b], np.matmul)
    left, right = _as(tracer, a, kind), _as(tracer, b, kind)
    if left.ndim < 2 or right.ndim < 2:
        raise NotTraceableError("numpy.matmul of vectors")
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = (*lead, left.shape[-2], right.shape[-1])
    return tracer.array(tracer.context.op("MatMul", left.value, right.value), shape, kind)


def indexed(array: TracedArray, key: Any) -> TracedArray:
    """Return what an index picks: whole numbers, slices, new axes, and lists of whole numbers."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(isinstance(each, TracedArray) for each in keys):
        raise NotTraceableError("it picks elements by values that are known at run time only")
    if any(each is Ellipsis for each in keys):
        at = next(i for i, each in enumerate(keys) if each is Ellipsis)
        named = sum(each is not None and each is not Ellipsis for each in keys)
        keys[at : at + 1] = [slice(None)] * (array.ndim - named)
    axis = 0
    for each in keys:
        if each is None:
            array = expand_dims(array, axis)
            axis += 1
        elif isinstance(each, slice):
            array = _sliced(array, axis, each)
            axis += 1
        else:
            array = _picked(array, axis, np.asarray(each))
            axis += np.ndim(each)
    return array


def _sliced(array: TracedArray, axis: int, part: slice) -> TracedArray:
    size, context = array.shape[axis], array.tracer.context
    if part == slice(None):
        return array
    if array.tracer.is_open(size):
        raise NotTraceableError("it takes some windows of a batch, which are not to be told apart")
    start, stop, step = part.indices(size)
    ends = -(size + 1) if stop < 0 else stop
    places = [context.ints([n]) for n in (start, ends, axis, step)]
    shape = [len(range(start, stop, step)) if i == axis else n for i, n in enumerate(array.shape)]
    return array.made("Slice", *places, shape=shape)


def _picked(array: TracedArray, axis: int, index: npt.NDArray[Any]) -> TracedArray:
    if array.tracer.is_open(array.shape[axis]):
        raise NotTraceableError("it takes some windows of a batch, which are not to be told apart")
    if index.dtype.kind not in "iu":
        raise NotTraceableError(f"it picks elements by {index.dtype}")
    places = array.tracer.context.constant(index.astype(np.int64) % array.shape[axis])
    shape = (*array.shape[:axis], *index.shape, *array.shape[axis + 1 :])
    return array.made("Gather", places, shape=shape, axis=axis)


def expand_dims(array: TracedArray, axis: int) -> TracedArray:
    """Insert an axis of size one."""
    at = axis % (array.ndim + 1)
    shape = (*array.shape[:at], 1, *array.shape[at:])
    return array.made("Unsqueeze", array.tracer.context.ints([at]), shape=shape)


def _where(condition: Any, a: Any, b: Any) -> TracedArray:
    tracer = _tracer([condition, a, b])
    kind = _common([a, b], np.add)
    on = [_as(tracer, condition, np.dtype(np.bool_)), _as(tracer, a, kind), _as(tracer, b, kind)]
    shape = np.broadcast_shapes(*(each.shape for each in on))
    return tracer.array(tracer.context.op("Where", *(each.value for each in on)), shape, kind)


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> TracedArray:
    tracer = _tracer(arrays)
    kind = _common(arrays, np.add)
    shapes = [tuple(np.shape(each)) if not isinstance(each, TracedArray) else each.shape for each in arrays]
    at = axis % len(shapes[0])
    # What is the same for all windows is known once; beside something else it is there for each.
    on = [_as(tracer, each, kind).broadcast_to(shape) for each, shape in zip(arrays, shapes, strict=True)]
    if any(tracer.is_open(shape[at]) for shape in shapes):
        raise NotTraceableError("numpy.concatenate along the windows of a batch")
    whole = (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :])
    return tracer.array(tracer.context.op("Concat", *(each.value for each in on), axis=at), whole, kind)


def _stack(arrays: Sequence[Any], axis: int = 0) -> TracedArray:
    return _concatenate([np.expand_dims(each, axis) for each in arrays], axis)


def _tracer(arrays: Sequence[Any]) -> Tracer:
    return next(each.tracer for each in arrays if isinstance(each, TracedArray))


def _clip(array: Any, low: Any = None, high: Any = None) -> Any:
    above = array if low is None else np.maximum(array, low)
    return above if high is None else np.minimum(above, high)


def _full_like(array: TracedArray, value: Any, dtype: Any = None) -> npt.NDArray[Any]:
    return np.broadcast_to(np.asarray(value, dtype or array.dtype), array.shape)


def _method(name: str) -> Callable[..., Any]:
    def call(array: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(array, name)(*args, **kwargs)

    return call


REDUCTIONS: Mapping[Any, Callable[..., Any]] = {
    np.add: _method("sum"),
    np.maximum: _method("max"),
    np.minimum: _method("min"),
    np.logical_or: _method("any"),
    np.logical_and: _method("all"),
}
FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    np.where: _where,
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.clip: _clip,
    np.expand_dims: expand_dims,
    np.atleast_2d: lambda array: array if array.ndim > 1 else expand_dims(array, 0),
    np.zeros_like: lambda array, dtype=None: _full_like(array, 0, dtype),
    np.ones_like: lambda array, dtype=None: _full_like(array, 1, dtype),
    np.full_like: _full_like,
    np.broadcast_to: _method("broadcast_to"),
    np.reshape: _method("reshape"),
    np.ravel: _method("ravel"),
    np.transpose: _method("transpose"),
    np.swapaxes: _method("swapaxes"),
    np.astype: _method("astype"),
    np.sum: _method("sum"),
    np.mean: _method("mean"),
    np.max: _method("max"),
    np.min: _method("min"),
    np.any: _method("any"),
    np.all: _method("all"),
    np.var: _method("var"),
    np.std: _method("std"),
    np.shape: lambda array: array.shape,
    np.ndim: lambda array: array.ndim,
    np.size: lambda array: array.size,
}
