"""What can be set: a TOML file, then the environment (``TONESCOPE_…``), then flags; the later wins.

Only ``cli`` and ``app`` see this. Every other part takes plain values.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tonescope_server.demo import store_path
from tonescope_server.errors import ConfigurationError

PREFIX = "TONESCOPE_"
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Address = Annotated[str, Field(max_length=255)]
_HOST_PORT = re.compile(r"^(\[[0-9a-fA-F:.%]+\]|[^:\[\]\s]+):(\d{1,5})$")


def usual_store() -> Path:
    """Return the store of those who name none: ``models`` in the working folder, else the bundled one."""
    here = Path("models")
    return here if here.is_dir() else store_path()


class Config(BaseSettings):
    """The daemon's settings.

    Attributes:
        listen: host and port; port 0 takes a free one, which is printed.
        store: the folder of models; by default ``models`` in the working folder, or, where there is none, the bundled
            one with the demonstration model.
        threads: threads of ONNX Runtime within one run; two help large graphs and hurt small ones.
        workers: threads that run what is too dear for the event loop.
        plugin_timeout_s: how long a method's own code may keep one of them between two model evaluations, before the
            request fails and another thread takes its place; 0 means for ever.
        max_streams: live streams at once; one more is refused.
        queue_windows: windows that wait in one stream before the oldest is dropped.
        checks: whether live streams are checked: their data, predictions and attributions.
        max_message_bytes: the largest message taken.
        plan_cache_mb: compiled plans kept for each model, in megabytes.
        drain_grace_s: how long streams may take to end once the daemon is asked to stop.
        store_refresh_s: how often the store is looked through for changes; 0 means never.
        log_format: "console" for people, "json" for machines.
        log_level: the least that is logged.
        metrics: host and port of the Prometheus endpoint; "" means none.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    listen: Address = "127.0.0.1:50551"
    store: Path = Field(default_factory=usual_store)
    threads: Positive = 1
    workers: Positive = max(1, min(4, os.cpu_count() or 1))
    plugin_timeout_s: Seconds = 10.0
    max_streams: Positive = 1024
    queue_windows: Positive = 64
    checks: bool = True
    max_message_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 16 * 1024 * 1024
    plan_cache_mb: Positive = 128
    drain_grace_s: Seconds = 5.0
    store_refresh_s: Seconds = 5.0
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics: Address = ""

    @field_validator("listen", "metrics")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value:
            host_and_port(value)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from ``load``, then from the environment; nothing else is looked at unasked."""
        return init_settings, env_settings

    @classmethod
    def load(cls, file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
        """Read the settings.

        Args:
            file: a TOML file; None means none.
            flags: what the command line sets; None among its values means not given.

        Raises:
            ConfigurationError: a key or value that is not allowed: which, where from, expected and got.
        """
        stated = _read(file) if file is not None else {}
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        # A file yields to the environment, so what the environment sets is left out of it.
        below = {name: value for name, value in stated.items() if PREFIX + name.upper() not in _environment()}
        try:
            return cls(**{**below, **given})
        except ValidationError as error:
            raise ConfigurationError(_first_fault(error, set(given), set(below), file)) from error


def host_and_port(address: str) -> tuple[str, int]:
    """Split an address.

    Raises:
        ValueError: not ``host:port``.
    """
    found = _HOST_PORT.match(address)
    if found is None or int(found[2]) > 65535:
        raise ValueError("expected host:port")
    return found[1].strip("[]"), int(found[2])


def _environment() -> set[str]:
    return {name.upper() for name in os.environ}


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: not TOML: {' '.join(str(error).split())}") from error


def _first_fault(error: ValidationError, flags: set[str], stated: set[str], file: Path | None) -> str:
    """Say in one line which key is wrong, where it came from, what was expected and what was got."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    name = key.split(".")[0]
    if name in flags:
        where = f"flag --{name.replace('_', '-')}"
    elif name in stated:
        where = f"{file}: {key}"
    else:
        where = f"environment {PREFIX}{name.upper()}"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key, expected one of {', '.join(Config.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}, got {str(first['input'])!r}"
