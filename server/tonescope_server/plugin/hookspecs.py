"""The hooks: what a plugin may offer, and when each is asked. Every hook is asked once, when the daemon starts."""

from __future__ import annotations

from typing import Any

import pluggy

from tonescope_server.csi.decoders import Decoder
from tonescope_server.gradients.rule_set import RuleSet
from tonescope_server.marker import NAME
from tonescope_server.models.architectures import Architecture
from tonescope_server.plugin.api import Method
from tonescope_server.plugin.metric import Metric

hookspec = pluggy.HookspecMarker(NAME)


@hookspec
def tonescope_methods() -> list[Method]:  # type: ignore[empty-body]
    """Offer attribution methods."""


@hookspec
def tonescope_rule_sets() -> list[RuleSet]:  # type: ignore[empty-body]
    """Offer backward rule sets, made by overriding another."""


@hookspec
def tonescope_architectures() -> list[Architecture]:  # type: ignore[empty-body]
    """Offer architectures that turn safetensors weights into graphs."""


@hookspec
def tonescope_decoders() -> list[Decoder]:  # type: ignore[empty-body]
    """Offer decoders of CSI frames and recordings."""


@hookspec
def tonescope_normalisers() -> list[Any]:  # type: ignore[empty-body]
    """Offer normalisers of windows."""


@hookspec
def tonescope_diagnostics() -> list[Metric]:  # type: ignore[empty-body]
    """Offer diagnostics of a model over data: metrics that judge what methods say of it."""


@hookspec
def tonescope_sinks() -> list[Any]:  # type: ignore[empty-body]
    """Offer places that explanations are also sent to."""
