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
from tonescope_server.plugin.baseline import (
    Background,
    Baseline,
    BaselineParameters,
    as_lists,
    as_numbers,
    background_of,
    baseline_of,
)
from tonescope_server.plugin.metric import Chance, Judged, LayerOrder, Measured, Metric, Need
from tonescope_server.plugin.sampling import SAMPLES_PER_RUN, Seed, even_runs, generator, standard_error
from tonescope_server.plugin.tracing import is_over, windows_where

__all__ = [
    "NAME",
    "SAMPLES_PER_RUN",
    "Background",
    "Baseline",
    "BaselineParameters",
    "Chance",
    "Estimate",
    "Feeds",
    "GraphMethod",
    "Judged",
    "Layer",
    "LayerOrder",
    "Measured",
    "Method",
    "Metric",
    "ModelAccess",
    "Need",
    "Parameters",
    "ProceduralMethod",
    "Requirement",
    "Seed",
    "Totals",
    "Windows",
    "as_lists",
    "as_numbers",
    "background_of",
    "baseline_of",
    "even_runs",
    "generator",
    "hookimpl",
    "is_over",
    "standard_error",
    "windows_where",
]
