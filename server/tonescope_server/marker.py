"""The mark that makes a function a tonescope hook. It lies at the bottom so that every layer can offer plugins."""

from __future__ import annotations

import pluggy

NAME = "tonescope"
hookimpl = pluggy.HookimplMarker(NAME)
