"""The ``tonescope`` command line: the table of commands, and how an error leaves the process.

Each command is one function in a module of its own, imported only when it is asked for, so that
``tonescope watch`` does not pay for onnxruntime. What a command does belongs in that module, not here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from tonescope_server.cli.usage import UsageError, usage_line
from tonescope_server.errors import TonescopeError

# name → module : function. The function's docstring is the command's help; end it with an example.
COMMANDS = {
    "serve": "tonescope_server.cli.serve:serve",
    "demo": "tonescope_server.cli.demo:demo",
    "replay": "tonescope_server.cli.replay:replay",
    "watch": "tonescope_server.cli.watch:watch",
    "ingest": "tonescope_server.cli.ingest:ingest",
    "explain": "tonescope_server.cli.explain:explain",
    "compare": "tonescope_server.cli.compare:compare",
    "saliency": "tonescope_server.cli.saliency:saliency",
    "export": "tonescope_server.cli.export:export",
    "inspect": "tonescope_server.cli.inspection:inspect",
    "doctor": "tonescope_server.cli.doctor:doctor",
    "tones": "tonescope_server.cli.tones:tones",
    "evaluate": "tonescope_server.cli.evaluate:evaluate",
    "visualise": "tonescope_server.cli.visualise:visualise",
    "models": "tonescope_server.cli.models:models",
    "methods": "tonescope_server.cli.methods:methods",
}


def build(arguments: list[str]) -> typer.Typer:
    """Return the command line with the command that ``arguments`` ask for, or, for help, with all."""
    app = typer.Typer(
        name="tonescope",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_tonescope)
    asked = [name for name in arguments[:1] if name in COMMANDS]
    for name in asked or COMMANDS:
        module, function = COMMANDS[name].split(":")
        app.command(name)(getattr(import_module(module), function))
    return app


def _version(asked: bool) -> None:
    if asked:
        print(f"tonescope {version('tonescope')}")
        raise typer.Exit


def _tonescope(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Say, live, which subcarriers made a WiFi-sensing model say what it said."""


def main() -> int:
    """Run the command line.

    Returns:
        The exit code: 0, 1 for an error (one line on stderr, never a traceback), 2 for wrong usage,
        130 for Ctrl-C.
    """
    arguments = sys.argv[1:]
    try:
        # Not standalone: then the parser raises what is wrong, instead of drawing a box around it.
        code = build(arguments)(arguments or ["--help"], standalone_mode=False)
        if not arguments:
            return 2
    except UsageError as error:
        print(usage_line(error, arguments, COMMANDS), file=sys.stderr)
        return 2
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except TonescopeError as error:
        print(f"tonescope: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0
