"""The ``tonescope`` command. The base install has no daemon in it: then this says which extra is missing.

Nothing is imported here before Ctrl-C is looked after.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; exit code 2 where the ``server`` extra is not installed, 130 for Ctrl-C."""
    try:
        from tonescope_server.cli import main as server_main

        return server_main()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "tonescope_server":
            raise
        print(
            f"tonescope: the command line needs the daemon's packages, and '{error.name}' is not installed: "
            "pip install 'tonescope[server]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:  # while it was still importing
        return 130
