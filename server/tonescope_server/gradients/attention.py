"""Attention found in a graph: the weights that lie between a product of queries with keys and one with values."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from tonescope_server.gradients.rule_set import operator_name

PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
_KEEP_SHAPE = frozenset({"Cast", "CastLike", "Identity", "Dropout", "Where"})
_MOVE = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})
_SCALE_AND_MASK = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Tanh", "Expand"})


def attention_weights(graph: ir.Graph) -> dict[ir.Value, tuple[str, ...]]:
    """Return the attention weights of a graph, in its order, each with the names that it may be asked for by.

    A softmax over the last of three axes or more, of what a product made, whose result is multiplied with something
    computed from the input, is attention: scales, masks, casts, dropout and reshapes may stand between. The value
    returned is the last that has the softmax's own axes: after dropout, and after rows that are masked as a whole were
    set to zero. Its names are those of nodes and values from the softmax to what the values' product is laid out as.
    """
    reached = {graph.inputs[0]} if graph.inputs else set()
    for node in graph:
        if operator_name(node) not in ("Shape", "Size") and any(v in reached for v in node.inputs):
            reached.update(node.outputs)
    found = (_followed(node, reached) for node in graph if _is_softmax(node) and node.outputs[0] in reached)
    return {value: names for value, names in found if names}


def _is_softmax(node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    if operator_name(node) != "Softmax" or shape is None or len(shape) < 3:
        return False
    axis = node.attributes.get("axis")
    return (-1 if axis is None else axis.as_int()) in (-1, len(shape) - 1) and _is_of_product(node)


def _is_of_product(softmax: ir.Node) -> bool:
    """Say whether a softmax takes what a product made, but for scales and masks."""
    ahead, seen = [softmax.inputs[0]], set()
    while ahead:
        value = ahead.pop()
        node = None if value is None else value.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if operator_name(node) in PRODUCTS:
            return True
        if operator_name(node) in _KEEP_SHAPE | _MOVE | _SCALE_AND_MASK:
            ahead.extend(node.inputs)
    return False


def _followed(softmax: ir.Node, reached: set[ir.Value]) -> tuple[ir.Value, tuple[str, ...]]:
    """Follow a softmax's result to a product with values: return the weights and their names; no names if none."""
    weights = softmax.outputs[0]
    passed, ahead = [softmax], [weights]
    products: list[ir.Node] = []
    while ahead:
        for node, value in _users(ahead.pop()):
            name = operator_name(node)
            if name in PRODUCTS and any(v in reached and v is not value for v in node.inputs):
                products.append(node)
            elif name in _KEEP_SHAPE | _MOVE and node not in passed:
                passed.append(node)
                ahead.append(node.outputs[0])
                if name in _KEEP_SHAPE and value is weights and _same_shape(node.outputs[0], weights):
                    weights = node.outputs[0]
    made = [*passed, *(node for product in products for node in _laid_out(product))]
    names = [name for node in made for name in (node.name, node.outputs[0].name) if name]
    return weights, tuple(dict.fromkeys(names)) if products else ()


def _laid_out(product: ir.Node) -> Iterator[ir.Node]:
    """Yield a product, and what only lays its result out anew, as far as there is one use of it."""
    node: ir.Node | None = product
    while node is not None:
        yield node
        users = [user for user, _ in _users(node.outputs[0])]
        node = users[0] if len(users) == 1 and operator_name(users[0]) in _KEEP_SHAPE | _MOVE else None


def _users(value: ir.Value) -> list[tuple[ir.Node, ir.Value]]:
    return [(use.node, value) for use in value.uses()]


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    return a.shape is not None and b.shape is not None and list(a.shape) == list(b.shape)
