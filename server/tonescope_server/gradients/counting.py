"""What is true or false, or counted, as numbers: where changes are followed, and not derivatives.

A rule knows floating point. A node that adds, reduces or moves integers or truths is done again on the same numbers in
float32, at both ends, and the rule is asked about that. Rules for comparisons, logic and Cast need none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx.defs
import onnx_ir as ir

from tonescope_server.gradients.activity import Activity, is_float
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, operator_name

_TRUNCATING = frozenset({"Div", "Mod", "Mean", "ReduceMean"})
"""Operators that do something else on integers than on floating point."""

_AS_THEY_ARE = frozenset(
    {"Cast", "CastLike", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor",
     "QuantizeLinear", "DequantizeLinear"}
)  # fmt: skip
"""Operators whose rules know what is not floating point."""


def uncounted(found: Activity) -> Iterator[ir.Node]:
    """Yield the nodes on the way whose change cannot be followed: integers that choose, or that are divided."""
    for node in found.nodes:
        asked = [i for i in _not_floats(node) if node.inputs[i] in found.needed]
        able = {*_numbers(node), *([0] if node.op_type in ("Where", "If") else [])}  # their conditions
        if (asked and operator_name(node) in _TRUNCATING) or not able.issuperset(asked):
            yield node


def counted(ctx: Context, node: ir.Node, cotangents: Cotangents, rule: Rule) -> Sequence[ir.Value | None]:
    """Apply a rule to a node, or to the same node on numbers in float32 where its operands are none."""
    counts = [i for i in _numbers(node) if i in _not_floats(node)]
    if not counts or operator_name(node) in _AS_THEY_ARE or not any(ctx.need(node.inputs[i]) for i in counts):
        return rule(ctx, node, cotangents)
    here, there = list(node.inputs), [None if v is None else ctx.reference(v) for v in node.inputs]
    for i in counts:
        given = node.inputs[i]
        here[i], there[i] = (_in_float32(ctx, v) for v in (here[i], there[i]))
        if ctx.need(given):
            ctx.also_need(_of(here[i]))
        ctx.set_references({_of(here[i]): _of(there[i])})
    ends = [ctx.again(node, operands)[0] for operands in (here, there)]
    for end in ends:
        end.shape, end.type = node.outputs[0].shape, ir.TensorType(ir.DataType.FLOAT)
    ctx.set_references({ends[0]: ends[1]})
    stand_in = ends[0].producer()
    assert stand_in is not None  # just emitted
    return rule(ctx, stand_in, cotangents[:1])


def _numbers(node: ir.Node) -> list[int]:
    """Return which operands are of the type of the result, and may be of floating point just as well."""
    if node.domain not in ("", "ai.onnx"):
        return []
    if operator_name(node) in _AS_THEY_ARE:
        return list(range(len(node.inputs)))
    schema = onnx.defs.get_schema(node.op_type)
    kind = schema.outputs[0].type_str
    inputs = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(node.inputs))]
    return [i for i, own in enumerate(inputs) if own == kind]


def _not_floats(node: ir.Node) -> list[int]:
    return [i for i, v in enumerate(node.inputs) if v is not None and v.dtype is not None and not is_float(v)]


def _in_float32(ctx: Context, value: ir.Value | None) -> ir.Value:
    cast = ctx.op("Cast", _of(value), to=int(ir.DataType.FLOAT))
    cast.shape, cast.type = _of(value).shape, ir.TensorType(ir.DataType.FLOAT)
    return cast


def _of(value: ir.Value | None) -> ir.Value:
    assert value is not None  # only operands that are there are cast
    return value
