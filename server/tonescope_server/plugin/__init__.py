"""The public API for plugins: what a method is, the hooks, and the mark that makes a function a hook."""

from tonescope_server.marker import NAME, hookimpl
from tonescope_server.plugin.api import (
    Estimate,
    GraphMethod,
    Method,
    ModelAccess,
    Parameters,
    ProceduralMethod,
    Requirement,
    Windows,
)

__all__ = [
    "NAME",
    "Estimate",
    "GraphMethod",
    "Method",
    "ModelAccess",
    "Parameters",
    "ProceduralMethod",
    "Requirement",
    "Windows",
    "hookimpl",
]
