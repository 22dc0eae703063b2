"""``docs/methods.md`` against the methods: what is listed there is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from tonescope_plugins.lrp import PRESETS
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.plugin import Requirement
from tonescope_server.plugin.baseline import Named

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    below = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0].partition("\n|---")[2]
    rows = [line.strip("| ").split("|") for line in below.splitlines()[1:] if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_gradient_method_of_the_page_is_there_and_keeps_what_the_page_promises():
    methods = installed_plugins().methods
    for name, _, complete, sampled, source in table("Gradient methods"):
        method = methods[name.strip("`")]
        # The difference from the window before is complete, but not against the baseline.
        assert method.complete == (complete == "yes" and name != "`temporal_difference`"), name
        assert ("seed" in method.Parameters.model_fields or name == "`deep_shap`") == (sampled == "yes"), name
        assert source


def test_every_perturbation_method_of_the_page_is_there_and_keeps_what_the_page_promises():
    methods = installed_plugins().methods
    for name, _, complete, sampled, source in table("Perturbation methods"):
        method = methods[name.strip("`")]
        assert method.requirement is Requirement.PREDICTIONS, name
        assert method.complete == (complete == "yes"), name
        assert ("seed" in method.Parameters.model_fields) == (sampled == "yes"), name
        assert source


def test_the_presets_are_those_there_are():
    listed = {}
    for cells in table("Presets of LRP"):
        name, *rules = [re.findall(r"`(\w+)`", cell) for cell in cells]
        keys = ("dense", "convolution", "first")
        listed[name[0]] = {key: rule[0] for key, rule in zip(keys, rules, strict=False) if rule}
    stated = {name: {k: v for k, v in rules.items() if k != "alpha"} for name, rules in PRESETS.items()}
    assert listed == stated


def test_the_names_of_baselines_are_those_there_are():
    listed = [name for cells in table("What a window is compared with") for name in re.findall(r"^`(\w+)`", cells[0])]
    assert listed == list(get_args(Named))
