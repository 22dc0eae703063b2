"""Tiny models with the plugins of this environment."""

from __future__ import annotations

import pytest

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.testing import tiny_models, tiny_windows


@pytest.fixture(scope="session")
def tiny():
    """A model of 56 tones by 6 frames with null tones and three classes; and a way to ask for others by name."""
    models = tiny_models()
    return lambda name="conv_1d": Explainer(models[name], installed_plugins())


@pytest.fixture(scope="session")
def windows():
    return lambda explainer, n=5: tiny_windows(explainer.model, n)
