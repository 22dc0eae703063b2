"""The public API for plugins: what a method is, the hooks, and the mark that makes a function a hook."""

from tonescope_server.marker import NAME, hookimpl
from tonescope_server.plugin.api import (
    Estimate,
    Feeds,
    GraphMethod,
    Layer,
    Method,
    ModelAccess,
    Parameters,
    ProceduralMethod,
    Requirement,
    Totals,
    Windows,
)
from tonescope_server.plugin.baseline import Baseline, baseline_of

__all__ = [
    "NAME",
    "Baseline",
    "Estimate",
    "Feeds",
    "GraphMethod",
    "Layer",
    "Method",
    "ModelAccess",
    "Parameters",
    "ProceduralMethod",
    "Requirement",
    "Totals",
    "Windows",
    "baseline_of",
    "hookimpl",
]
