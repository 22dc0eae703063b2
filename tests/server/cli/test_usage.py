"""Wrong usage is one line that says what, what was expected and what was got; no option is ignored in silence."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tonescope_server.demo import store_path

Refused = Callable[..., str]
BUNDLED = store_path() / "people_count" / "1"
WEIGHTS = BUNDLED / "people_count.safetensors"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "r.jsonl", "--hop", "-3"), "replay: --hop: expected at least 0, got '-3'"),
        (("explain", "--top=0", "x.npy"), "explain: --top: expected at least 1, got '0'"),
        (("serve", "--threads", "two"), "serve: --threads: expected an integer, got 'two'"),
        (("watch", "r.jsonl", "--speed", "fast"), "watch: --speed: expected a number, got 'fast'"),
        (("saliency", "r.jsonl", "--kind", "foo"), "saliency: --kind: expected one of count, pose, got 'foo'"),
        (("explain",), "explain: FILE: expected a value, got none"),
        (("explain", "x.npy", "--hop"), "explain: --hop: expected a value, got none"),
        (("explain", "x.npy", "y.npy"), "explain: expected no further argument, got 'y.npy'"),
        (("explain", "x.npy", "--servr", "s"), "explain: expected an option such as --server, got '--servr'"),
        (("methods", "--zzz"), "methods: expected an option of --help, got '--zzz'"),
        (("inspect", "--json=3", "x.npy"), "inspect: --json: expected no value, got '3'"),
    ],
    ids=str,
)
def test_what_the_parser_refuses_is_one_line(run: Any, arguments: tuple[str, ...], said: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"tonescope {said}\n"


def test_a_command_that_there_is_not_is_told_with_those_there_are(run: Any) -> None:
    ran = run("dance", "--hop", "3")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("tonescope: expected a command (serve, demo, replay, ")
    assert ran.err.endswith("), got 'dance'\n")


def test_no_arguments_at_all_are_answered_by_the_help(run: Any) -> None:
    ran = run()
    assert ran.code == 2
    assert "│ explain " in ran.out
    assert ran.err == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--hop", "3"), "--hop: expected only with a recording, got the array windows.npy"),
        (("--hop", "0"), "--hop: expected only with a recording, got the array windows.npy"),
        (("--format", "foo"), "--format: expected only with a recording, got the array windows.npy"),
        (("--window", "1"), "--window: expected only with --png or --html, got neither"),
        (("--normalise", "foo"), "normalisation 'foo': unknown, expected one of manifest"),
        (("--normalise", "recording"), "'recording' expected the recording's statistics beside it, got none"),
        (("--adapter", "a"), "adapter: expected only with a model file, got model 'people_count'"),
        (("--server", "s", "--store", "x"), "--store: expected only without --server, got --server s"),
        (("--server", "s", "--manifest", "x"), "--manifest: expected only without --server, got --server s"),
        (("--server", "s", "--adapter", "x"), "--adapter: expected only without --server, got --server s"),
        (("--server", "s", "--weights", "x"), "--weights: expected only without --server, got --server s"),
        (("-m", WEIGHTS, "--weights", WEIGHTS), "paired weights need an ONNX model, got safetensors"),
        (("-m", WEIGHTS, "--store", store_path()), "--store: expected only with the name of a model in it, got /"),
        (("-p", "n_steps=8", "-p", "n_steps=9"), "expected 'n_steps' once, got it before as 8"),
        (("--target", "predicted:5"), "target 'predicted:5': expected nothing after the colon"),
        (("--target", "loss:"), "target 'loss:': expected something after the colon"),
        (("--target", ":5"), "':5'"),
    ],
    ids=str,
)
def test_explain_refuses_what_it_would_ignore(
    refused: Refused, windows: Path, more: tuple[str, ...], said: str
) -> None:
    np.save(windows, np.zeros((1, 64, 20), dtype=np.float32))
    assert said in refused("explain", windows, *more)


@pytest.mark.parametrize("option", ["--store", "--manifest", "--adapter", "--weights", "--layers"])
def test_inspect_refuses_what_belongs_to_models_beside_data(
    refused: Refused, recording: Path, windows: Path, option: str
) -> None:
    value = () if option == "--layers" else ("x",)
    asked = f"{option}: expected only with a model, got the"
    assert f"{asked} recording {recording.name}" in refused("inspect", recording, option, *value)
    assert f"{asked} array windows.npy" in refused("inspect", windows, option, *value)


def test_inspect_refuses_a_format_beside_what_is_no_recording(refused: Refused) -> None:
    asked = "--format: expected only with a recording, got the"
    assert f"{asked} model {BUNDLED}" in refused("inspect", BUNDLED, "--format", "adr018")


def test_inspect_reads_an_array_by_the_format_that_is_named(refused: Refused, windows: Path) -> None:
    assert "'windows.npy': expected an ADR-018 packet" in refused("inspect", windows, "--format", "adr018")


def test_models_refuses_a_store_beside_a_daemon(refused: Refused, tmp_path: Path) -> None:
    line = refused("models", "--store", tmp_path, "--server", "s")
    assert "--store: expected only without --server, got --server s" in line


def test_a_store_in_the_environment_is_no_option_given(
    run: Any, address: str, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TONESCOPE_STORE", str(tmp_path))
    assert run("models", "--server", address).code == 0
    assert run("explain", recording, "--server", address).code == 0
    assert run("explain", recording, "-m", BUNDLED).code == 0
    assert run("inspect", recording).code == 0


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_a_speed_beside_as_fast_as_possible_is_refused(refused: Refused, recording: Path, command: str) -> None:
    line = refused(command, recording, "--speed", "4", "--as-fast-as-possible")
    assert "--speed: expected only without --as-fast-as-possible, got 4 beside it" in line


@pytest.mark.parametrize("command", ["replay", "watch"])
def test_a_node_that_the_recording_does_not_have_is_refused_with_those_it_has(
    refused: Refused, recording: Path, command: str
) -> None:
    line = refused(command, recording, "--node", "1", "--node", "77")
    assert f"--node: expected a node of {recording.name} (1, 2), got 77" in line


def test_a_path_that_leads_nowhere_is_named(refused: Refused, windows: Path) -> None:
    for asked in (("inspect", "/nonexist"), ("explain", windows, "-m", "/nonexist")):
        assert refused(*asked) == "tonescope: model '/nonexist': no such file or folder"
    for path in ("models/count.onnx", "count.safetensors", "x/model.toml"):
        assert refused("explain", windows, "-m", path) == f"tonescope: model '{path}': no such file or folder"


@pytest.mark.parametrize("remote", [False, True])
def test_of_many_windows_the_one_that_cannot_be_explained_is_named(
    refused: Refused, address: str, tmp_path: Path, remote: bool
) -> None:
    # Long enough to travel in several messages: the number is the window's in the file.
    array = np.random.default_rng(3).standard_normal((400, 64, 20)).astype(np.float32)
    array[333, 7, 2] = np.nan
    np.save(tmp_path / "w.npy", array)
    line = refused("explain", tmp_path / "w.npy", *(("--server", address) if remote else ()))
    assert "window 333: input 'csi_window': expected finite numbers, got nan at (" in line
    assert "7, 2)" in line


def test_the_version_is_that_of_the_package(run) -> None:
    ran = run("--version")
    assert (ran.code, ran.out) == (0, f"tonescope {version('tonescope')}\n")
    assert "--version" in run("--help").out
