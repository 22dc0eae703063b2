"""The geometry that convolutions and pools share: kernel, stride, dilation and padding, resolved."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from tonescope_server.gradients.context import Context, Dim


@dataclass(frozen=True)
class Geometry:
    """Where a layer's windows lie, one entry per spatial axis.

    Attributes:
        kernel: elements per window.
        stride: from one window to the next.
        dilation: from one element of a window to the next.
        begin: padding before the first element.
        end: padding after the last element.
        size: the operand's sizes; None or a name where they are not static.
        out: the result's sizes, likewise.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    size: tuple[Dim, ...]
    out: tuple[Dim, ...]

    @property
    def axes(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """Elements from the first to the last of a window, both counted."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def is_static(self) -> bool:
        """Whether every size is known before anything runs."""
        return all(isinstance(s, int) for s in (*self.size, *self.out))

    def sizes(self) -> tuple[int, ...]:
        """The operand's sizes, where they are static."""
        return tuple(s for s in self.size if isinstance(s, int))

    def outs(self) -> tuple[int, ...]:
        """The result's sizes, where they are static."""
        return tuple(s for s in self.out if isinstance(s, int))

    def leftover(self) -> tuple[int, ...]:
        """Padded elements after the last window, per axis; negative where ceil_mode lets it hang over the end."""
        return tuple(
            n + b + e - ((o - 1) * s + w)
            for n, b, e, o, s, w in zip(
                self.sizes(), self.begin, self.end, self.outs(), self.stride, self.extent, strict=True
            )
        )


def geometry(ctx: Context, node: ir.Node, x: ir.Value, kernel: tuple[int, ...]) -> Geometry:
    """Read a node's attributes; ``auto_pad`` is resolved into numbers.

    Raises:
        UnsupportedOperatorError: ``auto_pad`` SAME over sizes that are not static.
    """
    axes = len(kernel)
    stride = tuple(ctx.attribute(node, "strides", [1] * axes))
    dilation = tuple(ctx.attribute(node, "dilations", [1] * axes))
    pads = list(ctx.attribute(node, "pads", [0] * 2 * axes))
    auto = ctx.attribute(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * axes
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = ctx.static_dims(node, x, 2, f"auto_pad {auto}")
        pads = _same(sizes, kernel, stride, dilation, upper=auto == "SAME_UPPER")
    return Geometry(
        kernel, stride, dilation, tuple(pads[:axes]), tuple(pads[axes:]),
        ctx.dims(x)[2:], ctx.dims(node.outputs[0])[2:],
    )  # fmt: skip


def _same(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    upper: bool,
) -> list[int]:
    less, more = [], []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        less.append(total // 2)
        more.append(total - total // 2)
    return [*less, *more] if upper else [*more, *less]
