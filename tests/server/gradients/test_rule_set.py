from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tonescope_server.gradients import STANDARD, RuleSet, differentiate
from tonescope_server.gradients.rule_set import operator_name


def through(ctx, node, cotangents):
    return [cotangents[0]]


def test_an_override_differs_in_the_given_operators_only():
    changed = STANDARD.override("changed", {"Relu": through}, summary="one", source="nobody")
    assert changed.rules["Relu"] is through
    assert {k: v for k, v in changed.rules.items() if k != "Relu"} == {
        k: v for k, v in STANDARD.rules.items() if k != "Relu"
    }
    assert (changed.name, changed.summary, changed.source) == ("changed", "one", "nobody")


def test_an_override_leaves_its_origin_as_it_was():
    before = dict(STANDARD.rules)
    STANDARD.override("changed", {"Relu": through, "NewOp": through})
    assert dict(STANDARD.rules) == before
    assert STANDARD.name == "standard"


def test_a_rule_set_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STANDARD.name = "other"
    with pytest.raises(TypeError):
        STANDARD.rules["Relu"] = through


def test_a_rule_set_does_not_follow_the_table_it_was_made_from():
    table = {"Relu": through}
    made = RuleSet("made", table)
    table["Tanh"] = through
    assert list(made.rules) == ["Relu"]


def test_rules_of_other_domains_go_by_domain_and_operator():
    nodes = [ir.node("Gelu", [], domain=domain) for domain in ("", "ai.onnx", "com.microsoft")]
    assert [operator_name(n) for n in nodes] == ["Gelu", "Gelu", "com.microsoft::Gelu"]
    made = RuleSet("made", {"com.microsoft::Gelu": through})
    assert [made.rule_for(n) for n in nodes] == [None, None, through]


def test_the_walk_follows_the_rule_set_it_is_given(make_case):
    model = make_case([helper.make_node("Relu", ["x"], ["y"])], (3,))
    x, g = np.array([[-1.0, 0.0, 2.0]]), np.array([[-3.0, 4.0, -5.0]])
    got = [
        ReferenceEvaluator(ir.to_proto(differentiate(ir.from_proto(model), ["x"], rules))).run(
            ["gradient:x"], {"x": x, "cotangent:y": g}
        )[0]
        for rules in (STANDARD, STANDARD.override("straight", {"Relu": through}))
    ]
    np.testing.assert_array_equal(got, [[[0, 0, -5.0]], g])
