"""A model with random weights in some of its layers: what explanations of it are compared with.

What a layer is here: the weights that one node reads. Which layers, in which order and with what seed is the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.models.model import Model
from tonescope_server.plugin.sampling import generator

_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)  # quantised weights; others are shapes and indices


@dataclass(frozen=True)
class WeightLayer:
    """The weights that one node reads.

    Attributes:
        name: the node's name, else that of its first weight.
        weights: names of initialisers.
    """

    name: str
    weights: tuple[str, ...]


def weight_layers(model: Model, output: str | None = None) -> tuple[WeightLayer, ...]:
    """Return the layers that have weights and that an output depends on, from the input upwards.

    The output is the model's first where none is named. A weight that several nodes read belongs to the first. Single
    numbers, masks, shapes and indices are no weights; weights in the inner graphs of If, Loop and Scan are left as
    they are.
    """
    graph = model.graph.graph
    behind = _behind(graph, output or model.outputs[0].name)
    taken: set[str] = set()
    found = []
    for node in (each for each in graph if each in behind):
        read = [v for v in node.inputs if v is not None and v.name in graph.initializers and _is_weight(v)]
        names = tuple(dict.fromkeys(str(v.name) for v in read if v.name not in taken))
        if names:
            taken.update(names)
            found.append(WeightLayer(node.name or names[0], names))
    return tuple(found)


def with_random_weights(model: Model, layers: Sequence[WeightLayer], seed: int, draw: int = 0) -> Model:
    """Return the model with the weights of some layers drawn at random; its digest is another.

    Matrices and kernels are normal numbers of mean zero and of their own root mean square, so that what passes through
    keeps its scale. Vectors (biases, scales, running variances) and quantised weights are shuffled: a variance stays
    positive. What is drawn for a weight depends on the seed, the draw and its name alone.
    """
    graph = model.graph.clone()
    names = sorted({name for layer in layers for name in layer.weights})
    for name in names:
        value = graph.graph.initializers[name]
        assert value.const_value is not None  # weights are embedded
        array = _random(value.const_value.numpy(), generator(seed, f"weights of {name}", draw))
        value.const_value = ir.tensor(array, name=name)
    told = "\n".join([model.digest, str(seed), str(draw), *names])
    return replace(model, graph=graph, digest=hashlib.sha256(told.encode()).hexdigest())


def _behind(graph: ir.Graph, output: str) -> set[ir.Node]:
    """Return the nodes that an output is computed by."""
    waiting = [value.producer() for value in graph.outputs if value.name == output]
    found: set[ir.Node] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(value.producer() for value in node.inputs if value is not None)
    return found


def _is_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.size < 2:
        return False
    if tensor.dtype.is_floating_point():
        return bool(np.isfinite(tensor.numpy()).all())  # a mask of −∞ is none
    return tensor.dtype in _INTEGERS and len(tensor.shape) > 1


def _random(array: npt.NDArray[np.generic], random: np.random.Generator) -> npt.NDArray[np.generic]:
    if array.ndim < 2 or array.dtype.kind in "iu":
        return np.asarray(random.permutation(array.ravel()).reshape(array.shape))
    wide = array.astype(np.float64)
    drawn = random.standard_normal(array.shape) * np.sqrt((wide**2).mean())
    return np.asarray(drawn.astype(array.dtype))
