"""A plugin of somebody else's, installed beside tonescope into an environment of its own, is as good as any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tonescope
from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins

from .environments import Environment

PACKAGE = Path(__file__).parent / "quiet_tones"
METHODS = ("movement", "silence")
X = np.random.default_rng(17).normal(size=(3, 56, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install(PACKAGE)
    return made


@pytest.fixture(scope="module")
def address(environment: Environment, tiny_store: Path) -> Iterator[str]:
    process = environment.begin("serve", "--store", str(tiny_store), "--listen", "127.0.0.1:0")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("tonescope: listening on "), line
    yield line.split()[-1]
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in log


def expected(method: str, store: Path) -> np.ndarray:
    """What the two methods are to compute, written otherwise."""
    explainer = Explainer.load("tiny", store=store)
    target = explainer.predict(X).class_index
    means = X.mean(axis=2, keepdims=True)
    if method == "movement":
        return ((X - means) * explainer.gradient(X, target)).sum(axis=2)
    lost = []
    for tone in range(56):
        still = X.copy()
        still[:, tone] = means[:, tone]
        lost.append(explainer.score(X, target) - explainer.score(still, target))
    return np.stack(lost, axis=1)


def test_each_method_is_under_thirty_lines() -> None:
    for name in METHODS:
        assert len((PACKAGE / "quiet_tones" / f"{name}.py").read_text().splitlines()) < 30


def test_what_is_installed_into_one_environment_is_nowhere_else() -> None:
    assert not set(METHODS) & set(installed_plugins().methods)


def test_its_methods_are_listed_with_plugin_and_version(environment: Environment) -> None:
    listed = {each["name"]: each for each in json.loads(environment.tonescope("methods", "--json"))}
    assert {(name, listed[name]["plugin"], listed[name]["version"]) for name in METHODS} == {
        ("movement", "movement", "2.3.0"),
        ("silence", "silence", "2.3.0"),
    }
    assert set(installed_plugins().methods) < set(listed)
    assert listed["movement"]["parameters"]["properties"]["still"]["maximum"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_command_line_and_the_daemon_of_that_environment_answer_with_its_methods(
    environment: Environment, address: str, tiny_store: Path, tmp_path: Path, method: str
) -> None:
    np.save(tmp_path / "x.npy", X)
    asked = ("explain", str(tmp_path / "x.npy"), "-m", "tiny", "--store", str(tiny_store), "--method", method)
    local = json.loads(environment.tonescope(*asked, "--json", "-"))["explanations"]
    with tonescope.connect(address) as client:
        assert method in {each.name for each in client.methods()}
        unary = client.explain(X, model="tiny", method=method).tones
        live = [e.tones for e in client.live(model="tiny", method=method, windows=X, overload="back_pressure")]
    want = expected(method, tiny_store)
    for found in (np.array([each["tones"] for each in local]), unary, np.stack(live)):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)  # sums in float32, in another order


def test_its_methods_keep_the_rules_that_hold_for_every_method(environment: Environment) -> None:
    program = "; ".join(
        [
            "from tonescope_server.testing import check_method",
            "from quiet_tones.movement import Movement",
            "from quiet_tones.silence import Silence",
            "[check_method(each) for each in (Movement(), Silence())]",
            "print('kept')",
        ]
    )
    assert environment.run("-c", program) == "kept\n"
