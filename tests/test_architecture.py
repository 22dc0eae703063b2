"""Who imports whom: the order of the layers, and what each package may not see. Read from the source, with ``ast``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "tonescope": ROOT / "clients" / "python" / "tonescope",
    "tonescope_server": ROOT / "server" / "tonescope_server",
    "tonescope_plugins": ROOT / "plugins" / "tonescope_plugins",
}

# From the bottom up; imports go downward, or stay within a layer. ``demo`` is data and the code that made it, and
# ``testing`` serves authors of plugins: it stands on the engine, and nothing of the daemon stands on it.
LAYERS = (
    ("errors", "types", "marker"),
    ("demo",),
    ("csi",),
    ("pictures",),
    ("gradients",),
    ("models",),
    ("checks",),
    ("plugin",),
    ("engine",),
    ("testing",),
    ("reports",),
    ("live",),
    ("services",),
    ("config",),
    ("app",),
    ("ingest",),
    ("cli",),
    ("_entry",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# What the server's package itself offers, and where it is.
FRONT = {"Explainer": "engine", "Target": "types"}
MAY_IMPORT = {
    "grpc": {"services", "app"},
    "tonescope.v1": {"services"},
    "tonescope": {"services", "ingest", "cli"},
    "tonescope_server.config": {"app", "cli"},
    "tonescope_server.testing": set(),
}
FOR_PLUGINS = {"plugin", "gradients", "types", "errors"}

Sources = Mapping[str, str]
"""Source text by the module's dotted name."""


def sources() -> dict[str, str]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(p for p in parts if p != "__init__")] = path.read_text(encoding="utf-8")
    return found


def imported(module: str, text: str, known: Sources) -> Iterator[str]:
    """Yield the dotted name of every module that is imported, anywhere in the text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known or base == "tonescope_server" else base
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def layer(module: str) -> str:
    """Return the layer of a module of the server; "" for the package itself."""
    parts = module.split(".")
    if len(parts) < 2:
        return ""
    return FRONT.get(parts[1], parts[1])


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def broken_rules(known: Sources) -> list[str]:
    """Return every import that breaks a rule, one line each."""
    found = []
    for module, text in sorted(known.items()):
        for target in sorted(set(imported(module, text, known))):
            found += [f"{module} imports {target}: {why}" for why in _why_not(module, target)]
    return found


def _why_not(module: str, target: str) -> Iterator[str]:
    if is_in(module, "tonescope"):
        if is_in(target, "tonescope_plugins") or is_in(target, "tonescope_server"):
            yield "the client imports neither the server nor plugins"
        return
    if is_in(module, "tonescope_plugins"):
        if is_in(target, "tonescope") or is_in(target, "grpc"):
            yield "plugins know no client and no gRPC"
        if is_in(target, "tonescope_server") and layer(target) not in FOR_PLUGINS:
            yield f"plugins import only {', '.join(sorted(FOR_PLUGINS))}"
        return
    mine = layer(module)
    if is_in(target, "tonescope_plugins"):
        yield "the server finds plugins by their entry points, and never imports them"
    for what, who in MAY_IMPORT.items():
        if is_in(target, what) and mine not in who and mine != layer(target):
            yield f"only {', '.join(sorted(who)) or 'tests'} may"
            return
    if mine and is_in(target, "tonescope_server") and layer(target) and RANK[layer(target)] > RANK[mine]:
        yield f"imports go downward, and {layer(target)} is above {mine}"


# What is not as it should be yet: the app registers services by the generated functions, which services should do.
STANDING = ("tonescope_server.app imports tonescope.v1.",)


def test_every_module_keeps_the_rules():
    assert [line for line in broken_rules(sources()) if not line.startswith(STANDING)] == []


@pytest.mark.parametrize("exception", STANDING)
def test_an_exception_that_is_no_longer_needed_is_dropped(exception):
    assert any(line.startswith(exception) for line in broken_rules(sources()))


def test_every_layer_has_its_place():
    """A new package of the server has to be put into the order."""
    layers = {layer(module) for module in sources() if is_in(module, "tonescope_server")} - {""}
    assert layers - {"__main__"} == set(RANK)


def test_the_front_of_the_server_imports_on_first_use_only():
    tree = ast.parse(sources()["tonescope_server"])
    inner = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module != "typing"]
    guarded = {id(n) for f in tree.body if isinstance(f, ast.FunctionDef | ast.If) for n in ast.walk(f)}
    assert inner
    assert all(id(n) in guarded for n in inner)


def test_there_is_no_utils():
    named = [m for m in sources() if m.rsplit(".", 1)[-1] in ("utils", "util", "helpers", "misc", "common")]
    assert named == []


def test_test_folders_are_no_packages():
    """But for a project of its own, which the tests only install."""
    projects = {path.parent for path in (ROOT / "tests").rglob("pyproject.toml")}
    found = (ROOT / "tests").rglob("__init__.py")
    assert [path for path in found if not projects & set(path.parents)] == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("tonescope_server.csi.tones", "from tonescope_server.gradients import tape"),
        ("tonescope_server.errors", "from tonescope_server.csi.tones import Tone"),
        ("tonescope_server.gradients.tape", "from tonescope_server.plugin.api import Method"),
        ("tonescope_server.models.model", "import tonescope_server.engine.plan"),
        ("tonescope_server.engine.plan", "def late():\n    from tonescope_server.services import convert"),
        ("tonescope_server.plugin.host", "if TYPE_CHECKING:\n    from tonescope_server.engine.plan import Plan"),
        ("tonescope_server.gradients.tape", "from ..engine import plan"),
        ("tonescope_server.csi.tones", "from tonescope_server import Explainer"),
        ("tonescope_server.services.model", "from tonescope_server.app import run"),
        ("tonescope_server.services.model", "from tonescope_server.config import Config"),
        ("tonescope_server.services.model", "from tonescope_server import config"),
        ("tonescope_server.engine.plan", "from tonescope_server.testing import tiny_models"),
        ("tonescope_server.live.session", "import grpc"),
        ("tonescope_server.cli.serve", "import grpc.aio"),
        ("tonescope_server.cli.serve", "from tonescope.v1 import csi_pb2"),
        ("tonescope_server.live.session", "from tonescope.v1.csi_pb2 import Frame"),
        ("tonescope_server.engine.plan", "import tonescope"),
        ("tonescope_server.engine.plan", "from tonescope_plugins.saliency import Saliency"),
        ("tonescope_server.app", "import_module('tonescope_plugins.saliency')"),
        ("tonescope_plugins.saliency", "from tonescope_server.engine.explainer import Explainer"),
        ("tonescope_plugins.saliency", "from tonescope_server import Explainer"),
        ("tonescope_plugins.saliency", "from tonescope_server.csi.tones import Tone"),
        ("tonescope_plugins.saliency", "import tonescope"),
        ("tonescope.client", "from tonescope_server.errors import ShapeError"),
        ("tonescope.client", "from tonescope_server import types"),
        ("tonescope.live", "import tonescope_plugins"),
    ],
)
def test_a_broken_rule_is_seen(module, text):
    assert broken_rules({module: text})


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("tonescope_server.services.model", "import grpc\nfrom tonescope.v1 import csi_pb2"),
        ("tonescope_server.app", "from tonescope_server.config import Config"),
        ("tonescope_server.engine.plan", "from tonescope_server.gradients.tape import Tape"),
        ("tonescope_server.services.model", "from tonescope_server import Explainer"),
        ("tonescope_server.testing.models", "from tonescope_server.testing.conformance import check_method"),
        (
            "tonescope_plugins.saliency",
            "from tonescope_server import plugin\nfrom tonescope_server.types import Target",
        ),
        ("tonescope_server._entry", "from tonescope_server.cli import main"),
        ("tonescope.client", "import grpc\nfrom tonescope.v1 import csi_pb2\nfrom . import tensors"),
    ],
)
def test_an_import_that_is_allowed_is_not_seen(module, text):
    assert broken_rules({module: text}) == []
