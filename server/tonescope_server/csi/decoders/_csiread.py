"""csiread, which unpacks the buffers of network cards, where it is installed.

csiread is compiled code that trusts the sizes a packet states: decoders check them all before they hand it one.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from tonescope_server.errors import RecordingError

NEEDED = "needs csiread: install tonescope[captures] (csiread has wheels for x86-64 and Python 3.11 to 3.13)"


def csiread() -> ModuleType:
    """Give the module.

    Raises:
        RecordingError: it is not installed; the message says what to install.
    """
    try:
        return import_module("csiread")
    except ImportError as error:
        raise RecordingError(f"captures of network cards: {NEEDED}") from error
