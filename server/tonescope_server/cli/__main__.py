"""``python -m tonescope_server.cli`` is ``tonescope``."""

from __future__ import annotations

from tonescope_server.cli import main

raise SystemExit(main())
