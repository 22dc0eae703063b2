"""The gradient of a large max pool by comparisons, one axis after the other.

A pool over a plane is a pool along its last axis, then one along the axis before. The first maximum of a window in
row-major order lies in the first row that has the maximum, at the first column that has it there; so each axis can be
gone back through alone. How a pool is differentiated otherwise is in ``pooling``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rules._windows import Geometry


def comparisons(channels: int, shape: Geometry) -> int:
    """Return how many elements a pool compares per sample; 0 where its geometry has no form here."""
    overlap = all(s <= k for s, k in zip(shape.stride, shape.kernel, strict=True))
    if not (overlap and shape.is_static and all(d == 1 for d in shape.dilation)):
        return 0
    return channels * int(np.prod(shape.outs())) * int(np.prod(shape.kernel))


def by_first_match(ctx: Context, x: ir.Value, y: ir.Value, g: ir.Value, shape: Geometry) -> ir.Value:
    """Send each window's cotangent to the first of its elements that equals its maximum.

    Shapes: ``x`` (batch, C, *size), ``y`` and ``g`` (batch, C, *out) → (batch, C, *size); all but the batch static.
    """
    axes = _axes(ctx, x, shape)
    pooled = [x]  # ``pooled[i]``: along the axes after the i-th
    for axis in reversed(axes[1:]):
        pooled.insert(0, axis.pool(pooled[0]))
    for axis, before, after in zip(axes, pooled, [y, *pooled], strict=False):
        g = axis.back(before, after, g)
    return g


def _axes(ctx: Context, x: ir.Value, shape: Geometry) -> list[_Axis]:
    channels = tuple(d for d in ctx.dims(x)[1:2] if isinstance(d, int))
    sizes, outs = shape.sizes(), shape.outs()
    return [
        _Axis(
            ctx, ctx.dtype(x), 2 + i, shape.kernel[i], shape.stride[i], shape.begin[i], sizes[i], outs[i],
            (*channels, *sizes[: i + 1], *outs[i + 1 :]),
        )
        for i in range(shape.axes)
    ]  # fmt: skip


@dataclass(frozen=True)
class _Axis:
    """A pool along one axis.

    Attributes:
        axis: which, the batch counted.
        begin: padding before the first element.
        size: elements before the pool.
        out: elements after it.
        dims: sizes before the pool, without the batch.
    """

    ctx: Context
    dtype: ir.DataType
    axis: int
    kernel: int
    stride: int
    begin: int
    size: int
    out: int
    dims: tuple[int, ...]

    @property
    def trivial(self) -> bool:
        """Whether it leaves everything as it is."""
        return self.kernel == 1 and self.size == self.out

    @property
    def steps(self) -> int:
        """Elements of one phase: the axis, filled up to a multiple of the stride, has ``stride`` phases of them."""
        return -(-self.size // self.stride)

    def pool(self, value: ir.Value) -> ir.Value:
        """Emit the pool."""
        if self.trivial:
            return value
        rank = len(self.dims) + 1
        end = max((self.out - 1) * self.stride + self.kernel - self.size - self.begin, 0)
        kernel, stride, pads = [1] * (rank - 2), [1] * (rank - 2), [0] * 2 * (rank - 2)
        kernel[self.axis - 2], stride[self.axis - 2] = self.kernel, self.stride
        pads[self.axis - 2], pads[self.axis - 2 + rank - 2] = self.begin, end
        return self.ctx.op("MaxPool", value, kernel_shape=kernel, strides=stride, pads=pads)

    def back(self, before: ir.Value, after: ir.Value, g: ir.Value) -> ir.Value:
        """Emit what the pool gives back, ``before`` and ``after`` it being known."""
        if self.trivial:
            return g
        ctx, phases = self.ctx, self.phases(before)
        shares, rest = [], g
        for j in range(self.kernel - 1):
            ahead, phase = divmod(j - self.begin, self.stride)
            element = self.moved(phases[phase], -ahead, self.out + ahead - self.steps, -np.inf)
            hit = ctx.op("Cast", ctx.op("Equal", element, after), to=int(self.dtype))
            shares.append(ctx.op("Mul", hit, rest))
            rest = ctx.op("Sub", rest, shares[-1])
        return self.joined([*shares, rest])

    def phases(self, value: ir.Value) -> Sequence[ir.Value]:
        """Take every ``stride``-th element: from the first, from the second and so on.

        A Split of the reshaped axis: a Slice with steps took six times as long where the axis is the last.
        """
        if self.stride == 1:
            return [value]
        ctx, filled = self.ctx, self.steps * self.stride - self.size
        whole = self.moved(value, 0, filled, -np.inf)
        apart = ctx.op("Reshape", whole, ctx.ints(self.apart()))
        parts = ctx.ops("Split", apart, outputs=self.stride, axis=self.axis + 1, num_outputs=self.stride)
        return [ctx.op("Squeeze", part, ctx.ints([self.axis + 1])) for part in parts]

    def joined(self, shares: Sequence[ir.Value]) -> ir.Value:
        """Put together what the windows give to their first, second, … element."""
        ctx, phases = self.ctx, []
        for phase in range(self.stride):
            total: ir.Value | None = None
            for j, share in enumerate(shares):
                ahead, of = divmod(j - self.begin, self.stride)
                if of == phase:
                    part = self.moved(share, ahead, self.steps - self.out - ahead, 0.0)
                    total = part if total is None else ctx.op("Add", total, part)
            assert total is not None  # the stride is no longer than the kernel
            phases.append(total)
        if self.stride == 1:
            return phases[0]
        stacked = ctx.op(
            "Concat", *(ctx.op("Unsqueeze", p, ctx.ints([self.axis + 1])) for p in phases), axis=self.axis + 1
        )
        whole = list(self.dims)
        whole[self.axis - 1] = self.steps * self.stride
        joined = ctx.op("Reshape", stacked, ctx.ints([-1, *whole]))
        return self.moved(joined, 0, self.size - self.steps * self.stride, 0.0)

    def moved(self, value: ir.Value, before: int, after: int, fill: float) -> ir.Value:
        """Add elements at both ends of the axis, or take them away where the number is negative."""
        if not before and not after:
            return value
        rank = len(self.dims) + 1
        pads = [0] * 2 * rank
        pads[self.axis], pads[rank + self.axis] = before, after
        return self.ctx.op("Pad", value, self.ctx.ints(pads), self.ctx.constant(fill, self.dtype.numpy()))

    def apart(self) -> list[int]:
        """The sizes with the axis taken apart into steps and phases."""
        sizes = [-1, *self.dims]
        return [*sizes[: self.axis], self.steps, self.stride, *sizes[self.axis + 1 :]]
