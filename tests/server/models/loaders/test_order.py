"""Nodes in an order in which they can be computed: found where there is one, left to the checker otherwise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tonescope_server.errors import NotOnnxError
from tonescope_server.models.loaders.order import in_order
from tonescope_server.models.loading import load_model

from .dense import dense, expected, windows


@pytest.mark.parametrize("seed", range(4))
def test_a_file_whose_nodes_are_in_any_order_is_taken(save, run, seed):
    def shuffle(proto):
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in proto.graph.node]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[i] for i in np.random.default_rng(seed).permutation(len(nodes))[::-1])

    chain = [helper.make_node("Identity", ["x" if i == 0 else f"i{i}"], [f"i{i + 1}"]) for i in range(5)]
    nodes = [*chain, *dense()]
    for node in nodes[5:]:
        node.input[:] = ["i5" if name == "x" else name for name in node.input]
    model = load_model(save(nodes=nodes, change=shuffle))
    x = windows()
    np.testing.assert_allclose(run(model.graph, x)["logits"], expected(x), rtol=1e-5, atol=1e-5)


def graph_of(nodes, *values):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    return helper.make_graph(list(nodes), "g", info[:1], info[1:], list(values))


def test_what_a_branch_reads_from_around_it_comes_before_it():
    """And the nodes of the branch itself are put in order too."""
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4])
    inner = [helper.make_node("Abs", ["t"], ["z"]), helper.make_node("Tanh", ["late"], ["t"])]
    branch = helper.make_graph(inner, "branch", [], [out])
    truth = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    late = helper.make_node("Neg", ["x"], ["late"])
    model = helper.make_model(graph_of([choice, late], truth), opset_imports=[helper.make_opsetid("", 20)])
    found = in_order(model)
    assert [n.op_type for n in found.graph.node] == ["Neg", "If"]
    for attribute in found.graph.node[1].attribute:
        assert [n.op_type for n in attribute.g.node] == ["Tanh", "Abs"]
    assert [n.op_type for n in model.graph.node] == ["If", "Neg"]  # the caller's stays as it is
    onnx.checker.check_model(found)


def test_nodes_in_order_stay_where_they_are():
    nodes = [helper.make_node("Neg", ["x"], ["b"]), helper.make_node("Abs", ["x"], ["a"]),
             helper.make_node("Add", ["a", "b"], ["y"])]  # fmt: skip
    model = helper.make_model(graph_of(nodes))
    assert in_order(model) is model


def test_a_circle_is_refused(save):
    def close(proto):
        proto.graph.node[0].input[0] = "logits"

    with pytest.raises(NotOnnxError, match="not a valid ONNX model"):
        load_model(save(change=close))
