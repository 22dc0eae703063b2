"""What a method must say of itself before it is taken in: what the daemon would trip over later is refused by name."""

from __future__ import annotations

import json
from typing import Any

from tonescope_server.plugin.api import Parameters, Requirement

_KINDS = {"name": str, "summary": str, "source": str, "requirement": Requirement, "complete": bool}


def check_statements(method: Any) -> None:
    """Check what a method states.

    Raises:
        TypeError: one of the statements is missing, or something else than it should be.
        ValueError: its parameters make no JSON Schema.
    """
    who = f"method '{getattr(method, 'name', type(method).__name__)}'"
    for name, kind in _KINDS.items():
        stated = getattr(method, name, None)
        if not isinstance(stated, kind):
            raise TypeError(f"{who}: expected '{name}' to be of type {kind.__name__}, got {stated!r}")
    stated = getattr(method, "Parameters", None)
    if not (isinstance(stated, type) and issubclass(stated, Parameters)):
        raise TypeError(f"{who}: expected 'Parameters' to be a subclass of tonescope_server.plugin.Parameters")
    try:
        json.dumps(stated.model_json_schema())
    except Exception as error:
        raise ValueError(f"{who}: its Parameters make no JSON Schema: {type(error).__name__}: {error}") from error
