"""If and Scan: operators whose graphs are walked in turn, by the same rules.

What a graph inside a node takes from around it are operands like others: their cotangents come after those of the
inputs, in the order of ``subgraphs.captured``. What the way back reads of the forward pass is computed again inside;
only the states of a Scan, which cannot be, are handed on from the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from tonescope_server.gradients.activity import Inner, inside, number_of_scan_inputs
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.prepass import remove_unused
from tonescope_server.gradients.rule_set import Cotangents, Rule, RuleSet, operator_name
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.subgraphs import captured, graphs_of, operands, with_inner
from tonescope_server.gradients.walk import pull_back

_DRAWING = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def branch(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """An If of the same condition: in each branch, that branch's own gradient.

    Refused: operators inside that draw at random.
    """
    rule_set, found = _prepared(ctx, node, cotangents)
    by = found[0].wrt
    if not by or not any(inner.seeds for inner in found):
        return []
    names = ("then_branch", "else_branch")
    graphs = {k: _branch(ctx, inner, cotangents, rule_set) for k, inner in zip(names, found, strict=True)}
    back = dict(zip(by, ctx.ops("If", node.inputs[0], outputs=len(by), **graphs), strict=True))
    return [None, *(back.get(v) for v in captured(node))]


def _branch(ctx: Context, inner: Inner, cotangents: Cotangents, rule_set: RuleSet) -> ir.Graph:
    graph = inner.graph.clone(allow_outer_scope_values=True)
    results = list(graph.outputs)
    graph.outputs.clear()
    emit = ctx.inside(graph)
    # A branch's result may have a shape of its own, which the If's, being that of either, cannot tell.
    given = {k: emit.typed(emit.op("Identity", cotangents[k]), results[k]) for k in inner.seeds}
    _return(emit, pull_back(emit, _seeds(emit, results, given), inner.wrt, rule_set))
    ctx.name_apart([graph])
    return graph


def scan(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """A Scan the other way round: cotangents of states are carried, those of scan inputs come out step by step.

    Refused: operators inside that draw at random.
    """
    rule_set, (inner,) = _prepared(ctx, node, cotangents)
    if not inner.wrt or not inner.seeds:
        return []
    n_states = len(node.inputs) - number_of_scan_inputs(node)
    step = _backward_step(ctx, inner, n_states, rule_set)
    starts = [cotangents[i] or ctx.zeros_like(required(node.inputs[i])) for i in step.carried]
    sums = [ctx.zeros_like(v) for v in step.taken]
    kept = _kept_states(ctx, node, step.states)
    found = ctx.ops(
        "Scan",
        *starts,
        *sums,
        *kept,
        *(node.inputs[i] for i in step.inputs),
        *(cotangents[k] for k in step.given),
        outputs=len(step.body.outputs),
        body=step.body,
        num_scan_inputs=len(kept) + len(step.inputs) + len(step.given),
        **_directed(ctx, node, step, n_states),
    )
    by_input = dict(zip((*step.carried, *step.taken, *step.emitted), found, strict=True))
    return [*(by_input.get(i) for i in range(len(node.inputs))), *(by_input.get(v) for v in captured(node))]


def _directed(ctx: Context, node: ir.Node, step: _BackwardStep, n_states: int) -> dict[str, list[int]]:
    """Return the axes of the backward Scan, those of the forward one, and its directions, the opposite ones."""

    def of(name: str, numbers: Sequence[int]) -> list[int]:
        return [_at(ctx, node, name, i - n_states) for i in numbers]

    def turned(name: str, numbers: Sequence[int]) -> list[int]:
        return [1 - direction for direction in of(name, numbers)]

    found = {
        "scan_input_axes": [
            *(0 for _ in step.states), *of("scan_input_axes", step.inputs), *of("scan_output_axes", step.given),
        ],
        "scan_input_directions": [
            *(1 for _ in step.states), *turned("scan_input_directions", step.inputs),
            *turned("scan_output_directions", step.given),
        ],
        "scan_output_axes": of("scan_input_axes", step.emitted),
        "scan_output_directions": turned("scan_input_directions", step.emitted),
    }  # fmt: skip
    return {name: numbers for name, numbers in found.items() if any(numbers)}


def _at(ctx: Context, node: ir.Node, name: str, index: int) -> int:
    """Return the axis, or the direction, of one scan input or output; zero where none is given."""
    given = ctx.attribute(node, name, None)
    return int(given[index]) if given else 0


@dataclass(frozen=True)
class _BackwardStep:
    """The body of a backward Scan; its inputs and outputs are in the order of these.

    Attributes:
        body: the graph.
        carried: the states, by number, whose cotangents are carried.
        taken: the values around the Scan whose cotangents are summed up.
        states: the states that are read as they were before each step.
        inputs: the scan inputs that are read, by their number among all inputs.
        given: the scan outputs whose cotangents are read, by their number among all outputs.
        emitted: the scan inputs whose cotangents come out.
    """

    body: ir.Graph
    carried: list[int]
    taken: list[ir.Value]
    states: list[int]
    inputs: list[int]
    given: list[int]
    emitted: list[int]


def _backward_step(ctx: Context, inner: Inner, n_states: int, rule_set: RuleSet) -> _BackwardStep:
    body = inner.graph.clone(allow_outer_scope_values=True)
    inputs, results = list(body.inputs), list(body.outputs)
    body.inputs.clear()
    body.outputs.clear()
    emit = ctx.inside(body)
    own = [i for i, v in enumerate(inner.graph.inputs) if v in inner.wrt]
    carried, emitted = [i for i in own if i < n_states and i in inner.seeds], [i for i in own if i >= n_states]
    taken = inner.wrt[len(own) :]
    given = {k: ir.Value(name="given", shape=results[k].shape, type=results[k].type) for k in inner.seeds}
    before = [ir.Value(name="before", shape=v.shape, type=v.type) for v in taken]
    by = [*(inputs[i] for i in carried), *taken, *(inputs[i] for i in emitted)]
    found = pull_back(emit, _seeds(emit, results, given), by, rule_set)
    for k, had in enumerate(before, start=len(carried)):
        found[k] = emit.typed(emit.op("Add", had, found[k]), had)
    _return(emit, found)
    read = [i for i, v in enumerate(inputs) if v.uses()]
    states, sequences = [i for i in read if i < n_states], [i for i in read if i >= n_states]
    outputs = [k for k in inner.seeds if k >= n_states]
    if not (states or sequences or outputs):
        sequences = [n_states]  # nothing is read, but the number of steps has to come from somewhere
    body.inputs.extend(
        [
            *(given[i] for i in carried),
            *before,
            *(inputs[i] for i in (*states, *sequences)),
            *(given[k] for k in outputs),
        ]
    )
    ctx.name_apart([body])
    return _BackwardStep(body, carried, taken, states, sequences, outputs, emitted)


def _kept_states(ctx: Context, node: ir.Node, states: Sequence[int]) -> list[ir.Value]:
    """Return states as they were before each step, stacked: the forward Scan is asked for them."""
    (body,) = graphs_of(node)
    emit = ctx.inside(body)
    first = len(node.outputs)
    node.resize_outputs(first + len(states))
    for i, stacked in zip(states, node.outputs[first:], strict=True):
        state = body.inputs[i]
        kept = emit.typed(emit.op("Identity", state), state)
        kept.name = f"inner:{ctx.count('inner')}"
        body.outputs.append(kept)
        stacked.name, stacked.type = f"{kept.name}:stacked", state.type
    for name in ("scan_output_axes", "scan_output_directions"):
        if ctx.attribute(node, name, None):
            node.attributes[name] = ir.AttrInt64s(name, [*ctx.attribute(node, name), *[0] * len(states)])
    return list(node.outputs[first:])


def _prepared(ctx: Context, node: ir.Node, cotangents: Cotangents) -> tuple[RuleSet, list[Inner]]:
    """Return whose rules apply inside, and what they will go back through; refuses what cannot be done."""
    rule_set = ctx.rule_set
    assert rule_set is not None  # a rule set's rule is being applied
    if rule_set.reference:
        raise ctx.unsupported(node, "what is inside it has no values at the reference")
    for inner in with_inner(n for graph in graphs_of(node) for n in graph):
        if operator_name(inner) in _DRAWING:
            raise ctx.unsupported(node, f"{operator_name(inner)} inside it would draw anew on the way back")
    wanted = {v for v, c in zip(node.outputs, cotangents, strict=True) if c is not None}
    return rule_set, inside(node, {v for v in operands(node) if v is not None and ctx.need(v)}, wanted)


def _seeds(emit: Context, results: Sequence[ir.Value], given: dict[int, ir.Value]) -> dict[ir.Value, ir.Value]:
    """Return cotangents by value: a value may be a graph's result more than once."""
    seeds: dict[ir.Value, ir.Value] = {}
    for k, cotangent in given.items():
        have = seeds.get(results[k])
        total = cotangent if have is None else emit.op("Add", have, cotangent)
        seeds[results[k]] = emit.typed(total, results[k])
    return seeds


def _return(emit: Context, values: Sequence[ir.Value]) -> None:
    """Make values the results of a graph, which has to have made each, once."""
    made: list[ir.Value] = []
    for value in values:
        maker = value.producer()
        own = maker is not None and maker.graph is emit.graph and value not in made
        made.append(value if own else emit.typed(emit.op("Identity", value), value))
    emit.graph.outputs.extend(made)
    remove_unused(emit.graph)


RULES: dict[str, Rule] = {"If": branch, "Scan": scan}
