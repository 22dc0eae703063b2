"""``tonescope models``: what is in a model store, here or at a daemon."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tonescope_server.cli.console import out, remark, write_json
from tonescope_server.cli.options import MaybeServerOption, StoreOption
from tonescope_server.cli.remote import daemon
from tonescope_server.cli.usage import only
from tonescope_server.demo import store_path
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.models.store import ModelStore

_COLOURS = {"ready": "green", "failed": "red", "unloaded": "yellow"}


def models(
    context: typer.Context,
    store: StoreOption = None,
    server: MaybeServerOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """List the models of a store, and why one cannot be used.

    A model that cannot be used is no error of this command: it exits with 0, and the state tells, in --json as well.

    Example:  tonescope models --store ./models

    Example:  tonescope models --server localhost:50551
    """
    found: Iterable[Any]
    if server:
        only(context, ("store",), "without --server", f"--server {server}")
        with daemon(server) as client:
            found, where = client.models(), f"the daemon at {server}"
    else:
        folder = store_path() if store is None else store
        opened = ModelStore(folder, installed_plugins().architectures)
        found, where = opened.list(), str(folder)
        for note in opened.notes:
            remark(note)
    found = list(found)
    if as_json:
        write_json(found, Path("-"))
        return
    table = Table("model", "version", "state", "digest", "description", box=None, title_justify="left")
    for model in found:
        state = str(model.state)
        said = model.failure or model.description
        table.add_row(model.name, model.version, Text(state, _COLOURS[state]), model.digest[:12], said)
    out.print(table)
    remark(f"{len(found)} in {where}")
