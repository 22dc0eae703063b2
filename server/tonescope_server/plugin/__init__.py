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
from tonescope_server.plugin.baseline import Baseline, baseline_of

__all__ = [
    "NAME",
    "Baseline",
    "Estimate",
    "GraphMethod",
    "Method",
    "ModelAccess",
    "Parameters",
    "ProceduralMethod",
    "Requirement",
    "Windows",
    "baseline_of",
    "hookimpl",
]
