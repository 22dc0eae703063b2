"""An explanation as one graph that needs nothing of this project: from windows to prediction and attribution.

A method says in NumPy what its runs are fed and what it makes of their results; ``gradients.arrays`` turns that into
nodes. Its plan is copied once for each run. What is written beside the graph is in ``export_metadata``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from tonescope_server.engine.copies import Copies, after, depending_on, longest
from tonescope_server.engine.export_metadata import metadata
from tonescope_server.engine.open_windows import Inputs, Known
from tonescope_server.engine.prediction import OUTPUT
from tonescope_server.engine.runs import summed
from tonescope_server.errors import (
    ConfigurationError,
    MethodNotApplicableError,
    ModelError,
    TargetError,
    TonescopeError,
)
from tonescope_server.gradients.arrays import NotTraceableError, TracedArray, tracer_for
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.prepass import remove_unused
from tonescope_server.gradients.results import state_types
from tonescope_server.gradients.rule_set import operator_name
from tonescope_server.gradients.subgraphs import with_inner
from tonescope_server.plugin.api import Estimate, GraphMethod, Windows

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer
    from tonescope_server.engine.prepared import Prepared

MAP = "map:"
MOST_BYTES = 2**31 - 2**20  # what protobuf can hold, and room for the graph itself
STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Exported:
    """A graph, and what can be said of it.

    Attributes:
        graph: inputs and outputs named, nothing beside it needed.
        outputs: what each output is, by name, in one line.
        inputs: what each input is, by name, in one line.
        runs: how many runs of the daemon it stands for.
        evaluations: model evaluations per window.
        batches: as of an ``Attribution``.
    """

    graph: ir.Model
    outputs: Mapping[str, str]
    inputs: Mapping[str, str]
    runs: int
    evaluations: int
    batches: int | None = None


def exported(
    explainer: Explainer, prepared: Prepared, *, inputs: Collection[str] | None = None, plain: bool = False
) -> Exported:
    """Turn a request into a graph.

    Args:
        explainer: whose model it is.
        prepared: the request.
        inputs: what the method is fed that is left to whoever runs the graph, by name; None means what it would draw
            at random. The rest is constant.
        plain: emit operators in their plainest forms, in place of those that ONNX Runtime's kernels are fastest at.

    Raises:
        MethodNotApplicableError: the method is no graph, or does what a graph cannot say.
        ModelError: the model has operators that are not standard.
        ParameterError: an input that the method does not have.
        TargetError: a target that has one index for each window.
    """
    method = prepared.method
    if not isinstance(method, GraphMethod):
        raise MethodNotApplicableError(
            f"method '{method.name}' cannot be exported: it asks the model as it goes, and is no graph"
        )
    if any(weights is not None and len(weights) != 1 for weights in prepared.resolved.weights):
        raise TargetError("target: expected one for all windows of an exported graph, got one for each")
    _need_sizes(explainer)
    try:
        made = _Export(explainer, prepared, method, inputs, plain).made()
        made.graph.metadata_props.update(metadata(explainer, prepared, made, plain=plain))
        return made
    except TonescopeError:
        raise
    except NotTraceableError as error:
        raise MethodNotApplicableError(f"method '{method.name}' cannot be exported: {error}") from error
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise MethodNotApplicableError(
            f"method '{method.name}' cannot be exported: its feeds() or finish() failed on arrays that are not known "
            f"yet: {type(error).__name__}: {first}"
        ) from error


def write(made: Exported, path: str | Path) -> int:
    """Write an exported graph; return its size in bytes. A file of that name is replaced as a whole, or not at all.

    Raises:
        ModelError: it is larger than ONNX files can be.
        ConfigurationError: the file cannot be written.
    """
    weights = sum(v.const_value.nbytes for v in made.graph.graph.initializers.values() if v.const_value is not None)
    if weights > MOST_BYTES:
        raise ModelError(f"{path}: expected at most 2 GB in one ONNX file, got {weights / 1e9:.2f} GB of weights")
    data, target = ir.to_proto(made.graph).SerializeToString(), Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(target)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return len(data)


def _need_sizes(explainer: Explainer) -> None:
    name, shape = explainer.model.input.name, explainer.model.input.shape[1:]
    if any(size < 0 for size in shape):
        raise ModelError(f"input '{name}': an exported graph needs windows of one size, got {shape}; state the shape")
    foreign = {operator_name(n) for n in with_inner(explainer.model.graph.graph) if n.domain not in STANDARD_DOMAINS}
    if foreign:
        raise ModelError(f"the model cannot be exported: not standard operators: {', '.join(sorted(foreign))}")


class _Export:
    """The making of one graph."""

    def __init__(
        self, explainer: Explainer, prepared: Prepared, method: GraphMethod, asked: Collection[str] | None, plain: bool
    ) -> None:
        self._explainer, self._prepared, self._method = explainer, prepared, method
        model = explainer.model
        self._plan = explainer.described(
            prepared.resolved,
            lambda tape: method.describe(tape, prepared.checked),
            keep=explainer.tapped(method, prepared.checked),
            portable=plain,
        )
        source = next(v for v in self._plan.graph.inputs if v.name == model.input.name)
        fixed = model.input.shape[0] > 0  # a graph that takes no other batch
        batch = model.input.shape[0] if fixed else "batch"
        shape = ir.Shape([batch, *model.input.shape[1:]])
        self._x = ir.Value(name=source.name, shape=shape, type=source.type)
        opsets = dict(self._plan.graph.opset_imports)
        self._graph = ir.Graph([self._x], [], nodes=[], opset_imports=opsets, name=f"{model.name}:{method.name}")
        self._context = Context(self._graph, portable=plain)
        self._copies = Copies(self._context, self._plan.graph)
        self._tracer = tracer_for(self._context, self._x, _sizes_of(prepared, model.input.shape[1:]))
        self._dtype = np.dtype(model.input.dtype)
        self._weights: dict[str, ir.Value] = {}
        self._before: ir.Value | None = None
        self._fed_before: dict[ir.Value, ir.Value] = {}
        self._longest = longest(self._plan.graph)
        self._inputs = Inputs(self._tracer, self._x, asked)
        self._probed = model.input.shape[0] if fixed else 2
        self._outputs: dict[str, str] = {}

    def made(self) -> Exported:
        windows = self._inputs.windows(self._prepared)
        totals, runs, spent = self._run(windows)
        estimate = self._method.finish(totals, windows, self._prepared.checked)
        for name in [n for n in totals if n.startswith(OUTPUT)]:
            self._output(_free(name.removeprefix(OUTPUT)), totals[name], "the model's own")
        self._output("score", totals["score"], "the target's value, (batch)")
        self._estimated(estimate)
        model = ir.Model(
            self._graph,
            ir_version=self._plan.ir_version,
            producer_name="tonescope",
            producer_version=version("tonescope"),
        )
        self._close(model)
        return Exported(model, self._outputs, self._inputs.said, runs, spent, estimate.batches)

    # -- runs ---------------------------------------------------------------------------------------------------

    def _run(self, windows: Windows) -> tuple[dict[str, Any], int, int]:
        """Copy the plan once for each run; return the results summed, runs, and evaluations per window."""
        totals: dict[str, Any] = {}
        spent = runs = 0
        for fed, send in _each(self._method, windows, self._prepared.checked):
            spent += self._method.points_of_run(fed, self._prepared.checked)
            results = self._results(fed)
            totals = summed(totals, results) if runs else results
            runs += 1
            send(results)
        return totals, runs, spent

    def _results(self, fed: Mapping[str, Any]) -> dict[str, Any]:
        """Copy the plan for one run; what does not depend on the windows is known."""
        graph = self._plan.graph
        name = str(self._x.name)
        given = {name: self._x, **self._target_weights()}
        given.update((key, self._in_turn(self._value(value))) for key, value in fed.items())
        values = self._copies.add(given)
        traced = {key for key, value in fed.items() if isinstance(value, TracedArray)}
        unknown = depending_on(graph, {name, *traced})
        probed = self._probe(fed)
        found: dict[str, Any] = {}
        for key, value in values.items():
            if key not in unknown:
                found[key] = probed[key]
                continue
            if probed[key].shape[:1] != (self._probed,):
                raise ModelError(f"'{key}': an exported graph needs the batch in front, got {probed[key].shape}")
            shape = (self._tracer.batch, *probed[key].shape[1:])
            found[key] = self._tracer.array(value, shape, probed[key].dtype)
        self._before = values[self._longest]
        return found

    def _in_turn(self, value: ir.Value) -> ir.Value:
        """Let what only this run is fed wait for the run before: side by side, runs would need memory for all at once.

        What other runs were fed too stays as it is, and what is worked out from it is shared.
        """
        if value not in self._fed_before:
            self._fed_before[value] = value if self._before is None else after(self._context, value, self._before)
        return self._fed_before[value]

    def _probe(self, fed: Mapping[str, Any]) -> dict[str, Known]:
        """Run the plan on windows of zeros: shapes, and what does not depend on them, are found that way."""
        count, resolved = self._probed, self._prepared.resolved
        zeros = np.zeros((count, *self._prepared.input_shape), self._dtype)
        given = {str(self._x.name): zeros, **resolved.feeds(slice(0, count), count)}
        given.update((key, self._example(value)) for key, value in fed.items())
        return self._prepared.plan.session.run(given)

    def _example(self, value: Any) -> Known:
        if isinstance(value, TracedArray):
            shape = [self._probed if self._tracer.is_open(n) else n for n in value.shape]
            return np.zeros(shape, self._dtype)
        return self._tracer.known(np.asarray(value))

    def _value(self, fed: Any) -> ir.Value:
        array = fed if isinstance(fed, TracedArray) else self._tracer.constant(fed)
        return array.astype(self._dtype).value

    def _target_weights(self) -> dict[str, ir.Value]:
        """Return what weighs the elements of outputs, for each window."""
        if not self._weights:
            for name, weights in self._prepared.resolved.feeds(slice(0, 1), 1).items():
                whole = (self._tracer.batch, *weights.shape[1:])
                self._weights[name] = self._tracer.constant(weights, self._dtype).broadcast_to(whole).value
        return self._weights

    # -- what comes out -----------------------------------------------------------------------------------------

    def _estimated(self, estimate: Estimate) -> None:
        tones = estimate.tones
        if tones is None:
            if estimate.cells is None:
                raise MethodNotApplicableError(f"method '{self._method.name}' gave neither cells nor tones")
            before, count, after = self._explainer.model.cells.grid
            tones = np.reshape(estimate.cells, (-1, before, count, after)).sum(axis=(1, 3))
        said = {
            "cells": (estimate.cells, "attribution per cell, of the input's shape"),
            "tones": (tones.astype(np.float32, copy=False), "attribution per row of the tone table, (batch, tones)"),
            "convergence_delta": (estimate.convergence_delta, "what the cells leave over, (batch)"),
            "standard_error": (estimate.standard_error, "of tones, (batch, tones)"),
            "units": (estimate.units, "attribution per group of cells, (batch, groups)"),
        }
        for name, (array, text) in said.items():
            if array is not None:
                self._output(name, array, text)
        for name, array in estimate.maps.items():
            self._output(f"{MAP}{name}", array, "what else the method has to show, the batch in front")

    def _output(self, name: str, array: Any, text: str) -> None:
        """Name a result."""
        traced = array if isinstance(array, TracedArray) else self._tracer.constant(array)
        if not self._tracer.is_open(traced.shape[0]):
            traced = traced.broadcast_to((self._tracer.batch, *traced.shape[1:]))
        value = self._context.op("Identity", traced.value)
        value.name, value.type = name, ir.TensorType(ir.DataType.from_numpy(traced.dtype))
        value.shape = ir.Shape([self._x.shape[0] if self._x.shape else None, *traced.shape[1:]])
        self._graph.outputs.append(value)
        self._outputs[name] = text

    def _close(self, model: ir.Model) -> None:
        """Leave nothing unused in the graph, and no two values of one name."""
        self._inputs.close(self._method.name)
        _drop_identities(self._graph)
        shapes = {v: v.shape for v in self._graph.outputs}
        state_types(model, {})
        for value, shape in shapes.items():
            value.shape = shape
        remove_unused(self._graph)
        ours = {*self._graph.inputs, *self._graph.outputs}
        taken = {v.name for v in ours}
        for value in (*self._graph.initializers.values(), *(v for node in self._graph for v in node.outputs)):
            if value.name in taken and value not in ours:
                value.name = f"inside:{value.name}"
        _name_nodes_apart(self._graph)


def _name_nodes_apart(graph: ir.Graph) -> None:
    """Give nodes of one name, which some runtimes refuse, names of their own; the first keeps it."""
    taken: set[str] = set()
    for node in graph:
        base, number = node.name or node.op_type, 2
        name = base
        while name in taken:
            name, number = f"{base}:{number}", number + 1
        taken.add(name)
        node.name = name


def _drop_identities(graph: ir.Graph) -> None:
    """Let what an output is be the output, where nothing but its name would be between them."""
    for output in list(graph.outputs):
        node = output.producer()
        source = node.inputs[0] if node is not None and node.op_type == "Identity" else None
        if node is None or source is None or source.producer() is None or source.is_graph_output():
            continue
        name, shape = output.name, output.shape
        graph.outputs[graph.outputs.index(output)] = source
        graph.remove(node, safe=False)
        source.name, source.shape, source.type = name, shape, output.type


def _each(
    method: GraphMethod, windows: Windows, parameters: Any
) -> Iterator[tuple[Mapping[str, Any], Callable[[Any], None]]]:
    """Go through a method's runs; what is sent back are the results of each."""
    feeds = method.feeds(windows, parameters)
    answers: list[Any] = []
    fed = next(feeds, None)
    while fed is not None:
        yield fed, answers.append
        try:
            fed = feeds.send(answers.pop())
        except StopIteration:
            return


def _sizes_of(prepared: Prepared, shape: tuple[int, ...]) -> list[int]:
    """Return the sizes that arrays may have, as far as they are known."""
    stated = [v for v in prepared.parameters.values() if isinstance(v, int)]
    return [*shape, *stated, *(n + 1 for n in stated), *(n + 2 for n in stated)]


def _free(name: str) -> str:
    """Return the name of a model's output, told apart from those of results."""
    results = ("score", "cells", "tones", "convergence_delta", "standard_error", "units")
    return f"{OUTPUT}{name}" if name in results or name.startswith(MAP) else name
