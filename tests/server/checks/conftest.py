"""Small streams whose every value is known."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.checks import Declared, Series
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table

TABLE = tone_table("esp_lltf")


@pytest.fixture
def amplitude():
    """Two hundred frames of 64 tones about 20, five hundredths of noise, and the nulls at zero."""
    rng = np.random.default_rng(5)
    level = rng.uniform(15, 25, 64)
    values = level * (1 + 0.05 * rng.standard_normal((200, 64)))
    values[:, TABLE.null_mask] = 0
    return values.astype(np.float32)


@pytest.fixture
def series_from():
    def make(amplitude, node=1, **columns):
        follows = np.arange(len(amplitude)) > 0
        return Series(amplitude, np.arange(amplitude.shape[1]), follows, (node, "", 0, amplitude.shape[1]), **columns)

    return make


@pytest.fixture
def declared():
    return Declared(cell_map((64, 20), TABLE, "tone_frame", 20))


@pytest.fixture
def windows(amplitude):
    """Cut the frames into windows, tones first: (19, 64, 20)."""
    cut = [amplitude[start : start + 20].T for start in range(0, 181, 10)]
    return np.stack(cut)
