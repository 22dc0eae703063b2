"""The walk: cotangents handed back from node to node, by the rules of one rule set.

Which nodes it visits is in ``activity``; rules for operators with graphs inside them walk those in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients.activity import Activity, activity, is_float, on_integers, without_rule
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.counting import counted, uncounted
from tonescope_server.gradients.rule_set import RuleSet, operator_name
from tonescope_server.gradients.subgraphs import operands


def pull_back(
    context: Context, seeds: Mapping[ir.Value, ir.Value], wrt: Sequence[ir.Value], rule_set: RuleSet
) -> list[ir.Value]:
    """Emit the backward pass into the context's own graph.

    Args:
        context: emits into the graph that holds the forward nodes.
        seeds: the cotangent of each value that the walk starts from.
        wrt: the values to differentiate by.
        rule_set: the backward rules.

    Returns:
        One cotangent per entry of ``wrt``, in full shape; zeros where nothing depends on it.

    Raises:
        UnsupportedOperatorError: an operator on the way has no rule; nothing was emitted.
    """
    found = activity(list(context.graph), seeds, wrt, steps=rule_set.reference)
    _refuse(found, rule_set)
    context.rule_set = rule_set
    context._needed = found.needed  # the walk owns it; rules only ask through need()
    cotangents: dict[ir.Value, ir.Value] = dict(seeds)
    for node in reversed(found.nodes):
        _apply(context, node, cotangents, rule_set)
    return [context.expanded(cotangents[v], v) if v in cotangents else context.zeros_like(v) for v in wrt]


def pull_back_each(
    context: Context, count: int, seeds: Mapping[ir.Value, ir.Value], wrt: Sequence[ir.Value], rule_set: RuleSet
) -> list[ir.Value]:
    """Emit one backward pass per target, all from one forward pass, into the context's own graph.

    Args:
        context: as for ``pull_back``.
        count: how many targets there are.
        seeds: by value, its cotangents: ``(targets, *shape of the value)``.
        wrt: the values to differentiate by.
        rule_set: the backward rules.

    Returns:
        One value per entry of ``wrt``: its cotangents, ``(targets, *shape of the value)``.

    Raises:
        UnsupportedOperatorError: an operator on the way has no rule; nothing was emitted.
    """
    each = []
    for k in range(count):
        own = {
            v: context.typed(context.op("Gather", c, context.constant(np.int64(k)), axis=0), v)
            for v, c in seeds.items()
        }
        each.append(pull_back(context, own, wrt, rule_set))
    first = context.ints([0])
    rows = [[context.op("Unsqueeze", gradient, first) for gradient in found] for found in each]
    return [context.op("Concat", *column, axis=0) for column in zip(*rows, strict=True)]


def refused(
    context: Context, seeds: Mapping[ir.Value, ir.Value], wrt: Sequence[ir.Value], rule_set: RuleSet
) -> list[ir.Node]:
    """Return the nodes that cannot be differentiated: by having each differentiated, past those that are refused.

    Args:
        context: emits into a graph that nobody else needs; what is emitted is of no use.
        seeds: as for ``pull_back``.
        wrt: as for ``pull_back``.
        rule_set: as for ``pull_back``.
    """
    found = activity(list(context.graph), seeds, wrt, steps=rule_set.reference)
    context.rule_set = rule_set
    context._needed = found.needed
    without = {*without_rule(found, rule_set), *on_integers(found), *(uncounted(found) if rule_set.reference else ())}
    nodes = [n for n in found.nodes if n in without]
    cotangents: dict[ir.Value, ir.Value] = dict(seeds)
    for node in reversed(found.nodes):
        try:
            if node not in without:
                _apply(context, node, cotangents, rule_set)
                continue
        except UnsupportedOperatorError:
            nodes.append(node)
        for value in operands(node):  # so that what lies before it is asked too
            if value is not None and value in found.needed and is_float(value) and value not in cotangents:
                cotangents[value] = context.zeros_like(value)
    return nodes


def _refuse(found: Activity, rule_set: RuleSet) -> None:
    for node in on_integers(found):
        raise UnsupportedOperatorError(
            f"rule set '{rule_set.name}': operator {operator_name(node)} at node '{node.name}' works on quantised "
            "values; only models that dequantise before each operator (QDQ) can be differentiated"
        )
    for node in uncounted(found) if rule_set.reference else ():
        raise UnsupportedOperatorError(
            f"rule set '{rule_set.name}': operator {operator_name(node)} at node '{node.name}' chooses or divides by "
            "integers that depend on the input, whose change no rule follows"
        )
    missing = list(without_rule(found, rule_set))
    if missing:
        raise UnsupportedOperatorError(_missing(missing, rule_set))


def _apply(context: Context, node: ir.Node, cotangents: dict[ir.Value, ir.Value], rule_set: RuleSet) -> None:
    rule = rule_set.rule_for(node)
    assert rule is not None  # pull_back has refused the graph otherwise
    incoming = [cotangents.get(v) for v in node.outputs]
    if all(c is None for c in incoming):
        return
    if not getattr(rule, "accepts_unexpanded", False):
        incoming = [None if c is None else context.expanded(c, v) for c, v in zip(incoming, node.outputs, strict=True)]
    found = counted(context, node, incoming, rule) if rule_set.reference else rule(context, node, incoming)
    for value, cotangent in zip(operands(node), found, strict=False):
        if value is None or cotangent is None or not context.need(value):
            continue
        if not context.is_unexpanded(cotangent):
            _stated(context, cotangent, value)
        cotangents[value] = _sum(context, cotangents.get(value), cotangent, value)


def _sum(context: Context, have: ir.Value | None, more: ir.Value, primal: ir.Value) -> ir.Value:
    if have is None:
        return more
    total = context.op("Add", have, more)
    if context.is_unexpanded(have) and context.is_unexpanded(more):
        return context.mark_unexpanded(total)
    return _stated(context, total, primal)


def _stated(context: Context, cotangent: ir.Value, value: ir.Value) -> ir.Value:
    """State a cotangent's shape and type: its value's own, but for one that is not of floating point."""
    if is_float(value):
        return context.typed(cotangent, value)
    cotangent.shape = value.shape
    return cotangent


def _missing(nodes: Sequence[ir.Node], rule_set: RuleSet) -> str:
    named_nodes = ", ".join(f"{operator_name(n)} (node '{n.name}')" for n in nodes[:4])
    more = f" and {len(nodes) - 4} more" if len(nodes) > 4 else ""
    return f"rule set '{rule_set.name}' has no rule for operator {named_nodes}{more}"
