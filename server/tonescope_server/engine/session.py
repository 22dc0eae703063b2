"""Sessions of ONNX Runtime: the one place that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state

from tonescope_server.errors import ModelError, TonescopeError


class Session:
    """One compiled graph.

    Attributes:
        inputs: names of the run-time inputs.
        outputs: names of the results, in order.
        weights_bytes: size of the serialised graph: what its session at least holds in memory.
    """

    def __init__(self, graph: ir.Model, *, threads: int = 1) -> None:
        """Compile a graph.

        Optimisation level ALL bakes in kernels of this very processor (1.5 × over EXTENDED on a CountNet), so a
        session is never saved; portable exports are made from the graph itself.

        Raises:
            ModelError: ONNX Runtime refuses the graph.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        data = ir.to_proto(graph).SerializeToString()
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            unknown = ", ".join(_unregistered(graph))
            if unknown:
                raise ModelError(f"the model cannot be run: ONNX Runtime has no operator {unknown}") from error
            raise _refused("ONNX Runtime does not accept the graph", error) from error
        # The call inside its own: what that has around it looks for missing inputs, 2 µs before the call does so too.
        self._call = self._session._sess.run
        self._options = ort.RunOptions()  # one for every run: making it costs ONNX Runtime 2 µs each time
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self.weights_bytes = len(data)

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the graph and return every result by name.

        Raises:
            ModelError: ONNX Runtime fails on these inputs.
        """
        try:
            results = self._call(self.outputs, feeds, self._options)
        except Exception as error:
            raise _refused("ONNX Runtime could not run the graph", error) from error
        return dict(zip(self.outputs, results, strict=True))


def _unregistered(graph: ir.Model) -> list[str]:
    """Name the operators, with their domains, that this build of ONNX Runtime does not know at any version."""
    known = {(schema.domain or "ai.onnx", schema.name) for schema in ort_state.get_all_operator_schema()}
    asked = {(node.domain or "ai.onnx", node.op_type) for node in graph.graph.all_nodes()}
    return [f"{domain}::{name}" for domain, name in sorted(asked - known)]


def _refused(what: str, error: Exception) -> TonescopeError:
    lines = str(error).splitlines() or [type(error).__name__]
    return ModelError(f"{what}: {lines[0]}")
