"""Which axes of the input the axes of an internal value lie along: a convolution's grid, a Transformer's tokens.

Followed through the graph by what operators do to axes, not by sizes that happen to agree. What cannot be followed is
said to lie along nothing; nothing is guessed here, and nothing is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx_ir as ir

from tonescope_server.gradients.rule_set import operator_name


@dataclass(frozen=True)
class Part:
    """One factor of an axis.

    Attributes:
        axis: the input's axis that it runs along, from end to end, the batch's being 0; None for anything else.
        size: its length; None where that is known at run time only.
    """

    axis: int | None
    size: int | None


@dataclass(frozen=True)
class Axis:
    """One axis of a value: factors in row-major order, and entries of another kind around them, as class tokens are.

    Attributes:
        parts: the factors; several where axes were merged, as those of an image are in a row of patches.
        before: entries before them; None as long as their number is not known.
        after: entries after them; likewise.
    """

    parts: tuple[Part, ...]
    before: int | None = 0
    after: int | None = 0

    @property
    def size(self) -> int | None:
        """Its length; None where that is known at run time only."""
        sizes = [p.size for p in self.parts]
        if self.before is None or self.after is None or None in sizes:
            return None
        return prod(s or 0 for s in sizes) + self.before + self.after

    @property
    def is_plain(self) -> bool:
        """Whether it is one factor, with nothing around it."""
        return len(self.parts) == 1 and self.before == 0 == self.after

    @property
    def grid(self) -> tuple[tuple[int, int | None], ...]:
        """The input's axes that it runs along and its length along each; () where any of it runs along none.

        A length that is known at run time only is None; there is none such among several factors.
        """
        found = [(p.axis, p.size) for p in self.parts if p.axis and (p.size is not None or self.is_plain)]
        known = self.before is not None and self.after is not None
        return tuple(found) if known and len(found) == len(self.parts) else ()


Axes = tuple[Axis, ...]
Known = Mapping[ir.Value, Axes]


def along_input(nodes: Iterable[ir.Node], x: ir.Value) -> dict[ir.Value, Axes]:
    """Return what the axes of every value lie along that is computed from ``x`` and has a known rank.

    Args:
        nodes: in order; shapes inferred.
        x: the input, batch first.
    """
    found: dict[ir.Value, Axes] = {x: tuple(Axis((Part(i, d),)) for i, d in enumerate(_dims(x)))}
    for node in nodes:
        name = operator_name(node)
        if name in ("Shape", "Size") or not any(v in found for v in node.inputs):
            continue
        rule = _RULES.get(name, _broadcast)
        for value in node.outputs:
            if value.shape is not None:
                axes = rule(node, value, found)
                found[value] = tuple(_agreeing(a, d) for a, d in zip(axes, _dims(value), strict=True))
    return found


def _dims(value: ir.Value) -> list[int | None]:
    return [d if isinstance(d, int) else None for d in value.shape or ()]


def _other(size: int | None) -> Axis:
    return Axis((Part(None, size),))


def _nothing(value: ir.Value) -> list[Axis]:
    return [_other(d) for d in _dims(value)]


def _agreeing(axis: Axis, size: int | None) -> Axis:
    """Return the axis where its length is the value's, as shape inference has it; else one that runs along nothing.

    What was open is settled by that length.
    """
    if size is not None and axis.size is None:
        parts = prod(p.size or 0 for p in axis.parts)
        if axis.is_plain:
            return Axis((Part(axis.parts[0].axis, size),))
        if parts and axis.before is None and axis.after is not None and size >= parts + axis.after:
            return Axis(axis.parts, size - parts - axis.after, axis.after)
        if parts and axis.after is None and axis.before is not None and size >= parts + axis.before:
            return Axis(axis.parts, axis.before, size - parts - axis.before)
    return axis if axis.size == size or size is None else _other(size)


def _traced(axis: Axis) -> bool:
    return any(p.axis is not None for p in axis.parts)


def _operand(node: ir.Node, place: int, found: Known) -> Axes:
    """Return the axes of an operand; those of one that is not computed from the input run along nothing."""
    value = node.inputs[place]
    assert value is not None  # only operands that the operator must have are asked for
    return found.get(value) or tuple(_nothing(value))


def _constant(value: ir.Value | None) -> list[int] | None:
    if value is None:
        return None
    tensor = value.const_value
    producer = value.producer()
    if tensor is None and producer is not None and producer.op_type == "Constant":
        attribute = producer.attributes.get("value")
        tensor = None if attribute is None else attribute.as_tensor()
    return None if tensor is None else [int(i) for i in tensor.numpy().ravel()]


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _merged(axes: Sequence[Axis], size: int | None) -> Axis:
    """Return the axis that several operands share: what those say of it that say anything, where they agree."""
    longest = size if size is not None else max((axis.size or 0 for axis in axes), default=0)
    fit = [axis for axis in axes if axis.size is None or axis.size == (longest if longest > 1 else axis.size)]
    said = {_agreeing(axis, longest if longest > 1 else None) for axis in fit if _traced(axis)}
    return said.pop() if len(said) == 1 else _other(size or longest or None)


def _aligned(operands: Sequence[Axes], dims: Sequence[int | None]) -> list[Axis]:
    """Merge axes as broadcasting aligns them, from the last one on."""
    rank = len(dims)
    return [
        _merged([axes[i - rank + len(axes)] for axes in operands if i - rank + len(axes) >= 0], d)
        for i, d in enumerate(dims)
    ]


def _broadcast(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    """Element by element, or along axes that keep their place and their length: normalisations, softmax."""
    rank = len(_dims(value))
    return _aligned([a for v in node.inputs if v is not None and len(a := found.get(v, ())) <= rank], _dims(value))


def _lost(_node: ir.Node, value: ir.Value, _found: Known) -> list[Axis]:
    return _nothing(value)


def _transposed(node: ir.Node, _value: ir.Value, found: Known) -> list[Axis]:
    axes = _operand(node, 0, found)
    return [axes[i] for i in _attribute(node, "perm", range(len(axes))[::-1])]


def _rescaled(axis: Axis, size: int | None) -> Axis:
    """Return an axis whose grid became coarser or finer and still runs from end to end."""
    if axis.size == size:
        return axis
    return Axis((Part(axis.parts[0].axis, size),)) if axis.is_plain and size != 1 else _other(size)


def _spatial(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    """Convolutions mix their channels; pools, padding and resizing keep every axis what it is."""
    axes, dims = _operand(node, 0, found), _dims(value)
    if len(axes) != len(dims):
        return _nothing(value)
    result = [axes[0] if i == 0 else _rescaled(a, d) for i, (a, d) in enumerate(zip(axes, dims, strict=True))]
    if "Conv" in node.op_type:
        result[1] = _other(dims[1])
    return result


def _sliced(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    """Entries around a grid may be cut away, and so may padding; a grid that is cut itself runs along nothing."""
    axes, dims = _operand(node, 0, found), _dims(value)
    starts = _constant(node.inputs[1])
    which = _constant(node.inputs[3] if len(node.inputs) > 3 else None)
    place = dict(zip(which if which is not None else range(len(starts or ())), starts or (), strict=False))
    result = []
    for i, (axis, size) in enumerate(zip(axes, dims, strict=True)):
        start = place.get(i, place.get(i - len(axes)))
        inner = Axis(axis.parts)
        padding = size is not None and size >= (_full(axis, found) or size + 1)
        if axis.size == size:
            result.append(axis)
        elif axis.before and start == axis.before and inner.size == size:
            result.append(inner)
        else:
            result.append(_rescaled(axis, size) if padding else _other(size))
    return result


def _full(axis: Axis, found: Known) -> int | None:
    """Return how long the input's axis is that an axis runs along."""
    along = axis.parts[0].axis
    return None if along is None else next(iter(found.values()))[along].size


def _split(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    axes = _operand(node, 0, found)
    return [a if a.size == d else _other(d) for a, d in zip(axes, _dims(value), strict=True)]


def _concatenated(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    dims = _dims(value)
    along = int(_attribute(node, "axis", 0)) % len(dims)
    operands = [_operand(node, i, found) for i in range(len(node.inputs))]
    result = _aligned(operands, dims)
    result[along] = _joined([axes[along] for axes in operands], dims[along])
    return result


def _joined(axes: Sequence[Axis], size: int | None) -> Axis:
    """Return one grid with entries of another kind around it; several grids in a row run along nothing."""
    grids = [i for i, axis in enumerate(axes) if _traced(axis)]
    if len(grids) != 1:
        return _other(size)
    grid = axes[grids[0]]
    before, after = [axis.size for axis in axes[: grids[0]]], [axis.size for axis in axes[grids[0] + 1 :]]
    return _agreeing(Axis(grid.parts, _total([grid.before, *before]), _total([grid.after, *after])), size)


def _total(sizes: Sequence[int | None]) -> int | None:
    return None if None in sizes else sum(s or 0 for s in sizes)


def _picked(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    axes, where = _operand(node, 0, found), node.inputs[1]
    if where is None or where.shape is None or len(where.shape):
        return _nothing(value)
    along = int(_attribute(node, "axis", 0)) % len(axes)
    return [axis for i, axis in enumerate(axes) if i != along]


def _reduced(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    axes, dims = _operand(node, 0, found), _dims(value)
    which = _constant(node.inputs[1]) if len(node.inputs) > 1 else _attribute(node, "axes", None)
    if which is None:
        return _nothing(value)
    gone = {int(i) % len(axes) for i in which}
    if len(dims) == len(axes):
        return [_other(1) if i in gone else axis for i, axis in enumerate(axes)]
    return [axis for i, axis in enumerate(axes) if i not in gone]


def _product(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    a, b, dims = _operand(node, 0, found), _operand(node, 1, found), _dims(value)
    if min(len(a), len(b), len(dims)) < 2:
        return _nothing(value)
    return [*_aligned([a[:-2], b[:-2]], dims[:-2]), a[-2], b[-1]]


def _affine(node: ir.Node, _value: ir.Value, found: Known) -> list[Axis]:
    a, b = _operand(node, 0, found), _operand(node, 1, found)
    return [a[_attribute(node, "transA", 0)], b[1 - _attribute(node, "transB", 0)]]


def _einsum(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    equation = str(_attribute(node, "equation", "")).replace(" ", "")
    if "..." in equation or "->" not in equation:
        return _nothing(value)
    read, made = equation.split("->")
    letters = [
        (letter, axis)
        for i, term in enumerate(read.split(","))
        for letter, axis in zip(term, _operand(node, i, found), strict=True)
    ]
    return [
        _merged([a for known, a in letters if known == letter], d) for letter, d in zip(made, _dims(value), strict=True)
    ]


def _recurrent(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    """All steps are (steps, directions, batch, hidden), the last (directions, batch, hidden); ``layout`` turns them."""
    axes, dims = _operand(node, 0, found), _dims(value)
    if _attribute(node, "layout", 0) or len(dims) not in (3, 4):
        return _nothing(value)
    steps = [axes[0]] if len(dims) == 4 else []
    return [*steps, _other(dims[-3]), axes[1], _other(dims[-1])]


def _regrouped(node: ir.Node, value: ir.Value, found: Known) -> list[Axis]:
    """Hand the factors of the operand's axes out to the result's, from the last on; the first takes what is left."""
    left = [
        unit for axis in _operand(node, 0, found) for unit in _units(axis) if unit.size != 1 or unit.parts[0].axis == 0
    ]
    dims = _completed(_dims(value), left)
    result: list[Axis] = []
    for size in reversed(dims[1:]):
        taken = _taken(left, size)
        if taken is None:
            return [*(_other(d) for d in dims[: len(dims) - len(result)]), *result]
        result.insert(0, _factors(taken, size))
    return [_factors(left, dims[0]), *result] if dims else []


def _completed(dims: list[int | None], units: Sequence[Axis]) -> list[int | None]:
    """Work out the one size that shape inference left open, where the batch stays in front."""
    sizes, known = [u.size for u in units], [d for d in dims if d is not None]
    if dims.count(None) != 2 or dims[0] is not None or sizes.count(None) != 1 or sizes[0] is not None or 0 in known:
        return dims
    rest = prod(s for s in sizes if s is not None) // prod(known)
    return [None, *(rest if d is None else d for d in dims[1:])]


def _units(axis: Axis) -> list[Axis]:
    return [Axis((p,)) for p in axis.parts] if axis.before == 0 == axis.after else [axis]


def _factors(units: Sequence[Axis], size: int | None) -> Axis:
    if len(units) == 1:
        return units[0]
    if not units or not all(u.is_plain for u in units):
        return _other(size)
    return Axis(tuple(p for u in units for p in u.parts))


def _taken(left: list[Axis], size: int | None) -> list[Axis] | None:
    """Take factors of a length off the end, the last one split where it is longer; None where they do not fit.

    Of a split factor the outer part still runs along the input, by larger steps; the inner one only within a step. A
    length that is known at run time only is that of a factor that is, times those after it.
    """
    taken: list[Axis] = []
    if size is None:
        while left and not any(unit.size is None for unit in taken):
            taken.insert(0, left.pop())
        return taken if any(unit.size is None for unit in taken) else None
    missing = size
    while missing is not None and missing > 1 and left:
        unit = left.pop()
        if unit.size is None:
            return None
        if missing % unit.size == 0:
            taken.insert(0, unit)
            missing //= unit.size
        elif unit.size % missing == 0 and unit.is_plain:
            left.append(Axis((Part(unit.parts[0].axis, unit.size // missing),)))
            taken.insert(0, _other(missing))
            missing = 1
        else:
            return None
    return taken if missing == 1 else None


_RULES: Mapping[str, Callable[[ir.Node, ir.Value, Known], list[Axis]]] = {
    "Transpose": _transposed,
    "Slice": _sliced,
    "Split": _split,
    "Concat": _concatenated,
    "Gather": _picked,
    "MatMul": _product,
    "Gemm": _affine,
    "Einsum": _einsum,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _regrouped),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(
        (
            "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
            "GlobalLpPool", "Resize", "Upsample", "Pad",
        ),
        _spatial,
    ),
    **dict.fromkeys(
        (
            "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
            "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin",
        ),
        _reduced,
    ),
    **dict.fromkeys(
        (
            "GatherElements", "GatherND", "ScatterElements", "ScatterND", "ReverseSequence", "TopK", "Compress",
            "DepthToSpace", "SpaceToDepth", "Col2Im", "GridSample", "DFT", "STFT", "If", "Loop", "Scan",
        ),
        _lost,
    ),
}  # fmt: skip
