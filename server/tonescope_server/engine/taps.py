"""Taps: which internal values can be differentiated by, and what a node or a module is asked for by name."""

from __future__ import annotations

import onnx_ir as ir

from tonescope_server.gradients.activity import is_float
from tonescope_server.gradients.attention import attention_weights
from tonescope_server.gradients.rule_set import operator_name
from tonescope_server.gradients.subgraphs import operands
from tonescope_server.models.model import TensorSpec
from tonescope_server.plugin.api import Layer


def values_to_tap(graph: ir.Graph) -> list[ir.Value]:
    """Return the values of floating point that are computed from the input, in order; shapes are not followed."""
    reached = {graph.inputs[0]}
    found: list[ir.Value] = []
    for node in graph:
        if operator_name(node) not in ("Shape", "Size") and any(v in reached for v in operands(node)):
            reached.update(node.outputs)
            found += [v for v in node.outputs if v.name and v.shape is not None and len(v.shape) and is_float(v)]
    return found


def layers_to_tap(graph: ir.Graph) -> tuple[Layer, ...]:
    """Return those values as methods choose among them: with what each is computed from, and which are attention."""
    weights = attention_weights(graph)
    return tuple(
        Layer(**vars(TensorSpec.of(v)), reads=_reads(v), attention=weights.get(v, ())) for v in values_to_tap(graph)
    )


def _reads(value: ir.Value) -> tuple[str, ...]:
    producer = value.producer()
    return () if producer is None else tuple(v.name for v in operands(producer) if v is not None and v.name)


def made_by(graph: ir.Graph, name: str) -> str:
    """Return the value that the node or module of that name makes first; the name itself where there is none such.

    What a module returns is read outside of it. Where that are several values, as with a recurrent layer's outputs and
    its last state, or with attention and its weights, their order is not recorded: then it is the one that torch's
    exporter numbers 0; else one with the batch in front, rather than one without; else the one with the most axes; and
    of several still the last that is made.
    """
    for node in graph:
        if node.name == name:
            return next((v.name for v in node.outputs if v.name), name)
    of_module = [node for node in graph if _is_of(TensorSpec.of(node.outputs[0]).module, name)]
    made = [v for node in of_module for v in node.outputs if v.name]
    inside = set(of_module)
    returned = [v for v in made if is_float(v) and (v.is_graph_output() or any(u.node not in inside for u in v.uses()))]
    batch = _batch(graph)
    ordered = sorted(returned or made[-1:], key=lambda v: _precedence(v, batch))  # stable: the last stays last
    return (ordered[-1].name or name) if ordered else name


def _is_of(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _batch(graph: ir.Graph) -> str:
    shape = graph.inputs[0].shape
    return "" if shape is None else str(shape[0])


def _precedence(value: ir.Value, batch: str) -> tuple[bool, bool, int]:
    producer, dims = value.producer(), value.shape or ()
    numbered_0 = producer is not None and (producer.name or "").endswith("__0") and value.index() == 0
    return numbered_0, bool(dims) and str(next(iter(dims))) == batch, len(dims)
