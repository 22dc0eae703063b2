"""What lies between what is differentiated and what it is differentiated by. Only looked at: nothing is emitted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from tonescope_server.gradients.rule_set import UNCHANGING, ZERO_DERIVATIVE, RuleSet, operator_name
from tonescope_server.gradients.subgraphs import captured, graphs_of, operands, with_inner

BITWISE = frozenset({"BitCast"})
"""Operators that read floats as integers bit by bit: what is done to those is no function with a derivative of zero."""

_MAKE_INTEGERS = frozenset({"QuantizeLinear", *BITWISE})


@dataclass(frozen=True)
class Activity:
    """The part of one graph that a gradient goes back through.

    Attributes:
        nodes: the nodes on the way, in order.
        needed: the values that depend on what is differentiated by.
        wanted: the values among those that something differentiated depends on, and what is differentiated.
        on_integers: the nodes that make integers of quantised values: they would silently end the gradient.
    """

    nodes: list[ir.Node]
    needed: set[ir.Value]
    wanted: set[ir.Value]
    on_integers: list[ir.Node]


def activity(
    nodes: Sequence[ir.Node], seeds: Iterable[ir.Value], wrt: Iterable[ir.Value], *, steps: bool = False
) -> Activity:
    """Return what lies between ``wrt`` and ``seeds``; ``steps`` tells to follow what changes without a derivative."""
    without = UNCHANGING if steps else ZERO_DERIVATIVE
    needed = set(wrt)
    quantised: set[ir.Value] = set()
    bits: set[ir.Value] = set()
    on_integers: set[ir.Node] = set()
    downstream: list[ir.Node] = []
    for node in nodes:
        name = operator_name(node)
        read = operands(node)
        if name in without or not any(v in needed for v in read):
            continue
        if name != "DequantizeLinear" and (any(v in quantised for v in read) or _hands_out_integers(node)):
            on_integers.add(node)
            quantised.update(node.outputs)
        elif name == "QuantizeLinear":
            quantised.add(node.outputs[0])
        elif name in BITWISE or any(v in bits for v in read):
            # Followed, so that the operator, which no rule set has a rule for, lies on the way and is refused.
            bits.update(node.outputs)
        made = [
            v for v in node.outputs if steps or is_float(v) or v in quantised or v in bits or _is_of_unknown_type(v)
        ]
        if made:
            downstream.append(node)
            needed.update(made)
    wanted = set(seeds)
    path: list[ir.Node] = []
    for node in reversed(downstream):
        if any(v in wanted for v in node.outputs):
            path.append(node)
            wanted.update(v for v in operands(node) if v is not None and v in needed)
    path.reverse()
    return Activity(path, needed, wanted, [n for n in path if n in on_integers])


def _is_of_unknown_type(value: ir.Value) -> bool:
    """Tell whether a value may be of floating point: that of an operator outside ONNX, about which nothing is known.

    Taken for something else it would end the gradient without a word.
    """
    return bool(value.name) and value.dtype in (None, ir.DataType.UNDEFINED)


def _hands_out_integers(node: ir.Node) -> bool:
    """Tell whether integers that a graph inside a node made of floats, not by rounding alone, may leave it."""
    inner = with_inner(n for graph in graphs_of(node) for n in graph)
    return any(operator_name(n) in _MAKE_INTEGERS for n in inner) and not all(is_float(v) for v in node.outputs)


@dataclass(frozen=True)
class Inner:
    """What goes back through one graph inside a node.

    Attributes:
        graph: the graph.
        seeds: which of its outputs are differentiated.
        wrt: by what: its own inputs first, then what it takes from around it.
        activity: what lies between.
    """

    graph: ir.Graph
    seeds: list[int]
    wrt: list[ir.Value]
    activity: Activity


def inside(node: ir.Node, needed: Collection[ir.Value], wanted: Collection[ir.Value]) -> list[Inner]:
    """Return what goes back through the graphs inside an If or a Scan; nothing for an operator that is neither.

    Args:
        node: the node.
        needed: the values that depend on what is differentiated by.
        wanted: the values that something differentiated depends on.
    """
    find = _INSIDE.get(operator_name(node))
    return [] if find is None else find(node, needed, wanted)


def _branches(node: ir.Node, needed: Collection[ir.Value], wanted: Collection[ir.Value]) -> list[Inner]:
    wrt = [v for v in captured(node) if v in needed and is_float(v)]
    found = []
    for graph in (node.attributes[name].as_graph() for name in ("then_branch", "else_branch")):
        results = zip(node.outputs, graph.outputs, strict=True)
        seeds = [k for k, (v, inner) in enumerate(results) if v in wanted and is_float(inner)]
        found.append(Inner(graph, seeds, wrt, activity(list(graph), [graph.outputs[k] for k in seeds], wrt)))
    return found


def _steps(node: ir.Node, needed: Collection[ir.Value], wanted: Collection[ir.Value]) -> list[Inner]:
    """Follow states from step to step, until nothing more comes of it."""
    graph = node.attributes["body"].as_graph()
    states = [i for i in range(len(node.inputs) - number_of_scan_inputs(node)) if is_float(graph.inputs[i])]
    taken = [v for v in captured(node) if v in needed and is_float(v)]
    inputs = {
        i for i, (v, own) in enumerate(zip(node.inputs, graph.inputs, strict=True)) if v in needed and is_float(own)
    }
    seeds = {k for k, v in enumerate(node.outputs) if v in wanted and is_float(graph.outputs[k])}
    while True:
        wrt = [*(graph.inputs[i] for i in sorted(inputs)), *taken]
        found = activity(list(graph), [graph.outputs[k] for k in seeds], wrt)
        more_inputs = {i for i in states if graph.outputs[i] in found.needed} - inputs
        more_seeds = {i for i in states if graph.inputs[i] in found.wanted and graph.inputs[i] in found.needed} - seeds
        if not more_inputs and not more_seeds:
            useful = sorted(k for k in seeds if graph.outputs[k] in found.needed)
            return [Inner(graph, useful, wrt, found)]
        inputs |= more_inputs
        seeds |= more_seeds


_INSIDE: Mapping[str, Callable[[ir.Node, Collection[ir.Value], Collection[ir.Value]], list[Inner]]] = {
    "If": _branches,
    "Scan": _steps,
}


def number_of_scan_inputs(node: ir.Node) -> int:
    """Return how many of a Scan's inputs are read step by step; those before them are initial states."""
    return int(node.attributes["num_scan_inputs"].as_int())


def branching_on(nodes: Iterable[ir.Node], values: Collection[ir.Value]) -> Iterator[ir.Node]:
    """Yield the Ifs, those of inner graphs too, whose condition depends on any of some values, in whatever way."""
    depending = set(values)
    for node in nodes:
        if not any(v in depending for v in operands(node)):
            continue
        if operator_name(node) == "If" and node.inputs[0] in depending:
            yield node
        depending.update(node.outputs)
        for graph in graphs_of(node):
            yield from branching_on(graph, {*depending, *graph.inputs})


_DRAWN = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def draws_at_random(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield the nodes, those of inner graphs too, whose results differ from run to run."""
    for node in nodes:
        if operator_name(node) in _DRAWN or (operator_name(node) == "Dropout" and _trains(node)):
            yield node
        for graph in graphs_of(node):
            yield from draws_at_random(graph)


def _trains(node: ir.Node) -> bool:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    known = None if mode is None else ir.convenience.get_const_tensor(mode)
    return mode is not None and (known is None or bool(known.numpy()))


def without_rule(found: Activity, rule_set: RuleSet) -> Iterator[ir.Node]:
    """Yield the nodes on the way, those of inner graphs too, that the rule set has no rule for."""
    for node in found.nodes:
        if rule_set.rule_for(node) is None:
            yield node
            continue
        for inner in inside(node, found.needed, found.wanted):
            yield from without_rule(inner.activity, rule_set)


def on_integers(found: Activity) -> Iterator[ir.Node]:
    """Yield the nodes on the way, those of inner graphs too, that work on quantised values."""
    yield from found.on_integers
    for node in found.nodes:
        for inner in inside(node, found.needed, found.wanted):
            yield from on_integers(inner.activity)


def is_float(value: ir.Value) -> bool:
    """Tell whether a value is of floating point, so that it can carry a gradient."""
    return value.dtype is not None and value.dtype.is_floating_point()
