"""Graphs of another floating-point type than float32, made to compute in float32.

ONNX Runtime's CPU kernels are the reason. It has next to none in bfloat16; in float64 it lacks convolutions, pools, the
error function and every recurrent operator; in float16 it wraps each node in casts, which rounds every intermediate to
11 bits and is no faster. Attributions are float32 in any case. Weights in half types are widened exactly, so that what
is explained is the model's own function, freed of its intermediate rounding: predictions may differ from those of a
runtime that does compute in half precision by some 1e-3 of the largest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, numpy_helper

_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})
_NAMES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64"}


def in_float32(proto: onnx.ModelProto, where: str, warnings: list[str]) -> onnx.ModelProto:
    """Return the graph computing in float32; itself where it does so already.

    Half types are replaced wherever they are. float64 is where an input has it: a cast to it inside a float32 graph is
    somebody's wish for precision, and stays.

    Args:
        proto: external data embedded, functions inlined; it is not changed.
        where: opens the warning.
        warnings: a line is added that says what was replaced.
    """
    graph = proto.graph
    types = _HALF & set(_types(graph))
    if any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in graph.input):
        types |= {TensorProto.DOUBLE}
    if not types:
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    _widen(made.graph, frozenset(types))
    named = " and ".join(_NAMES[kind] for kind in sorted(types))
    warnings.append(f"{where}: {named} is computed in float32: ONNX Runtime's CPU kernels for it are few")
    return made


def _types(graph: GraphProto) -> Iterator[int]:
    """Yield the element types that a graph states, those of graphs inside its nodes too."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.type.tensor_type.elem_type
    for tensor in graph.initializer:
        yield tensor.data_type
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _types(attribute.g)
            elif attribute.type == AttributeProto.TENSOR:
                yield attribute.t.data_type
            elif attribute.name in _TYPE_ATTRIBUTES:
                yield attribute.i


def _widen(graph: GraphProto, types: frozenset[int]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _widen_type(value.type, types)
    for tensor in graph.initializer:
        _widen_tensor(tensor, types)
    for node in graph.node:
        _widen_node(node, types)


def _widen_type(kind: TypeProto, types: frozenset[int]) -> None:
    if kind.tensor_type.elem_type in types:
        kind.tensor_type.elem_type = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto, types: frozenset[int]) -> None:
    if tensor.data_type in types:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_node(node: NodeProto, types: frozenset[int]) -> None:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            _widen(attribute.g, types)
        elif attribute.type == AttributeProto.TENSOR:
            _widen_tensor(attribute.t, types)
        elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in types:
            attribute.i = TensorProto.FLOAT
