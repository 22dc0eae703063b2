from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from tonescope_server.errors import PluginError, UnknownMethodError
from tonescope_server.plugin.conduct import MOST_HANGS, Incident, Kind
from tonescope_server.plugin.host import PluginHost

HEAD = "from tonescope_server import plugin\n\n"
GOOD = """
class {name}(plugin.ProceduralMethod):
    name = "{name}"
    summary = "One."
    {more}
"""
OFFER = "\n@plugin.hookimpl\ndef tonescope_methods():\n    return [{made}]\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load modules as plugins, by their text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        return PluginHost.load([EntryPoint(name, name, "tonescope") for name in texts])

    yield load
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def methods(*classes, **more):
    bodies = "".join(GOOD.format(name=name, more=more.get(name, "")) for name in classes)
    return HEAD + bodies + OFFER.format(made=", ".join(f"{name}()" for name in classes))


def failures(host):
    return [(each.plugin, each.message) for each in host.failures]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit('not today')", "SystemExit: not today"),
        ("def", "SyntaxError: invalid syntax"),
        (HEAD + OFFER.format(made="1 / 0"), "ZeroDivisionError: division by zero"),
        (HEAD + OFFER.format(made="exit(4)"), "SystemExit: 4"),
        (HEAD + OFFER.format(made="object()"), "TypeError: method 'object': expected 'name' to be of type str"),
        (methods("a", a="summary = 3"), "TypeError: method 'a': expected 'summary' to be of type str, got 3"),
        (methods("a", a="requirement = 'all'"), "TypeError: method 'a': expected 'requirement' to be of type Requ"),
        (methods("a", a="Parameters = dict"), "TypeError: method 'a': expected 'Parameters' to be a subclass of"),
        (
            methods("a", a="class Parameters(plugin.Parameters):\n        f: __import__('typing').Callable = print"),
            "ValueError: method 'a': its Parameters make no JSON Schema: ",
        ),
        (HEAD + "@plugin.hookimpl\ndef tonescope_mehtods():\n    return []\n", "PluginValidationError: "),
    ],
)
def test_a_plugin_that_cannot_be_taken_in_is_named_with_the_reason_and_others_are_loaded(load, text, says):
    host = load(broken=text, good=methods("fine"))
    ((plugin, message),) = failures(host)
    assert plugin == "broken"
    assert message.startswith(says)
    assert "\n" not in message
    assert list(host.methods) == ["fine"]


def test_one_method_that_cannot_be_taken_in_does_not_cost_its_plugin_the_others(load):
    host = load(one=methods("a"), two=methods("b", "a", "c", "d", c="source = None"))
    assert list(host.methods) == ["a", "b", "d"]
    assert [(plugin, message.partition(",")[0]) for plugin, message in failures(host)] == [
        ("two", "ValueError: methods 'a' is already offered by plugin 'one'"),
        ("two", "TypeError: method 'c': expected 'source' to be of type str"),
    ]
    assert host.named(host.method("a")) == "method 'a' of plugin 'one'"


def test_what_a_method_does_wrong_is_counted_told_and_in_one_line(load):
    host, heard = load(one=methods("a")), []
    host.conduct.listener = heard.append
    cause = ValueError("two\nlines")
    error = host.blame(host.method("a"), cause)
    assert str(error) == "method 'a' of plugin 'one' failed: ValueError: two"
    assert heard == [Incident("one", "a", Kind.FAILED, str(error), 1, False, cause)]
    assert host.conduct.counts == {("one", "a", Kind.FAILED): 1}


def test_a_method_is_refused_once_it_has_hung_too_often_and_no_other_is(load):
    host = load(one=methods("a", "b"))
    for _ in range(MOST_HANGS):
        host.refuse_quarantined("a")
        assert "method 'a' of plugin 'one' hung: its code did not come back within 2 s" in str(host.hung("a", 2.0))
    with pytest.raises(PluginError, match=r"^method 'a' of plugin 'one' is quarantined: it hung 3 times"):
        host.refuse_quarantined("a")
    host.refuse_quarantined("b")
    with pytest.raises(UnknownMethodError):
        host.method("c")
