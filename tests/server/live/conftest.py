"""A model, its plan and the little that every live test needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tonescope_server.csi.frames import Frame
from tonescope_server.engine.explainer import Explainer
from tonescope_server.live.intake import Intake
from tonescope_server.live.messages import Options
from tonescope_server.live.protocol import negotiate
from tonescope_server.models.model import Model


@pytest.fixture(scope="session")
def explainer(tiny_store: Path) -> Explainer:
    return Explainer.load("tiny", store=tiny_store)


@pytest.fixture(scope="session")
def model(explainer: Explainer) -> Model:
    return explainer.model


@pytest.fixture
def make_intake(explainer: Explainer) -> Callable[..., Intake]:
    def make(most_windows: int = 8, **asked: Any) -> Intake:
        options = Options(**asked)
        agreement = negotiate(options, explainer.model, most_windows)
        return Intake(options, agreement, explainer.model, explainer.host.normalisers)

    return make


@pytest.fixture
def frames() -> Callable[..., list[Frame]]:
    def make(count: int, node: int = 0, first: int = 0, length: int = 56) -> list[Frame]:
        random = np.random.default_rng(first + 1000 * node)
        return [Frame(random.uniform(1, 5, length).astype(np.float32), node, sequence=first + i) for i in range(count)]

    return make
