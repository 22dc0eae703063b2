"""Products of matrices: MatMul and Gemm."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required


def gemm(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``Y = α·A'·B' + β·C``: ``dA' = α·g·B'ᵀ``, ``dB' = α·A'ᵀ·g``, ``dC = β·Σ g``."""
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    alpha = ctx.attribute(node, "alpha", 1.0)
    trans_a, trans_b = ctx.attribute(node, "transA", 0), ctx.attribute(node, "transB", 0)
    found: list[ir.Value | None] = [None, None, None]
    if ctx.need(a):
        index = ctx.one_hot_index(g)
        if index is not None and trans_b and not trans_a and alpha == 1.0:
            # The predicted class's row of the weights, as it stands: one node fewer, and no product with zeros.
            found[0] = ctx.op("Gather", b, index, axis=0)
        elif trans_a:
            found[0] = ctx.op("Gemm", b, g, alpha=alpha, transA=trans_b, transB=1)
        else:
            found[0] = ctx.op("Gemm", g, b, alpha=alpha, transB=1 - trans_b)
    if ctx.need(b):
        found[1] = (
            ctx.op("Gemm", g, a, alpha=alpha, transA=1, transB=trans_a)
            if trans_b
            else ctx.op("Gemm", a, g, alpha=alpha, transA=1 - trans_a)
        )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and ctx.need(bias):
        beta = ctx.attribute(node, "beta", 1.0)
        scaled = g if beta == 1.0 else ctx.op("Mul", g, ctx.scalar(beta, g))
        found[2] = ctx.unbroadcast(scaled, bias, node.outputs[0])
    return found


def matmul(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``dA = g·Bᵀ``, ``dB = Aᵀ·g``, summed over broadcast axes; vectors count as matrices with one row or column."""
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    rank_a, rank_b = ctx.rank(a), ctx.rank(b)
    if rank_a == 1:
        g = ctx.op("Unsqueeze", g, ctx.ints([-2 if rank_b > 1 else 0]))
    if rank_b == 1:
        g = ctx.op("Unsqueeze", g, ctx.ints([-1]))
    found: list[ir.Value | None] = [None, None]
    if ctx.need(a):
        matrix = ctx.op("Unsqueeze", b, ctx.ints([1])) if rank_b == 1 else b
        found[0] = _fit(ctx, ctx.op("MatMul", g, _transposed(ctx, matrix, max(rank_b, 2))), a, b)
    if ctx.need(b):
        matrix = ctx.op("Unsqueeze", a, ctx.ints([0])) if rank_a == 1 else a
        found[1] = _fit(ctx, ctx.op("MatMul", _transposed(ctx, matrix, max(rank_a, 2)), g), b, a)
    return found


def _transposed(ctx: Context, value: ir.Value, rank: int) -> ir.Value:
    order = [*range(rank - 2), rank - 1, rank - 2]
    return ctx.op("Transpose", value, perm=order)


def _fit(ctx: Context, cotangent: ir.Value, operand: ir.Value, other: ir.Value) -> ir.Value:
    """Sum over the batch axes along which ``operand`` was broadcast, and drop the axis a vector was given."""
    have, want = ctx.dims(other)[:-2], ctx.dims(operand)[:-2]
    if len(ctx.dims(operand)) == 1:
        # A vector meets every matrix of the other operand's batch axes.
        cotangent = ctx.op("ReduceSum", cotangent, ctx.ints(range(len(have))), keepdims=0) if have else cotangent
        return ctx.reshape_like(cotangent, operand)
    lead = max(len(have) - len(want), 0)
    axes = list(range(lead))
    for i in range(1, min(len(have), len(want)) + 1):
        if want[-i] == 1 and have[-i] != 1:
            axes.append(lead + len(want) - i)
        elif want[-i] != have[-i] and have[-i] != 1 and not isinstance(want[-i], int):
            # It sums over matrix axes of size 1 as well, which changes nothing.
            return ctx.unbroadcast_at_run_time(cotangent, operand, lead)
    if not axes:
        return cotangent
    return ctx.reshape_like(ctx.op("ReduceSum", cotangent, ctx.ints(axes), keepdims=1), operand)


RULES: dict[str, Rule] = {"Gemm": gemm, "MatMul": matmul}
