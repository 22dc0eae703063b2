"""What exporters write for CSI models can be differentiated: by a rule, or by the function that ONNX defines it as."""

from __future__ import annotations

import inspect
import re
import sys

import onnx.defs
import pytest

from tonescope_server.gradients.rule_set import ZERO_DERIVATIVE
from tonescope_server.gradients.rule_sets.standard import STANDARD

# By how many of 26 exported models need them, the most needed first.
EXPORTED = (
    "Gemm", "Constant", "Reshape", "Gather", "Add", "Shape", "Unsqueeze", "Concat", "Conv", "Transpose", "Slice", "Mul",
    "Relu", "ReduceMean", "ConstantOfShape", "Expand", "Squeeze", "Softmax", "MatMul", "Sigmoid", "Identity", "Gelu",
    "Div", "Tanh", "MaxPool", "LSTM", "LayerNormalization", "GlobalAveragePool", "GRU", "AveragePool", "Split",
    "Einsum", "Cast", "Erf", "Flatten", "BatchNormalization", "Where", "Clip", "HardSwish", "ReduceSum", "Sqrt",
    "ReduceMax", "LeakyRelu", "Softplus", "Elu", "Greater", "Equal", "LogSoftmax", "HardSigmoid", "ConvTranspose",
    "RNN", "PRelu", "InstanceNormalization", "Pow", "ReduceProd", "Sub", "Log", "Pad", "Resize", "Mod", "Attention",
    "GroupNormalization", "QuantizeLinear", "DequantizeLinear", "Max", "Min", "Exp", "Abs", "Neg", "CumSum", "TopK",
    "GatherND", "GatherElements", "ScatterElements", "ScatterND", "DepthToSpace", "GlobalMaxPool", "LpNormalization",
    "ReduceMin", "Scan", "If",
)  # fmt: skip


def makes_no_floats(op_type):
    schema = onnx.defs.get_schema(op_type)
    return not any("float" in kind for output in schema.outputs for kind in output.types)


@pytest.mark.parametrize("op_type", EXPORTED)
def test_an_operator_that_exporters_write_has_a_gradient(op_type):
    schema = onnx.defs.get_schema(op_type)
    function = schema.has_function or schema.has_context_dependent_function
    assert op_type in STANDARD.rules or op_type in ZERO_DERIVATIVE or function or makes_no_floats(op_type)


def refusing(module):
    """Return the names of a module's functions that may refuse a node, themselves or in what they call."""
    sources = {n: inspect.getsource(f) for n, f in vars(module).items() if inspect.isfunction(f)}
    found = {n for n, source in sources.items() if ".unsupported(" in source or ".static_dims(" in source}
    while found and (
        more := {n for n, s in sources.items() if n not in found and re.search(rf"(?<![.\w])({'|'.join(found)})\(", s)}
    ):
        found |= more
    return found


@pytest.mark.parametrize("op_type", sorted(STANDARD.rules))
def test_a_rule_that_refuses_some_form_of_its_operator_says_which(op_type):
    """It is what docs/operators.md is made of."""
    rule = STANDARD.rules[op_type]
    module = sys.modules[rule.__module__]
    if rule.__name__ in refusing(module):
        assert "Refused: " in inspect.getdoc(rule)
