"""``models`` and ``methods``: the same lists here and at a daemon; and the help of every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tonescope_server.cli import COMMANDS


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_the_help_of_every_command_shows_an_example(run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"Example: tonescope {command} " in " ".join(ran.out.replace("│", " ").split()) + " "


def test_the_help_lists_every_command(run) -> None:
    ran = run("--help")
    assert ran.code == 0
    assert all(f"│ {command}" in ran.out for command in COMMANDS)


def test_an_unknown_command_or_option_is_wrong_usage(run) -> None:
    assert run("dance").code == 2
    assert run("models", "--colour").code == 2


def test_models_lists_a_store_and_why_one_cannot_be_used(run, tiny_store: Path) -> None:
    listed = {model["name"]: model for model in run("models", "--store", tiny_store, "--json").json}
    assert set(listed) == {"tiny", "ruleless", "broken"}
    assert listed["tiny"]["state"] == "ready"
    assert listed["broken"]["state"] == "failed"
    assert "model.onnx" in listed["broken"]["failure"]
    table = run("models", "--store", tiny_store)
    assert table.code == 0
    assert "a tiny classifier" in table.out


def test_without_a_store_models_lists_the_bundled_one(run) -> None:
    assert [model["name"] for model in run("models", "--json").json] == ["people_count"]


def test_a_daemon_lists_the_same_models_and_methods(run, address: str) -> None:
    assert run("models", "--json", "--server", address).json == run("models", "--json").json
    assert run("methods", "--json", "--server", address).json == run("methods", "--json").json


def test_methods_lists_the_rule_sets_with_the_plugins_they_come_from(run, address: str) -> None:
    here, there = (" ".join(run("methods", *at).out.split()) for at in ((), ("--server", address)))
    assert here == there
    assert "guided_backprop guided_backprop_rules gradient" in here
    assert "deep_lift deep_lift_rules multipliers" in here
    assert "attn_lrp lrp_rules relevance" in here


def test_methods_shows_one_methods_parameters_with_their_bounds(run) -> None:
    ran = run("methods", "integrated_gradients")
    assert "n_steps" in ran.out
    assert "≥ 2" in ran.out
    assert "gauss_legendre, trapezoid" in ran.out
    (method,) = run("methods", "integrated_gradients", "--json").json
    assert method["complete"] is True


def test_an_unknown_method_is_named_with_those_there_are(refused) -> None:
    assert "'tea_leaves'; there are " in refused("methods", "tea_leaves")
