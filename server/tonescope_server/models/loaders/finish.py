"""The last steps that every graph takes, whatever it was read from: check, infer shapes, tidy.

Reading files and changing what a graph computes do not belong here.
"""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from tonescope_server.errors import NotOnnxError
from tonescope_server.models.loaders import one_line

ONNX_ERRORS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    onnx.version_converter.ConvertError,
    ir.serde.SerdeError,
    RuntimeError,
    ValueError,
    TypeError,
)
"""What the ONNX libraries raise at a model they cannot take: they have no common root."""


def finish(model: ir.Model | onnx.ModelProto, where: str) -> ir.Model:
    """Check the graph, infer the shape of every value and lift constants to initializers.

    Raises:
        NotOnnxError: the graph breaks ONNX's rules; the message has the checker's reason.
    """
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    check(proto, where)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except ONNX_ERRORS as error:
        raise NotOnnxError(f"{where}: its shapes contradict each other: {one_line(error)}") from error
    try:
        graph = ir.from_proto(inferred)
    except ONNX_ERRORS as error:
        raise NotOnnxError(f"{where}: cannot be read: {one_line(error)}") from error
    common.RemoveInitializersFromInputsPass()(graph)
    # Rules read axes, shapes and indices from initializers, so constants of every size become such.
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    common.RemoveUnusedNodesPass()(graph)
    return graph


def check(proto: onnx.ModelProto, where: str) -> None:
    """Run ONNX's own checker, which also wants the shapes of outputs that an exporter left out.

    Raises:
        NotOnnxError: the graph breaks ONNX's rules.
    """
    try:
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(proto))
    except ONNX_ERRORS as error:
        raise NotOnnxError(f"{where}: not a valid ONNX model: {one_line(error)}") from error
