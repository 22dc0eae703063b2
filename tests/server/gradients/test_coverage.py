"""What exporters write for CSI models can be differentiated: by a rule, or by the function that ONNX defines it as."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import onnx.defs
import pytest

from tonescope_server.gradients.rule_set import ZERO_DERIVATIVE
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.plugin.host import PluginHost

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


def own_rules():
    """Return the rules of the other sets that are not the gradient's, by set and operator."""
    sets = PluginHost.load().rule_sets
    rules = {(name, op_type): rule for name, found in sets.items() for op_type, rule in found.rules.items()}
    return {key: rule for key, rule in rules.items() if rule is not STANDARD.rules.get(key[1])}


def test_a_rule_of_another_set_that_refuses_what_the_gradient_takes_says_which():
    """Those that refuse what the gradient refuses leave it to its rule to say so."""
    silent = []
    for (name, op_type), rule in own_rules().items():
        standard = STANDARD.rules.get(op_type)
        reasons = re.findall(r"unsupported\(\s*node, f?\"([^\"]*)", inspect.getsource(rule))
        documented = (inspect.getdoc(rule) or "") + (inspect.getdoc(standard) or "" if standard else "")
        if [r for r in reasons if "does not depend on the input" not in r] and "Refused: " not in documented:
            silent.append((name, op_type))
    assert silent == []


@pytest.mark.parametrize(
    ("op_type", "said"),
    [
        ("Pow", "Refused by `deep_lift`: an exponent that depends on the input."),
        ("Pow", "Refused by `attn_lrp` and `lrp`: a second operand that depends on the input."),
        ("Mod", "Refused by `deep_lift`: a divisor that depends on the input."),
        ("Mod", "Refused by `attn_lrp` and `lrp`: a second operand that depends on the input."),
        ("ReduceProd", "Refused by `deep_lift`: several axes, more than 64 factors"),
        ("ScatterElements", "Refused by `deep_lift`: reductions max, min and mul."),
        ("ScatterND", "Refused by `deep_lift`: reductions max, min and mul."),
    ],
)
def test_the_table_says_what_only_other_rule_sets_refuse(op_type, said):
    document = (Path(__file__).resolve().parents[3] / "docs" / "operators.md").read_text(encoding="utf-8")
    assert said in next(line for line in document.splitlines() if line.startswith(f"| {op_type} |"))
