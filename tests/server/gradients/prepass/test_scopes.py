"""Names in graphs inside nodes: none hides another, whatever is emitted around them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from tests.server.gradients.control_flow import SIZE, branch, model, node, positive, random, session, value
from tonescope_server.gradients import differentiate
from tonescope_server.gradients.prepass.scopes import separate_scopes

NOUGHT = {"nought": np.float64(0)}


def names(graph):
    return [v.name for n in graph.all_nodes() for v in n.outputs]


def test_values_and_nodes_of_two_branches_get_names_of_their_own():
    same = [node("Exp", "x", "h"), node("Sin", "h", "t")]
    nodes = [
        *positive("x"),
        node("If", "c", "y", then_branch=branch("a", same, ["t"]), else_branch=branch("b", same, ["t"])),
    ]
    given = ir.from_proto(model(nodes, [value("x", [SIZE])], NOUGHT))
    separate_scopes(given)
    assert len(set(names(given.graph))) == len(names(given.graph))
    inner = [n.name for n in given.graph.all_nodes()]
    assert len(set(inner)) == len(inner)


def test_names_like_those_that_are_made_up_do_not_hide_what_is_emitted():
    """Exporters call values val_0, val_1, …, and so does onnx_ir whatever is emitted."""
    then = [node("Exp", "x", "val_0"), node("Sin", "val_0", "val_1"), node("Mul", "val_0 val_1", "val_2")]
    other = [node("Neg", "x", "val_3")]
    graphs = {"then_branch": branch("a", then, ["val_2"]), "else_branch": branch("b", other, ["val_3"])}
    nodes = [node("Tanh", "x", "h"), *positive("h"), node("If", "c", "r", **graphs), node("Mul", "r h", "y")]
    proto = ir.to_proto(differentiate(ir.from_proto(model(nodes, [value("x", [SIZE])], NOUGHT)), ["x"]))
    onnx.checker.check_model(proto)
    outer = {name for n in proto.graph.node for name in n.output}
    inner = {name for n in proto.graph.node for a in n.attribute for m in a.g.node for name in m.output}
    assert not outer & inner


def test_weights_of_a_branch_move_out_and_stay_what_they_are_in_the_callers_model():
    weights = {k: numpy_helper.from_array(random(SIZE, seed=s), "w") for s, k in enumerate("ab")}
    graphs = [branch(k, [node("Mul", "x w", f"t{k}")], [f"t{k}"]) for k in "ab"]
    for graph, weight in zip(graphs, weights.values(), strict=True):
        graph.initializer.append(weight)
    nodes = [*positive("x"), node("If", "c", "y", then_branch=graphs[0], else_branch=graphs[1])]
    proto = model(nodes, [value("x", [SIZE])], NOUGHT)
    given = ir.from_proto(proto)
    before = ir.to_proto(given).SerializeToString()
    both = session(ir.to_proto(differentiate(given, ["x"])))
    assert ir.to_proto(given).SerializeToString() == before
    for sign, k in ((1, "a"), (-1, "b")):
        x = sign * np.ones(SIZE)
        got = both.run(["gradient:x"], {"x": x, "cotangent:y": np.ones(SIZE)})[0]
        np.testing.assert_array_equal(got, numpy_helper.to_array(weights[k]))
