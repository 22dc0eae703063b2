from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tonescope_server.config import Config, host_and_port
from tonescope_server.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Config.model_fields:
        monkeypatch.delenv(f"TONESCOPE_{name.upper()}", raising=False)


def written(folder: Path, text: str) -> Path:
    path = folder / "tonescope.toml"
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold() -> None:
    config = Config.load()
    assert config.listen == "127.0.0.1:50551"
    assert config.threads == 1


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, 'threads = 2\nworkers = 2\nqueue_windows = 2\nmax_streams = 2\nstore = "a"')
    monkeypatch.setenv("TONESCOPE_WORKERS", "3")
    monkeypatch.setenv("TONESCOPE_QUEUE_WINDOWS", "3")
    config = Config.load(file, {"queue_windows": 4, "max_streams": 4, "threads": None})
    assert (config.threads, config.workers, config.queue_windows, config.max_streams) == (2, 3, 4, 4)
    assert config.store == Path("a")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"listen": "somewhere"}, ["--listen", "expected host:port", "'somewhere'"]),
        ({"listen": "127.0.0.1:70000"}, ["--listen", "'127.0.0.1:70000'"]),
        ({"threads": 0}, ["--threads", "greater than or equal to 1", "'0'"]),
        ({"log_format": "xml"}, ["--log-format", "'console' or 'json'", "'xml'"]),
        ({"drain_grace_s": float("inf")}, ["--drain-grace-s", "finite", "'inf'"]),
        ({"metrics": "9090"}, ["--metrics", "expected host:port", "'9090'"]),
    ],
)
def test_a_bad_flag_is_named_with_what_was_expected_and_got(flags: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Config.load(None, flags)
    message = str(raised.value)
    assert "\n" not in message
    for each in says:
        assert each in message


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TONESCOPE_MAX_STREAMS", "many")
    with pytest.raises(ConfigurationError, match=r"environment TONESCOPE_MAX_STREAMS: .*integer.*'many'"):
        Config.load()


def test_an_unknown_key_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tonescope\.toml: treads: unknown key.*threads"):
        Config.load(written(tmp_path, "treads = 2"))


@pytest.mark.parametrize("text", ["threads = ", "\x00", "[["])
def test_a_file_that_is_not_toml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="not TOML") as raised:
        Config.load(written(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: cannot be read: No such file"):
        Config.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:50551", ("::1", 50551)), ("example:1", ("example", 1))],
)
def test_addresses_are_split(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts
