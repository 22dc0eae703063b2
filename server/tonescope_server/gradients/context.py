"""What a rule may use: emitting nodes, typed constants, shape and constant queries, un-broadcasting.

No rule and no walk is here, and nothing that knows CSI or methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients.rule_set import RuleSet, operator_name
from tonescope_server.gradients.subgraphs import copied, graphs_of

Dim = int | str | None
"""A static size, the name of a symbolic one, or None where nothing is known."""


class Context:
    """Emits nodes into one graph, in order, on behalf of rules.

    Attributes:
        graph: the graph that grows.
        portable: emit only operators in their plain form, for export to other runtimes; else forms that are fast on
            ONNX Runtime's CPU kernels.
        rule_set: whose rules are being applied; None before the first is.
        absorbed: what biases kept of relevance, a rule at a time: values whose sum over elements it is, each with the
            value of the model that it is laid out like.
    """

    def __init__(self, graph: ir.Graph, *, portable: bool = False, around: Context | None = None) -> None:
        self.graph = graph
        self.portable = portable
        self.rule_set: RuleSet | None = None
        self.absorbed: list[list[tuple[ir.Value, ir.Value]]] = []
        self._around = around
        self._tape = ir.tape.Tape(graph)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._counts: dict[str, int] = {}
        self._needed: set[ir.Value] = set()
        self._one_hot: dict[ir.Value, ir.Value] = {}
        self._unexpanded: set[ir.Value] = set()
        self._scaled: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._references: dict[ir.Value, ir.Value] = {}
        self._serial = len(graph.initializers)

    def inside(self, graph: ir.Graph) -> Context:
        """Return a context for a graph that a node of this one will hold; constants stay in the outermost graph."""
        return Context(graph, portable=self.portable, around=self)

    # -- emitting -----------------------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Emit a node with one output and return that output."""
        return self._tape.op(op_type, inputs, attributes)

    def ops(self, op_type: str, *inputs: ir.Value | None, outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Emit a node with several outputs and return them."""
        return self._tape.op_multi_out(op_type, inputs, attributes, num_outputs=outputs)

    def again(self, node: ir.Node, operands: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        """Emit the same operator, with the same attributes, on other operands; return its outputs.

        What graphs inside it take from around them are operands too, after the others.
        """
        copy = copied(node, operands)
        self.graph.append(copy)
        self.name_apart(graphs_of(copy))
        return copy.outputs

    def count(self, kind: str) -> int:
        """Return how many of a kind there were before this one: for names that must be unique."""
        if self._around is not None:
            return self._around.count(kind)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind] - 1

    def name_apart(self, graphs: Iterable[ir.Graph]) -> None:
        """Give what copied graphs make names of their own: no two values in scope of each other may share one."""
        for graph in graphs:
            for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
                if value.name:  # a result that nothing asks for has none
                    value.name = f"inner:{self.count('inner')}"
            self.name_apart(inner for node in graph for inner in graphs_of(node))

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> ir.Value:
        """Return an initializer of the outermost graph with these elements; equal ones are shared."""
        if self._around is not None:
            return self._around.constant(array, dtype)
        data = np.asarray(array, dtype)
        key = (data.dtype.str, data.shape, data.tobytes())
        if key not in self._constants:
            self._serial += 1
            name = f"constant_{self._serial}"
            while name in self.graph.initializers:
                self._serial += 1
                name = f"constant_{self._serial}"
            self._constants[key] = self._tape.initializer(ir.tensor(data, name=name))
        return self._constants[key]

    def ints(self, values: Iterable[int]) -> ir.Value:
        """Return a 1-D int64 constant: axes, shapes, sizes."""
        return self.constant(np.asarray(list(values), np.int64))

    def scalar(self, value: float, like: ir.Value) -> ir.Value:
        """Return a constant scalar of ``like``'s element type."""
        return self.constant(np.asarray(value), self.dtype(like).numpy())

    # -- queries ------------------------------------------------------------------------------------------------

    def attribute(self, node: ir.Node, name: str, default: Any = None) -> Any:
        """Return an attribute's value, or ``default`` where the node does not have it."""
        attribute = node.attributes.get(name)
        return default if attribute is None else attribute.value

    def value_of(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        """Return the elements of a value known before anything runs, else None."""
        if value is None:
            return None
        if value.const_value is not None:
            return value.const_value.numpy()
        producer = value.producer()
        if producer is not None and producer.op_type == "Constant":
            return constant_of(producer)
        if producer is not None and producer.op_type == "Identity":
            return self.value_of(producer.inputs[0])
        return None

    def dims(self, value: ir.Value) -> tuple[Dim, ...]:
        """Return the size of every axis; refuses, by name, a value whose rank inference could not find."""
        if value.shape is None:
            raise UnsupportedOperatorError(
                f"value '{value.name}': its rank is needed to differentiate and shape inference could not find it"
            )
        return tuple(d if isinstance(d, int) else d.value for d in value.shape)

    def rank(self, value: ir.Value) -> int:
        """Return the number of axes."""
        return len(self.dims(value))

    def dtype(self, value: ir.Value) -> ir.DataType:
        """Return the element type."""
        if value.dtype is None:
            raise UnsupportedOperatorError(f"value '{value.name}': its element type is not known")
        return value.dtype

    def static_dims(self, node: ir.Node, value: ir.Value, first: int, why: str) -> tuple[int, ...]:
        """Return the sizes of the axes from ``first`` on; refuses, naming ``why``, where one is not static."""
        dims = self.dims(value)[first:]
        if any(not isinstance(d, int) for d in dims):
            raise self.unsupported(node, f"{why} needs static sizes, got {self.dims(value)} for '{value.name}'")
        return tuple(d for d in dims if isinstance(d, int))

    def need(self, value: ir.Value | None) -> bool:
        """Tell whether a cotangent for ``value`` is of any use; rules skip the work where it is not."""
        if value is None:
            return False
        return value in self._needed or (self._around is not None and self._around.need(value))

    def also_need(self, value: ir.Value) -> ir.Value:
        """Say that a cotangent for an emitted value is wanted: a rule may hand stand-ins for operands to another."""
        self._needed.add(value)
        return value

    def set_references(self, references: Mapping[ir.Value, ir.Value]) -> None:
        """Say what each value is at the reference input."""
        self._references.update(references)

    def reference(self, value: ir.Value) -> ir.Value:
        """Return what a value is at the reference input: itself where it does not depend on the input."""
        return self._references.get(value, value)

    def unsupported(self, node: ir.Node, why: str) -> UnsupportedOperatorError:
        """Make the error for a node that the rule cannot differentiate as it is."""
        name = "" if self.rule_set is None else self.rule_set.name
        return UnsupportedOperatorError(
            f"operator {operator_name(node)} at node '{node.name}', rule set '{name}': {why}"
        )

    def scattered(
        self, op_type: str, shape: ir.Value, indices: ir.Value, updates: ir.Value, like: ir.Value, **attributes: Any
    ) -> ir.Value:
        """Add ``updates`` at ``indices`` to zeros of ``shape``, with ScatterElements or ScatterND.

        ONNX Runtime sums in float32 and float64 only: half types go through float32.
        """
        kind = self.dtype(like)
        work = kind if kind in (ir.DataType.FLOAT, ir.DataType.DOUBLE) else ir.DataType.FLOAT
        if work != kind:
            updates = self.op("Cast", updates, to=int(work))
        zeros = self.op("Expand", self.constant(np.zeros((), work.numpy())), shape)
        summed = self.op(op_type, zeros, indices, updates, reduction="add", **attributes)
        return summed if work == kind else self.op("Cast", summed, to=int(kind))

    def pad(self, value: ir.Value, rank: int, pads: Mapping[int, tuple[int, int]]) -> ir.Value:
        """Pad with zeros, per axis (before, after).

        Pads are given for every axis: ONNX Runtime 1.31 moves a Transpose through a Pad with an axes input wrongly.
        """
        full = [pads.get(axis, (0, 0)) for axis in range(rank)]
        return self.op("Pad", value, self.ints([b for b, _ in full] + [a for _, a in full]))

    # -- shapes of cotangents -----------------------------------------------------------------------------------

    def typed(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Give an emitted value the shape and type of ``like``, so that later rules can ask for them."""
        value.shape = like.shape
        value.type = like.type
        return value

    def mark_unexpanded(self, value: ir.Value) -> ir.Value:
        """Say that a cotangent is only broadcastable to its primal's shape."""
        self._unexpanded.add(value)
        return value

    def is_unexpanded(self, value: ir.Value) -> bool:
        """Tell whether a cotangent is only broadcastable to its primal's shape."""
        return value in self._unexpanded

    def mark_scaled(self, value: ir.Value, base: ir.Value, factor: ir.Value) -> ir.Value:
        """Say that ``value`` is ``base`` times a factor per channel, so that a layer may put it into its weights."""
        self._scaled[value] = (base, factor)
        return value

    def unscaled(self, value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
        """Return what a value was before a factor per channel, and that factor, where there is one."""
        return self._scaled.get(value, (value, None))

    def mark_one_hot(self, value: ir.Value, index: ir.Value) -> ir.Value:
        """Say that each row of ``value`` is one at that row's ``index`` and zero elsewhere."""
        self._one_hot[value] = index
        return value

    def one_hot_index(self, value: ir.Value) -> ir.Value | None:
        """Return where each row's one is, if the rows are known to be one-hot: a product with them picks rows."""
        return self._one_hot.get(value)

    def expanded(self, cotangent: ir.Value, primal: ir.Value) -> ir.Value:
        """Return the cotangent in its primal's full shape."""
        if cotangent not in self._unexpanded:
            return cotangent
        dims = self.dims(primal)
        # Expand broadcasts both ways: a 1 in the target keeps the operand's own size, so a symbolic axis needs no
        # Shape node unless that very axis is the one to widen (then the zero tensor of the primal's shape does it).
        # A first axis of symbolic size is never among those to widen: reductions over one are left expanded.
        if all(isinstance(d, int) for d in dims[1:]):
            target = self.ints([dims[0] if isinstance(dims[0], int) else 1, *(int(d or 0) for d in dims[1:])])
        else:
            target = self.op("Shape", primal)
        whole = self.typed(self.op("Expand", cotangent, target), primal)
        if primal.dtype is not None and not primal.dtype.is_floating_point():
            whole.type = ir.TensorType(ir.DataType.FLOAT)  # what is true or counted has multipliers in float32
        return whole

    def shape_of(self, value: ir.Value) -> ir.Value:
        """Return ``value``'s shape as a 1-D int64 value: a constant where it is static."""
        dims = () if value.shape is None else self.dims(value)
        if value.shape is not None and all(isinstance(d, int) for d in dims):
            return self.ints(d for d in dims if isinstance(d, int))
        return self.op("Shape", value)

    def zeros_like(self, value: ir.Value) -> ir.Value:
        """Return zeros of ``value``'s shape and type."""
        return self.typed(self.op("Expand", self.scalar(0.0, value), self.shape_of(value)), value)

    def reshape_like(self, cotangent: ir.Value, primal: ir.Value) -> ir.Value:
        """Reshape to the primal's shape, with −1 for one unknown axis rather than Shape nodes."""
        dims = () if primal.shape is None else self.dims(primal)
        unknown = [i for i, d in enumerate(dims) if not isinstance(d, int)]
        if primal.shape is not None and len(unknown) <= 1 and 0 not in dims:
            shape = self.ints(d if isinstance(d, int) else -1 for d in dims)
            return self.typed(self.op("Reshape", cotangent, shape), primal)
        empty = {"allowzero": 1} if primal.shape is None or 0 in dims else {}  # else a 0 means: as in the operand
        return self.typed(self.op("Reshape", cotangent, self.op("Shape", primal), **empty), primal)

    def unbroadcast(self, cotangent: ir.Value, primal: ir.Value, result: ir.Value) -> ir.Value:
        """Sum ``cotangent``, of ``result``'s shape, over the axes along which ``primal`` was broadcast to it."""
        have, want = self.dims(result), self.dims(primal)
        lead = len(have) - len(want)
        axes = list(range(lead))
        unsure = False
        for i, d in enumerate(want):
            other = have[lead + i]
            if d == 1 and other != 1:
                axes.append(lead + i)
            elif d != other and d != 1 and not isinstance(d, int):
                unsure = True
        if unsure:
            return self.unbroadcast_at_run_time(cotangent, primal, lead)
        if axes:
            cotangent = self.op("ReduceSum", cotangent, self.ints(axes), keepdims=1)
        if lead:
            cotangent = self.op("Squeeze", cotangent, self.ints(range(lead)))
        return self.typed(cotangent, primal)

    def unbroadcast_at_run_time(self, cotangent: ir.Value, primal: ir.Value, lead: int) -> ir.Value:
        """Sum ``cotangent``, ``lead`` axes longer than ``primal``, over the axes that prove to be 1 in it."""
        shape = self.op("Shape", primal)
        padded = self.op("Concat", self.ints([1] * lead), shape, axis=0) if lead else shape
        ones = self.op("Equal", padded, self.ints([1]))
        axes = self.op("Reshape", self.op("NonZero", ones), self.ints([-1]))
        summed = self.op("ReduceSum", cotangent, axes, keepdims=1, noop_with_empty_axes=1)
        return self.typed(self.op("Reshape", summed, shape), primal)


def constant_of(node: ir.Node) -> npt.NDArray[Any] | None:
    """Return the elements that a Constant node holds."""
    for name, dtype in _CONSTANT_ATTRIBUTES.items():
        attribute = node.attributes.get(name)
        if attribute is None:
            continue
        if dtype is None:
            array: npt.NDArray[Any] = attribute.value.numpy()
            return array
        return np.asarray(attribute.value, dtype)
    return None


_CONSTANT_ATTRIBUTES: Mapping[str, type | None] = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
