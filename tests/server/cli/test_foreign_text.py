"""Names and descriptions come from files and daemons: whatever they look like, they are shown as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tonescope_server.cli import COMMANDS, console
from tonescope_server.cli.demo import own_daemon

DESCRIPTION = "counts [bold]people[/bold] [/x] :warning:"
MODEL = "[red]counter"
CLASSES = ["[/empty]", "[blink]one", "$x_2^"]
LAYER = "[link=x]hidden[/y]"
FILE = "[i]made $a_{b$.csi.jsonl"
TRANSMITTER = "02:ab:00:00:00:01"  # ":ab:" is an emoji by name
BROKEN = "state [model] weights in model.toml"


@pytest.fixture(scope="module")
def store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model whose every name looks like markup, and one that fails with such a reason."""
    root = tmp_path_factory.mktemp("store")
    graph = onnx.load(tiny_store / "tiny" / "model.onnx")
    for node in graph.graph.node:
        node.input[:] = [LAYER if name == "hidden" else name for name in node.input]
        node.output[:] = [LAYER if name == "hidden" else name for name in node.output]
    (root / MODEL).mkdir()
    onnx.save(graph, root / MODEL / "model.onnx")
    stated = (tiny_store / "tiny" / "model.toml").read_text()
    stated = stated.replace('["empty", "one", "two"]', json.dumps(CLASSES))
    (root / MODEL / "model.toml").write_text(stated.replace('"a tiny classifier"', json.dumps(DESCRIPTION)))
    (root / "several").mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        (root / "several" / name).write_bytes(b"")
    return root


@pytest.fixture
def model(store: Path) -> tuple[object, ...]:
    return "--model", MODEL, "--store", store


@pytest.fixture
def recording(write_jsonl) -> Path:
    random = np.random.default_rng(6)
    return write_jsonl(
        [{"type": "raw_csi", "sequence": i, "timestamp": i / 20, "subcarriers": random.random(56).tolist()}
         for i in range(24)],
        FILE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    with own_daemon(store) as listening:
        yield listening


@pytest.fixture(autouse=True)
def _wide(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for every column, that no cell is broken into lines."""
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 400)


def test_models_shows_descriptions_and_reasons_as_they_are(run, store: Path, address: str) -> None:
    for asked in (("--store", store), ("--server", address)):
        ran = run("models", *asked)
        assert ran.code == 0
        assert DESCRIPTION in ran.out
        assert BROKEN in ran.out
        assert f"\n {MODEL} " in ran.out


def test_inspect_shows_names_of_models_classes_and_layers_as_they_are(run, store: Path) -> None:
    ran = run("inspect", MODEL, "--store", store, "--layers")
    assert ran.code == 0
    assert ran.out.startswith(f"model {MODEL} version 1, ")
    assert ", ".join(CLASSES) in ran.out
    assert f"\n {LAYER} " in ran.out


def test_inspect_shows_transmitters_as_they_are(run, tmp_path: Path) -> None:
    numbers = json.dumps([5, 6] * 64).replace(" ", "")
    fields = "11,-97,-4,30,6,5000000,101,0,128,0"
    (tmp_path / "made.csv").write_text(f'CSI_DATA,18,{TRANSMITTER},-50,{fields},"{numbers}"\n')
    ran = run("inspect", tmp_path / "made.csv")
    assert ran.code == 0, ran.err
    assert f"hears {TRANSMITTER}" in ran.out


def test_explain_shows_and_draws_names_as_they_are(run, model, recording: Path, tmp_path: Path, address: str) -> None:
    for name in CLASSES:
        png = tmp_path / "drawn.png"
        ran = run("explain", recording, *model, "--target", name, "--declared-rows", "--png", png)
        assert ran.code == 0, ran.err
        assert png.is_file()
        assert any(each in ran.out for each in CLASSES)
    there = run("explain", recording, "--model", MODEL, "--server", address)
    assert there.code == 0
    assert there.out == run("explain", recording, *model).out


def test_saliency_draws_names_as_they_are(run, model, recording: Path, tmp_path: Path) -> None:
    ran = run("saliency", recording, *model, "-o", tmp_path / "[/s].json".replace("/", ""), "--png", tmp_path / "s.png")
    assert ran.code == 0, ran.err
    assert "wrote " in ran.err
    assert "[s].json" in ran.err


def test_doctor_shows_and_draws_names_as_they_are(run, store: Path, recording: Path, tmp_path: Path) -> None:
    page, png = tmp_path / "d.html", tmp_path / "d.png"
    ran = run("doctor", MODEL, recording, "--store", store, "--html", page, "--png", png)
    assert ran.code in (0, 3, 4), ran.err
    assert ran.out.startswith(f"{MODEL} on {FILE} ")
    assert f"{MODEL} on {FILE}" in page.read_text()
    assert png.is_file()


def test_tones_shows_and_draws_names_as_they_are(run, model, recording: Path, tmp_path: Path) -> None:
    ran = run("tones", MODEL, recording, *model[2:], "--k", 8, "--random", 5, "--tried", 4, "--out", tmp_path / "out",
              "--allow-faults")  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{MODEL} on {FILE}: ")


def test_compare_shows_and_draws_names_as_they_are(run, model, recording: Path, tmp_path: Path) -> None:
    page, png = tmp_path / "c.html", tmp_path / "c.png"
    ran = run("compare", recording, *model, "--methods", "saliency,occlusion", "--html", page, "--png", png)
    assert ran.code == 0, ran.err
    assert png.is_file()
    assert any(each in page.read_text() for each in CLASSES)
    assert any(each in ran.out for each in CLASSES)


def test_evaluate_shows_and_draws_names_as_they_are(run, store: Path, recording: Path, tmp_path: Path) -> None:
    asked = ("--store", store, "--methods", "saliency,input_x_gradient", "--metrics", "sparseness,completeness")
    ran = run("evaluate", MODEL, recording, *asked, "--png", tmp_path / "e.png")
    assert ran.code == 0, ran.err
    assert MODEL in ran.out
    assert (tmp_path / "e.png").is_file()


def test_export_and_inspect_show_names_as_they_are(run, store: Path, tmp_path: Path) -> None:
    ran = run("export", MODEL, "--store", store, "--out", tmp_path / "[b]out.onnx")
    assert ran.code == 0, ran.err
    assert "[b]out.onnx" in ran.out + ran.err
    assert MODEL in run("inspect", tmp_path / "[b]out.onnx").out


def test_visualise_shows_and_draws_names_as_they_are(run, store: Path, tmp_path: Path) -> None:
    asked = ("--store", store, "--layer", LAYER, "--steps", 2, "--seeds", 2)
    ran = run("visualise", MODEL, *asked, "--png", tmp_path / "v.png")
    assert ran.code == 0, ran.err
    assert LAYER in ran.out + ran.err
    assert (tmp_path / "v.png").is_file()


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_what_a_daemon_says_is_shown_as_it_is(run, command: str, recording: Path, address: str) -> None:
    ran = run(command, recording, "--model", MODEL, "--server", address, "--as-fast-as-possible")
    assert ran.code == 0, ran.err
    assert any(each in ran.out for each in CLASSES)


def test_methods_shows_what_plugins_say_as_it_is(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tonescope_server.engine.explainer import installed_plugins

    method = installed_plugins().methods["saliency"]
    monkeypatch.setattr(method, "summary", DESCRIPTION, raising=False)
    for asked in ((), ("saliency",)):
        ran = run("methods", *asked)
        assert ran.code == 0
        assert DESCRIPTION in ran.out


def test_a_progress_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(console.err, "_force_terminal", True)
    monkeypatch.setattr(console.err, "is_interactive", True)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(f"reading {DESCRIPTION}", 2) as bar:
        bar.advance()
    assert DESCRIPTION in capfd.readouterr().err


def test_no_command_writes_past_the_console() -> None:
    """A console of a module's own, or one call that asks for markup, would read names as markup again."""
    folder = Path(console.__file__).parent
    texts = {path.name: path.read_text() for path in folder.glob("*.py") if path.name != "console.py"}
    assert {name for name, text in texts.items() if re.search(r"\bConsole\(|markup=|from_markup|emoji=", text)} == set()
    # Whoever adds a command adds it to those above.
    assert set(COMMANDS) == {
        "models", "inspect", "explain", "saliency", "doctor", "tones", "replay", "watch", "methods",
        "compare", "evaluate", "export", "visualise",
        "serve", "demo", "ingest",  # these show nothing but what the ones above show
    }  # fmt: skip
