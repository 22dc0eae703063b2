"""Reverse-mode differentiation of ONNX graphs: one walk, any rule set.

Only nodes that lie between what is differentiated and what it is differentiated by are visited: a tap at an internal
value costs nothing upstream of it. The walk itself is in ``walk``, rules in ``rules/``; sampling, paths and folding in
``tape``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from tonescope_server.errors import UnknownTensorError
from tonescope_server.gradients.activity import activity, is_float, on_integers, without_rule
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.counting import uncounted
from tonescope_server.gradients.prepass import check_opset, infer_shapes, inline_functions
from tonescope_server.gradients.rule_set import ZERO_DERIVATIVE, RuleSet, operator_name
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.walk import pull_back, pull_back_each, refused

COTANGENT = "cotangent:"
GRADIENT = "gradient:"


def differentiate(
    model: ir.Model,
    wrt: Sequence[str],
    rule_set: RuleSet = STANDARD,
    *,
    outputs: Sequence[str] | None = None,
    seeds: int | None = None,
    portable: bool = False,
) -> ir.Model:
    """Return a model that also computes vector-Jacobian products of its outputs.

    Args:
        model: an inference graph; it is not changed.
        wrt: names of the values to differentiate by: inputs, or any internal float value.
        rule_set: the backward rules.
        outputs: the outputs that are differentiated; None means all of floating point.
        seeds: how many cotangents each output takes at once, from one forward pass: their inputs, and the gradients,
            then have one more axis in front. None means one, without that axis.
        portable: emit only plain forms of operators.

    Returns:
        The model with one more input ``cotangent:<output>`` per differentiated output, of that output's shape, and one
        more output ``gradient:<value>`` per name in ``wrt``, of that value's shape.

    Raises:
        UnknownTensorError: a name that no value of the graph goes by.
        UnsupportedOperatorError: an operator on the way has no rule, or the opset is older than 18; nothing was run.
    """
    check_opset(model)
    clone = differentiable(infer_shapes(model.clone(deep_copy=False)), rule_set)
    graph = clone.graph
    values = values_by_name(graph)
    by = [named(values, name) for name in wrt]
    offered = {str(v.name): v for v in graph.outputs if is_float(v)}
    chosen = list(offered.values()) if outputs is None else [named(offered, name) for name in outputs]
    lead = [] if seeds is None else [seeds]
    given = {v: ir.Value(name=COTANGENT + str(v.name), shape=_led(lead, v.shape), type=v.type) for v in chosen}
    graph.inputs.extend(given.values())
    context = Context(graph, portable=portable)
    if seeds is None:
        gradients = pull_back(context, given, by, rule_set)
    else:
        gradients = pull_back_each(context, seeds, given, by, rule_set)
    for value, gradient in zip(by, gradients, strict=True):
        result = context.op("Identity", gradient)
        result.name, result.shape, result.type = GRADIENT + str(value.name), _led(lead, value.shape), value.type
        graph.outputs.append(result)
    return clone


def _led(lead: Sequence[int], shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape([*lead, *shape])


def differentiable(model: ir.Model, rule_set: RuleSet = STANDARD) -> ir.Model:
    """Return a model whose operators without a rule are spelled out by their functions, as far as they have one."""
    return inline_functions(
        model, lambda node: rule_set.rule_for(node) is not None or operator_name(node) in ZERO_DERIVATIVE
    )


def missing_rules(
    graph: ir.Graph, outputs: Iterable[ir.Value], wrt: Sequence[ir.Value], rule_set: RuleSet
) -> list[ir.Node]:
    """Return the nodes between ``wrt`` and ``outputs``, in graphs inside nodes too, that the rule set cannot do."""
    found = activity(list(graph), outputs, wrt, steps=rule_set.reference)
    integers = uncounted(found) if rule_set.reference else ()
    return list(dict.fromkeys([*without_rule(found, rule_set), *on_integers(found), *integers]))


def refused_operators(model: ir.Model, wrt: str, output: str, rule_set: RuleSet = STANDARD) -> set[str]:
    """Return the operators between two values of which a rule set refuses at least one node, for whatever reason.

    Args:
        model: as ``differentiable`` returns it, with its shapes inferred; it is not changed.
        wrt: name of the value to differentiate by.
        output: name of the output that is differentiated.
        rule_set: the backward rules; those that compare with a reference are not asked for one.
    """
    graph = model.clone(deep_copy=False).graph
    by = named(values_by_name(graph), wrt)
    end = named({str(v.name): v for v in graph.outputs}, output)
    seed = ir.Value(name=COTANGENT + output, shape=end.shape, type=end.type)
    graph.inputs.append(seed)
    return {operator_name(node) for node in refused(Context(graph), {end: seed}, [by], rule_set)}


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
