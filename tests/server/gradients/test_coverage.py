"""What exporters write for CSI models can be differentiated: by a rule, or by the function that ONNX defines it as."""

from __future__ import annotations

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
