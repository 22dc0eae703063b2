"""Finished graphs are valid ONNX: results have a type and a rank, and no size has a name that buffers go by."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from tests import families
from tonescope_server import Explainer, Target
from tonescope_server.errors import MethodNotApplicableError, UnsupportedOperatorError
from tonescope_server.gradients import differentiate
from tonescope_server.gradients.results import element_type
from tonescope_server.plugin import GraphMethod


@pytest.fixture(scope="module")
def explainers(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("families"), {}

    def explainer(name):
        if name not in made:
            onnx.save(families.FAMILIES[name](), folder / f"{name}.onnx")
            made[name] = Explainer.load(folder / f"{name}.onnx")
        return made[name]

    return explainer


def graphs(explainer):
    """Yield the graph of every kind of plan."""
    resolved = explainer.resolve(Target.difference(Target.predicted(), Target.negative_log_likelihood(2)))
    middle = explainer.layers()[len(explainer.layers()) // 2].name

    def tap(tape):
        for number, found in enumerate(tape.evaluate_at([middle, "x"])):
            tape.result(f"gradient:{number}", found.gradient)
            tape.result(f"value:{number}", found.at)

    describe = {
        "predict": lambda tape: tape.predict(),
        "score": lambda tape: tape.score(),
        "tap": tap,
        "activation": lambda tape: tape.result("activation", tape.activations([middle])[0]),
        "folded": lambda tape: tape.jacobian([middle, "x"], 3, fold=True),
        "each": lambda tape: tape.jacobian([middle, "x"], 3),
    }
    for name, how in describe.items():
        yield name, explainer.compiled((name,), resolved, how, keep=[middle]).graph
    for name, method in sorted(explainer.host.methods.items()):
        if isinstance(method, GraphMethod):
            try:
                yield name, explainer.prepare(name, Target.element(1))._plan.graph
            except (UnsupportedOperatorError, MethodNotApplicableError) as refused:
                assert name in str(refused)  # noqa: PT017  which is judged where rule sets are


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_plans_graph_passes_the_full_check(explainers, name):
    for _, graph in graphs(explainers(name)):
        onnx.checker.check_model(ir.to_proto(graph), full_check=True)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_no_computed_value_has_a_size_with_a_name(explainers, name):
    """ONNX Runtime shares buffers between sizes of one name: along a path two batches would have the same one."""
    for kind, graph in graphs(explainers(name)):
        for value in (v for node in graph.graph for v in node.outputs):
            named = [] if value.shape is None else [d.value for d in value.shape if not isinstance(d, int)]
            assert all(size is None for size in named), (kind, value)
            assert value.is_graph_output() or value.shape is None, (kind, value)


def test_results_state_the_sizes_that_are_known(explainers):
    explainer = explainers("count_net")
    found = {v.name: v for v in explainer.prepare("input_x_gradient")._plan.graph.graph.outputs}
    sizes = {name: [d if isinstance(d, int) else d.value for d in v.shape] for name, v in found.items()}
    assert sizes == {"score": [None], "output:logits": [None, 5], "cells": [None, 12, 10], "tones": [None, 12]}
    assert {v.dtype for v in found.values()} == {ir.DataType.FLOAT}


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_differentiated_graph_passes_the_full_check(name):
    model = ir.from_proto(families.FAMILIES[name]())
    for options in ({}, {"portable": True}, {"seeds": 3}):
        onnx.checker.check_model(ir.to_proto(differentiate(model, ["x"], **options)), full_check=True)


FLOAT, INT64, BOOL, HALF = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.FLOAT16
OPERATORS = {
    "of its operand": (("Neg", ["x"], {}), FLOAT),
    "always an index": (("ArgMax", ["x"], {}), INT64),
    "always a size": (("Shape", ["x"], {}), INT64),
    "always a truth": (("Less", ["x", "x"], {}), BOOL),
    "stated": (("Cast", ["x"], {"to": TensorProto.FLOAT16}), HALF),
    "stated by a tensor": (
        ("ConstantOfShape", ["n"], {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}),
        INT64,
    ),
    "of its second operand": (("Where", ["t", "n", "n"], {}), INT64),
    "of its third operand": (("OneHot", ["n", "n", "x"], {}), FLOAT),
    "of an operator nobody knows": (("Nothing", ["x"], {}), None),
}


@pytest.mark.parametrize("case", OPERATORS)
@pytest.mark.parametrize("far", [False, True])
def test_a_results_type_is_that_of_its_operator(case, far):
    (op_type, names, attributes), want = OPERATORS[case]
    value = made(op_type, names, attributes)
    for _ in range(3 if far else 0):
        value = ir.node("Identity", [value]).outputs[0]
    assert element_type(value, {"": 20}) == want


def test_the_second_result_has_a_type_of_its_own():
    pooled = made("MaxPool", ["x"], {"kernel_shape": [2]}, outputs=2).producer()
    assert [element_type(v, {"": 20}) for v in pooled.outputs] == [FLOAT, INT64]


def test_a_branch_says_what_its_results_are():
    inner = ir.node("Cast", [made("Neg", ["x"], {})], {"to": ir.DataType.INT64})
    graph = ir.Graph([], inner.outputs, nodes=[inner])
    chosen = ir.Node("", "If", [ir.Value(name="t", type=ir.TensorType(BOOL))], [ir.AttrGraph("then_branch", graph)])
    assert element_type(chosen.outputs[0], {"": 20}) == INT64


def made(op_type, names, attributes, outputs=1):
    given = {"x": FLOAT, "n": INT64, "t": BOOL}
    operands = [ir.Value(name=name, type=ir.TensorType(given[name])) for name in names]
    proto = helper.make_node(op_type, names, [f"y{k}" for k in range(outputs)], **attributes)
    attributes = [ir.from_proto(a) for a in proto.attribute]
    return ir.Node("", op_type, operands, attributes, num_outputs=outputs).outputs[0]


def test_a_result_of_integers_runs(explainers):
    """A method may name what it likes: the type that is stated must be the one it has."""
    explainer = explainers("mlp")

    def describe(tape):
        best = tape.context.op("ArgMax", tape.evaluate().gradient.value, axis=1, keepdims=0)
        tape.context.graph.outputs.append(best)

    graph = explainer.compiled(("integers",), explainer.resolve(0), describe)
    best = next(v for v in graph.graph.graph.outputs if v.dtype == INT64)
    x = np.ones((2, 24), np.float32)
    assert graph.session.run({"x": x, "weights:0": np.eye(5, dtype=np.float32)[[0, 1]]})[best.name].dtype == np.int64
