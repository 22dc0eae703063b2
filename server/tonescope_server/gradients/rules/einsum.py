"""Einsum: the gradient of a sum of products is another, with the operand and the result changed over."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required


def einsum(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Give A of "A,B→C" what "C,B→A" comes to; a letter that only A has is a sum, and spreads back.

    Refused: an operand with an index twice, operands that broadcast through their ellipses.
    """
    inputs, output = _subscripts(ctx, node)
    g = required(cotangents[0])
    found: list[ir.Value | None] = []
    for i, letters in enumerate(inputs):
        operand = required(node.inputs[i])
        if not ctx.need(operand):
            found.append(None)
            continue
        others = [(inputs[j], node.inputs[j]) for j in range(len(inputs)) if j != i]
        there = set(output).union(*(set(s) for s, _ in others))
        kept = "".join(c for c in letters if c in there)
        equation = ",".join([output, *(s for s, _ in others)]) + "->" + kept
        value = ctx.op("Einsum", g, *(v for _, v in others), equation=equation)
        if kept != letters:
            value = ctx.op("Unsqueeze", value, ctx.ints(k for k, c in enumerate(letters) if c not in there))
            value = ctx.op("Expand", value, ctx.shape_of(operand))
        found.append(value)
    return found


def _subscripts(ctx: Context, node: ir.Node) -> tuple[list[str], str]:
    """Return each operand's letters and the result's, with an ellipsis spelled out in capitals."""
    equation = str(ctx.attribute(node, "equation")).replace(" ", "")
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        output = "..." * ("..." in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    spelled = []
    longest = 0
    for letters, value in zip(inputs, node.inputs, strict=True):
        hidden = ctx.rank(required(value)) - len(letters.replace(".", "")) if "..." in letters else 0
        longest = max(longest, hidden)
        spelled.append((letters, hidden))
    if any("..." in s and h != longest for s, h in spelled):
        raise ctx.unsupported(node, f"equation '{equation}': operands broadcast through their ellipses")
    whole = "".join(spare[:longest])
    inputs = [s.replace("...", whole) for s, _ in spelled]
    output = output.replace("...", whole)
    if any(len(set(s)) != len(s) for s in inputs):
        raise ctx.unsupported(node, f"equation '{equation}': an operand has an index twice")
    return inputs, output


RULES: dict[str, Rule] = {"Einsum": einsum}
