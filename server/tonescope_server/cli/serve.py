"""``tonescope serve``: start the daemon. Only flags are read here; the daemon is wired in ``app``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    store: Annotated[
        Path | None, typer.Option(help="Folder of models.", show_default="models, or the bundled one")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="host:port; port 0 takes a free one.", show_default="127.0.0.1:50551")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these settings.")] = None,
    threads: Annotated[int | None, typer.Option(help="ONNX Runtime threads within one run.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads for what is too dear to run inline.")] = None,
    plugin_timeout_s: Annotated[
        float | None, typer.Option(help="Seconds a method's own code may take between model evaluations; 0: any.")
    ] = None,
    max_streams: Annotated[int | None, typer.Option(help="Live streams at once.")] = None,
    queue_windows: Annotated[int | None, typer.Option(help="Windows that wait in one stream.")] = None,
    checks: Annotated[
        bool | None, typer.Option("--checks/--no-checks", help="Check live streams.", show_default="checks")
    ] = None,
    max_message_bytes: Annotated[int | None, typer.Option(help="Largest message taken.")] = None,
    plan_cache_mb: Annotated[int | None, typer.Option(help="Compiled plans kept for each model.")] = None,
    drain_grace_s: Annotated[float | None, typer.Option(help="Seconds that streams get to end.")] = None,
    store_refresh_s: Annotated[
        float | None, typer.Option(help="Seconds between looks at the store; 0 means never.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    metrics: Annotated[str | None, typer.Option(help="host:port for Prometheus.")] = None,
    stop_with_stdin: Annotated[
        bool, typer.Option("--stop-with-stdin", help="Stop when standard input ends, as with a parent that is gone.")
    ] = False,
) -> None:
    """Serve explanations over gRPC until stopped.

    Every setting but --stop-with-stdin also goes into the TOML file and, as TONESCOPE_<SETTING>, into the environment.
    Flags win over the environment, and the environment over the file.

    Example: tonescope serve --store models --listen 127.0.0.1:50551
    """
    flags = {name: value for name, value in locals().items() if name not in ("config", "stop_with_stdin")}

    from tonescope_server.config import Config  # slow imports, and --help needs none of them

    settings = Config.load(config, flags)

    from tonescope_server.app import run

    run(settings, stop_with_stdin)
