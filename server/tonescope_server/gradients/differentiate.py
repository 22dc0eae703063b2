"""Reverse-mode differentiation of ONNX graphs: one walk, any rule set.

The walk visits only nodes that lie between what is differentiated and what it is differentiated by: a tap at an
internal value costs nothing upstream of it. Rules live in ``rules/``; sampling, paths and folding in ``tape``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from tonescope_server.errors import UnknownTensorError, UnsupportedOperatorError
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.prepass import infer_shapes, inline_functions
from tonescope_server.gradients.rule_set import ZERO_DERIVATIVE, RuleSet, operator_name
from tonescope_server.gradients.rule_sets.standard import STANDARD

COTANGENT = "cotangent:"
GRADIENT = "gradient:"


def differentiate(
    model: ir.Model,
    wrt: Sequence[str],
    rule_set: RuleSet = STANDARD,
    *,
    outputs: Sequence[str] | None = None,
    portable: bool = False,
) -> ir.Model:
    """Return a model that also computes vector-Jacobian products of its outputs.

    Args:
        model: an inference graph; it is not changed.
        wrt: names of the values to differentiate by: inputs, or any internal float value.
        rule_set: the backward rules.
        outputs: the outputs that are differentiated; None means all of floating point.
        portable: emit only plain forms of operators.

    Returns:
        The model with one more input ``cotangent:<output>`` per differentiated output, of that output's shape, and one
        more output ``gradient:<value>`` per name in ``wrt``, of that value's shape.

    Raises:
        UnknownTensorError: a name that no value of the graph goes by.
        UnsupportedOperatorError: an operator on the way has no rule; nothing was run.
    """
    clone = differentiable(infer_shapes(model.clone(deep_copy=False)), rule_set)
    graph = clone.graph
    values = values_by_name(graph)
    by = [named(values, name) for name in wrt]
    offered = {str(v.name): v for v in graph.outputs if is_float(v)}
    chosen = list(offered.values()) if outputs is None else [named(offered, name) for name in outputs]
    seeds: dict[ir.Value, ir.Value] = {}
    for output in chosen:
        seed = ir.Value(name=COTANGENT + str(output.name), shape=output.shape, type=output.type)
        graph.inputs.append(seed)
        seeds[output] = seed
    context = Context(graph, portable=portable)
    for value, gradient in zip(by, pull_back(context, seeds, by, rule_set), strict=True):
        result = context.op("Identity", gradient)
        context.typed(result, value).name = GRADIENT + str(value.name)
        graph.outputs.append(result)
    return clone


def differentiable(model: ir.Model, rule_set: RuleSet = STANDARD) -> ir.Model:
    """Return a model whose operators without a rule are spelled out by their functions, as far as they have one."""
    return inline_functions(
        model, lambda node: rule_set.rule_for(node) is not None or operator_name(node) in ZERO_DERIVATIVE
    )


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
    nodes = list(context.graph)
    path, needed, on_integers = _path(nodes, seeds, wrt)
    if on_integers:
        node = on_integers[0]
        raise UnsupportedOperatorError(
            f"rule set '{rule_set.name}': operator {operator_name(node)} at node '{node.name}' works on quantised "
            "values; only models that dequantise before each operator (QDQ) can be differentiated"
        )
    missing = [n for n in path if rule_set.rule_for(n) is None]
    if missing:
        raise UnsupportedOperatorError(_missing(missing, rule_set))
    context.rule_set_name = rule_set.name
    context._needed = needed  # the walk owns it; rules only ask through need()
    cotangents: dict[ir.Value, ir.Value] = dict(seeds)
    for node in reversed(path):
        _apply(context, node, cotangents, rule_set)
    return [context.expanded(cotangents[v], v) if v in cotangents else _zeros(context, v) for v in wrt]


def missing_rules(
    graph: ir.Graph, outputs: Iterable[ir.Value], wrt: Sequence[ir.Value], rule_set: RuleSet
) -> list[ir.Node]:
    """Return the nodes between ``wrt`` and ``outputs`` that the rule set cannot differentiate."""
    path, _, on_integers = _path(list(graph), dict.fromkeys(outputs), wrt)
    return [n for n in path if rule_set.rule_for(n) is None or n in on_integers]


def _path(
    nodes: Sequence[ir.Node], seeds: Mapping[ir.Value, object], wrt: Sequence[ir.Value]
) -> tuple[list[ir.Node], set[ir.Value], list[ir.Node]]:
    """Return the nodes between ``wrt`` and the seeds, in order, and the values that need a cotangent.

    Last come those of the nodes that make integers of quantised values: they would silently end the gradient.
    """
    needed = set(wrt)
    quantised: set[ir.Value] = set()
    on_integers: set[ir.Node] = set()
    downstream: list[ir.Node] = []
    for node in nodes:
        name = operator_name(node)
        if name in ZERO_DERIVATIVE or not any(v in needed for v in reads(node)):
            continue
        if name != "DequantizeLinear" and any(v in quantised for v in node.inputs):
            on_integers.add(node)
            quantised.update(node.outputs)
        elif name == "QuantizeLinear":
            quantised.add(node.outputs[0])
        made = [v for v in node.outputs if is_float(v) or v in quantised]
        if made:
            downstream.append(node)
            needed.update(made)
    wanted = set(seeds)
    path: list[ir.Node] = []
    for node in reversed(downstream):
        if any(v in wanted for v in node.outputs):
            path.append(node)
            wanted.update(v for v in node.inputs if v is not None and v in needed)
    path.reverse()
    return path, needed, [n for n in path if n in on_integers]


def reads(node: ir.Node) -> set[ir.Value]:
    """Return what a node reads: its operands, and what the graphs inside it take from around them."""
    found = {v for v in node.inputs if v is not None}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.update(v for inner in attribute.as_graph() for v in reads(inner))
            found.update(attribute.as_graph().outputs)
    return found


def _apply(context: Context, node: ir.Node, cotangents: dict[ir.Value, ir.Value], rule_set: RuleSet) -> None:
    rule = rule_set.rule_for(node)
    assert rule is not None  # pull_back has refused the graph otherwise
    incoming = [cotangents.get(v) for v in node.outputs]
    if all(c is None for c in incoming):
        return
    if not getattr(rule, "accepts_unexpanded", False):
        incoming = [None if c is None else context.expanded(c, v) for c, v in zip(incoming, node.outputs, strict=True)]
    for value, cotangent in zip(node.inputs, rule(context, node, incoming), strict=False):
        if value is None or cotangent is None or not context.need(value):
            continue
        if not context.is_unexpanded(cotangent) and is_float(value):
            context.typed(cotangent, value)
        cotangents[value] = _sum(context, cotangents.get(value), cotangent, value)


def _sum(context: Context, have: ir.Value | None, more: ir.Value, primal: ir.Value) -> ir.Value:
    if have is None:
        return more
    total = context.op("Add", have, more)
    if context.is_unexpanded(have) and context.is_unexpanded(more):
        return context.mark_unexpanded(total)
    return context.typed(total, primal)


def _zeros(context: Context, value: ir.Value) -> ir.Value:
    return context.typed(context.op("Expand", context.scalar(0.0, value), context.shape_of(value)), value)


def _missing(nodes: Sequence[ir.Node], rule_set: RuleSet) -> str:
    named_nodes = ", ".join(f"{operator_name(n)} (node '{n.name}')" for n in nodes[:4])
    more = f" and {len(nodes) - 4} more" if len(nodes) > 4 else ""
    return f"rule set '{rule_set.name}' has no rule for operator {named_nodes}{more}"


def is_float(value: ir.Value) -> bool:
    """Tell whether a value is of floating point, so that it can carry a gradient."""
    return value.dtype is not None and value.dtype.is_floating_point()


def values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return every input and node output of a graph by its name."""
    values = {str(v.name): v for v in graph.inputs}
    for node in graph:
        values.update({v.name: v for v in node.outputs if v.name})
    return values


def named(values: Mapping[str, ir.Value], name: str) -> ir.Value:
    """Return the value of that name.

    Raises:
        UnknownTensorError: there is none; the message lists some that there are.
    """
    if name not in values:
        some = ", ".join(list(values)[:12])
        raise UnknownTensorError(f"no value named '{name}' in the graph; there are {len(values)}, among them {some}")
    return values[name]
