"""``explain --progressive``: it ends as it was told to, and says how it stood."""

from __future__ import annotations

import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import tonescope
from tests.anytime import ScaledByCalls
from tonescope.results import Explanation
from tonescope_server import Explainer
from tonescope_server.cli import console, narrowing
from tonescope_server.cli.local import jobs_of
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.live.messages import Wanted
from tonescope_server.services.in_process import InProcess

SMOOTH = ("--method", "smoothgrad", "-p", "n=256", "--progressive")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "two.npy"
    np.save(path, np.random.default_rng(4).standard_normal((2, 56, 4)).astype(np.float32))
    return path


def asked(two: Path, tiny_store: Path, *more: Any) -> tuple[Any, ...]:
    return ("explain", two, "-m", "tiny", "--store", tiny_store, *more)


def test_it_ends_exhausted_with_what_explain_says(run: Any, two: Path, tiny_store: Path) -> None:
    found = run(*asked(two, tiny_store, *SMOOTH, "--json", "-")).json
    whole = run(*asked(two, tiny_store, *SMOOTH[:-1], "--json", "-")).json
    assert [each["stop_reason"] for each in found["progress"]] == ["exhausted", "exhausted"]
    for one, other in zip(found["explanations"], whole["explanations"], strict=True):
        np.testing.assert_allclose(one["tones"], other["tones"], rtol=1e-4, atol=1e-6)
        assert one["evaluations"] == other["evaluations"]
    assert [each["window_index"] for each in found["explanations"]] == [0, 1]
    assert len(found["progress"][0]["interval_half_width"]) == 56


@pytest.mark.parametrize(
    ("stop", "reason"),
    [(("--tolerance", 0.5), "converged"), (("--budget", 60), "budget"), (("--time-limit", 1e-6), "time_limit")],
)
def test_it_ends_as_it_was_told_to(run: Any, two: Path, tiny_store: Path, stop: Any, reason: str) -> None:
    report = run(*asked(two, tiny_store, *SMOOTH, *stop, "--json", "-")).json
    assert [each["stop_reason"] for each in report["progress"]] == [reason, reason]
    assert all(each["evaluations"] < 256 for each in report["progress"])


def test_the_table_says_why_it_ended_and_how_sure_it_is(run: Any, two: Path, tiny_store: Path) -> None:
    ran = run(*asked(two, tiny_store, *SMOOTH, "--tolerance", 0.5))
    assert ran.code == 0
    assert ran.out.count("converged") == 2
    assert ran.out.count("±") >= 8
    path = run(*asked(two, tiny_store, "--method", "input_x_gradient", "--progressive"))
    assert path.out.count("exhausted") == 2
    assert "±" not in path.out


def test_a_daemon_gives_the_same(run: Any, address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.random.default_rng(1).standard_normal((2, 64, 20)).astype(np.float32))
    ask = ("explain", tmp_path / "w.npy", *SMOOTH, "--budget", 100, "--json", "-")
    here, there = (run(*ask, *at).json for at in ((), ("--server", address)))
    assert [each["tones"] for each in here["explanations"]] == [each["tones"] for each in there["explanations"]]
    for one, other in zip(here["progress"], there["progress"], strict=True):
        assert one == other


def test_maps_go_into_the_json(run: Any, two: Path, tiny_store: Path) -> None:
    ask = asked(two, tiny_store, "--method", "occlusion", "--json", "-")
    assert run(*ask).json["explanations"][0]["units"] is None
    assert len(run(*ask, "--maps").json["explanations"][0]["units"]) == 56


def test_what_means_nothing_is_refused(
    refused: Any, two: Path, tiny_store: Path, recording: Path, address: str
) -> None:
    for name, value in {"--tolerance": 0.1, "--budget": 10, "--time-limit": 1}.items():
        line = refused(*asked(two, tiny_store, name, value))
        assert line == f"tonescope: {name}: expected only with --progressive, got no --progressive"
    line = refused(*asked(two, tiny_store, "--maps"))
    assert line == "tonescope: --maps: expected only with --json, got no --json"
    line = refused("explain", recording, "--progressive", "--server", address)
    assert "--progressive: expected windows (.npy, .npz) with --server, got the recording" in line
    assert refused(*asked(two, tiny_store, "--progressive", "--tolerance", "inf")).endswith("at least 0, got inf")


def test_a_window_that_cannot_be_explained_ends_it_in_one_line(refused: Any, two: Path, tiny_store: Path) -> None:
    bad = np.load(two)
    bad[1, 0, 0] = np.nan
    np.save(two, bad)
    assert "window 1" in refused(*asked(two, tiny_store, *SMOOTH))


class Watched(ScaledByCalls):
    """Gets better until whoever watches presses Ctrl-C, after three samples of the second window."""

    name = "watched"

    def refine(self, model: Any, windows: Any, parameters: Any) -> Any:
        estimates = super().refine(model, windows, parameters)
        if windows.x[0, 0, 0] > 0:
            yield next(estimates)
            return
        yield from islice(estimates, 3)
        signal.raise_signal(signal.SIGINT)
        yield from estimates


def test_who_has_seen_enough_is_told_what_was_found(
    run: Any, two: Path, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = np.load(two)
    windows[:, 0, 0] = 1, -1
    np.save(two, windows)
    monkeypatch.setitem(installed_plugins().methods, "watched", Watched())  # type: ignore[arg-type]
    ran = run(*asked(two, tiny_store, "--method", "watched", "--progressive"))
    assert ran.code == 130
    assert ran.out.count("exhausted") == ran.out.count("interrupted") == 1
    assert "over 2 windows" in ran.out
    assert "Traceback" not in ran.err


# -- what is drawn while it narrows -------------------------------------------------------------------------------


@pytest.fixture
def updates(two: Path, tiny_store: Path) -> list[tonescope.Update]:
    explainer = Explainer.load("tiny", store=tiny_store)
    request = InProcess(explainer, "smoothgrad", None, {"n": 256}, Wanted(8))
    return list(request.explain_progressively(jobs_of(np.load(two), explainer)[0], tonescope.Stop()))


def drawn(renderable: Any) -> str:
    terminal = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    terminal.print(renderable)
    terminal.file.close()
    return terminal.export_text()


def test_the_picture_has_a_line_for_each_strong_tone_and_its_interval_narrows(updates: Any) -> None:
    pictures = [drawn(narrowing.picture(each, 2)) for each in (updates[1], updates[-1])]
    widths = [text.count("─") for text in pictures]
    assert widths[1] < widths[0]
    assert f"window 1 of 2: smoothgrad, {updates[-1].explanation.evaluations} evaluations" in pictures[1]
    assert len(pictures[1].splitlines()) == 2 + 8


def test_a_bar_is_as_long_as_its_value_and_its_interval() -> None:
    text = narrowing.bar(-0.5, 0.25, 1.0).plain
    assert (text.count("━"), text.count("─")) == (10, 20)
    assert narrowing.bar(1.0, None, 1.0).plain == "━" * narrowing.BAR
    assert narrowing.bar(0.0, None, 0.0).plain == ""


def test_it_is_drawn_where_there_is_a_terminal(
    run: Any, two: Path, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console.err, "_force_terminal", True)
    monkeypatch.setattr(console.err, "is_interactive", True)
    assert "window 1 of 2: smoothgrad" in run(*asked(two, tiny_store, *SMOOTH)).err
    monkeypatch.setattr(console.err, "_force_terminal", False)
    assert "window 1 of 2" not in run(*asked(two, tiny_store, *SMOOTH)).err


def test_what_is_relative_to_nothing_is_null_in_the_report(updates: Any) -> None:
    from dataclasses import replace

    done = narrowing.Narrowing(tonescope.Stop(), [replace(updates[-1], relative_error=float("inf"))])
    assert done.section[0]["relative_error"] is None
    assert isinstance(updates[-1].explanation, Explanation)
