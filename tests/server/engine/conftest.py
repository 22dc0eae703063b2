"""Explainers of the tiny models, and hosts with methods that are not registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.testing import tiny_models


@pytest.fixture(scope="session")
def explainers() -> dict[str, Explainer]:
    """One explainer per tiny model, with the registered methods."""
    return {name: Explainer(model, installed_plugins()) for name, model in tiny_models().items()}


@pytest.fixture
def explainer_with() -> Callable[..., Explainer]:
    """Make an explainer of a tiny model that also knows the given methods."""

    def make(*methods, model="scrambled", **options):
        host = installed_plugins()
        known = {**host.methods, **{method.name: method for method in methods}}
        return Explainer(tiny_models()[model], replace(host, methods=known), **options)

    return make
