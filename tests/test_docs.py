"""The documentation's Python: every block compiles, those marked ``runnable`` run, those marked ``plugin`` are plugins
that keep the rules, and those marked ``rules`` offer a rule set.

The marks stand on the fence, after the language: ```` ```python runnable plugin ````. A runnable block is a file of its
own.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.cli import COMMANDS, main
from tonescope_server.cli.demo import own_daemon
from tonescope_server.demo import store_path
from tonescope_server.plugin import GraphMethod, Requirement
from tonescope_server.plugin.host import PluginHost
from tonescope_server.testing import check_method, tiny_models, tiny_windows

ROOT = Path(__file__).resolve().parent.parent
MARKS = {"runnable", "plugin", "rules"}
FENCE = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    where: str
    marks: frozenset[str]
    text: str


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}",
            frozenset(match[1].split()),
            match[2],
        )
        for match in FENCE.finditer(text)
    ]


BLOCKS = [b for p in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] for b in blocks_of(p)]
PLUGINS = [b for b in BLOCKS if "plugin" in b.marks]


def by_place(blocks):
    return pytest.mark.parametrize("block", blocks, ids=[b.where for b in blocks])


def run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "documentation"}
    exec(compile(block.text, block.where, "exec"), namespace)
    return namespace


@by_place(BLOCKS)
def test_a_block_compiles_and_its_marks_are_known(block):
    compile(block.text, block.where, "exec")
    assert block.marks <= MARKS


@by_place([b for b in BLOCKS if "runnable" in b.marks])
def test_a_runnable_block_runs(block, tmp_path, monkeypatch):
    run(block, tmp_path, monkeypatch)


def test_the_shortest_client_program_prints_what_the_readme_says_of_it(capsys):
    (block,) = [b for b in BLOCKS if b.where.startswith("README.md") and "tonescope.connect(" in b.text]
    with own_daemon(store_path()) as address:
        exec(
            compile(block.text.replace("127.0.0.1:50551", address), block.where, "exec"), {"__name__": "documentation"}
        )
    printed = capsys.readouterr().out.splitlines()
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = [line.rpartition(" ")[2].replace("%", " %") for line in printed]
    assert len(said) == 2
    assert f"Here it is {' and '.join(said)}" in readme


@by_place(PLUGINS)
def test_a_documented_plugin_keeps_the_rules(block, tmp_path, monkeypatch):
    methods = run(block, tmp_path, monkeypatch)["tonescope_methods"]()
    assert methods
    for method in methods:
        check_method(method)


@by_place(PLUGINS)
def test_a_documented_plugin_is_under_thirty_lines_and_loads_by_its_entry_point(block, tmp_path, monkeypatch):
    assert len(block.text.splitlines()) < 30
    (tmp_path / "my_plugin.py").write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_plugin", raising=False)
    host = PluginHost.load([EntryPoint("my_plugin", "my_plugin", "tonescope")])
    assert host.failures == []
    assert len(host.methods) == 1
    sys.modules.pop("my_plugin")


@by_place([b for b in BLOCKS if "rules" in b.marks])
def test_a_documented_rule_set_is_used_by_its_name(block, tmp_path, monkeypatch):
    assert len(block.text.splitlines()) < 30
    (tmp_path / "linear_rules.py").write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "linear_rules", raising=False)
    point = EntryPoint("linear_rules", "linear_rules", "tonescope")
    host = PluginHost.load([*entry_points(group="tonescope"), point])
    sys.modules.pop("linear_rules")
    assert host.failures == []
    assert host.origin("rule_sets", "always_on").plugin == "linear_rules"

    class Mine(GraphMethod):
        name = "mine"
        summary = "The gradient under the documented rules."
        rule_set = "always_on"

        def describe(self, tape, parameters):
            tape.result("cells", tape.evaluate("always_on").gradient)

    host.methods["mine"] = Mine()
    explainer = Explainer(tiny_models()["conv_1d"], host)
    x = tiny_windows(explainer.model)
    found, standard = (explainer.gradient(x, 0, rule_set=name) for name in ("always_on", "standard"))
    # What is left is linear: its gradient is the same everywhere, and the network's own is not.
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), rtol=1e-5, atol=1e-7)
    assert np.abs(standard - standard[:1]).max() > 1e-3
    np.testing.assert_array_equal(explainer.jacobian(x, [0], rule_set="always_on")[0], found)
    explained = explainer.explain(x, "mine", 0)
    np.testing.assert_array_equal(explained.cells, found)
    assert explained.rule_set == "always_on"
    assert explainer.applicability()["mine"] == ""


def test_the_entry_point_in_the_documentation_is_the_groups_own():
    text = (ROOT / "docs" / "plugins.md").read_text()
    assert "[project.entry-points.tonescope]\n" in text
    assert 'my_plugin = "my_plugin"\n' in text


def test_the_commands_of_the_export_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TONESCOPE_STORE", raising=False)
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    shell = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in shell for line in block.splitlines()]
    assert lines
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        assert main() == 0, line
        assert capsys.readouterr().out, line


def test_the_export_page_names_every_graph_method_that_is_not_a_map():
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    methods = PluginHost.load(list(entry_points(group="tonescope"))).methods.values()
    graphs = {m.name for m in methods if isinstance(m, GraphMethod) and m.requirement is Requirement.GRADIENTS}
    assert {name for name in graphs if f"`{name}`" not in text} == set()


def test_the_readme_has_a_row_for_every_command_and_the_changelog_names_it():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `tonescope ")]
    assert {name for row in rows for name in re.findall(r"`tonescope ([a-z]+)", row)} == set(COMMANDS)
    assert all(row.split("|")[2].strip() for row in rows)
    listed = re.search(r"^- Command line: (.+?)\.$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`([a-z]+)`", listed[1])) == set(COMMANDS)


def test_no_fence_is_missed():
    """A block whose fence is indented, or is spelled otherwise, would never be looked at."""
    fences = [
        line
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(```|~~~)\s*py", line, re.IGNORECASE)
    ]
    assert len(fences) == len(BLOCKS)


def test_links_to_files_lead_somewhere():
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_files_named_in_the_plugin_guide_are_there():
    text = (ROOT / "docs" / "plugins.md").read_text()
    named = re.findall(r"`(plugins/[^`]+)`", text)
    assert named
    assert all((ROOT / name).exists() for name in named)
