"""Which opset a graph is in, and how it gets into one that the rules know and that ONNX Runtime takes.

Older graphs are converted up to 18; graphs of an opset that the installed ONNX Runtime does not know yet are converted
down to the newest that it does. Reading files does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

import onnx
import onnx.inliner
import onnx.version_converter
import onnxruntime as ort
from onnx import TensorProto, helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients.prepass import OLDEST_OPSET, state_defaults
from tonescope_server.models.loaders import one_line
from tonescope_server.models.loaders.finish import ONNX_ERRORS

# ONNX Runtime 1.31 has no kernel for it, and takes its function apart in graphs of opset 24 only.
_WITHOUT_KERNEL = frozenset({"Swish"})
_MOST_NESTED = 2  # SwiGLU uses Swish; the specification nests no deeper
_GROUPS_BY_CHANNEL = 21  # GroupNormalization: one scale a channel from here on, one a group before


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the version of the default domain; 0 where the model uses none."""
    return next((int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def convert(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Return the graph in an opset from 18 to the newest that the installed ONNX Runtime takes.

    Raises:
        UnsupportedOperatorError: it cannot be converted; the message has the opset, and what stops it.
    """
    version, newest = opset_of(proto), onnx.defs.onnx_opset_version()
    if version > newest:
        raise UnsupportedOperatorError(f"{where}: opset {version}: expected {newest} or older")
    if not version or (version >= OLDEST_OPSET and _runs(version)):
        return _spelled_out(proto, _WITHOUT_KERNEL, version)
    target = OLDEST_OPSET if version < OLDEST_OPSET else max(v for v in range(OLDEST_OPSET, version) if _runs(v))
    try:
        return onnx.version_converter.convert_version(_without_newer_functions(proto, version, target), target)
    except ONNX_ERRORS as error:
        reason = one_line(error).rpartition("failed: ")[2]  # the converter puts its own source line in front
        raise UnsupportedOperatorError(f"{where}: opset {version} cannot be converted to {target}: {reason}") from error


@lru_cache
def _runs(version: int) -> bool:
    """Tell whether the installed ONNX Runtime takes graphs of this opset: asked with the smallest there is."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - its errors have no common root, and any of them means no
        return False
    return True


def _without_newer_functions(proto: onnx.ModelProto, version: int, target: int) -> onnx.ModelProto:
    """Spell out operators that the target opset lacks, where the specification defines them by a function."""
    newer = {n.op_type for n in proto.graph.node if n.domain in ("", "ai.onnx") and _is_newer(n.op_type, target)}
    functions = {name for name in newer if _is_function(onnx.defs.get_schema(name, version, ""))}
    return _spelled_out(proto, functions | _WITHOUT_KERNEL, version)


def _spelled_out(proto: onnx.ModelProto, functions: AbstractSet[str], version: int) -> onnx.ModelProto:
    """Replace operators by the functions that the specification defines them as, and what those use in turn."""
    for _ in range(_MOST_NESTED):
        present = sorted({n.op_type for n in proto.graph.node if n.op_type in functions and not n.domain})
        if not present:
            break
        made = onnx.ModelProto()
        made.CopyFrom(proto)
        state_defaults(made.graph, present, version)
        chosen = [("", name) for name in present]
        proto = onnx.inliner.inline_selected_functions(made, chosen, exclude=False, inline_schema_functions=True)
    return proto


def _is_newer(op_type: str, target: int) -> bool:
    try:
        onnx.defs.get_schema(op_type, target, "")
    except onnx.defs.SchemaError:
        return True
    return False


def _is_function(schema: Any) -> bool:
    """Tell whether the specification defines an operator by others; onnx's stubs leave both attributes out."""
    return bool(schema.has_function or schema.has_context_dependent_function)


# -- an operator that ONNX took back --------------------------------------------------------------------------------


def scale_by_channel(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give GroupNormalization of opset 18 to 20 one scale and bias a channel, which is opset 21's form.

    ONNX took the older form back, and its checker refuses it; its converter changes the number but not the operands.
    """
    found = [node for node in proto.graph.node if node.op_type == "GroupNormalization" and not node.domain]
    if not found or not OLDEST_OPSET <= opset_of(proto) < _GROUPS_BY_CHANNEL:
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.node[:]
    for node in proto.graph.node:
        if node in found:
            made.graph.node.extend(_by_channel(node))
        else:
            made.graph.node.append(node)
    converted: onnx.ModelProto = onnx.version_converter.convert_version(made, _GROUPS_BY_CHANNEL)
    return converted


def _by_channel(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that repeat scale and bias for every channel of a group, then the normalisation of them."""
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for place in (1, 2):
        at = f"{node.output[0]}__operand_{place}_"

        def op(op_type: str, *inputs: str, out: str, at: str = at, **attributes: Any) -> onnx.NodeProto:
            return helper.make_node(op_type, inputs, [at + out], **attributes)

        yield op("Constant", out="one", value_ints=[1])
        yield op("Constant", out="flat", value_ints=[-1])
        yield op("Shape", node.input[0], out="channels", start=1, end=2)
        yield op("Shape", node.input[place], out="groups")
        yield op("Div", at + "channels", at + "groups", out="each")
        yield op("Concat", at + "groups", at + "each", out="shape", axis=0)
        yield op("Unsqueeze", node.input[place], at + "one", out="column")
        yield op("Expand", at + "column", at + "shape", out="table")
        yield op("Reshape", at + "table", at + "flat", out="by_channel")
        wide.input[place] = at + "by_channel"
    yield wide
