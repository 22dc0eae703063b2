from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.engine.null_sums import NullSums

TABLE = tone_table("esp_lltf")
SHAPES = {
    "tone_frame": (64, 3),
    "frame_tone": (3, 64),
    "component_tone_frame": (2, 64, 3),
    "frame_component_tone": (3, 2, 64),
}


@pytest.fixture(params=sorted(SHAPES))
def model(request):
    parts = ("real", "imaginary") if "component" in request.param else ()
    cells = cell_map(SHAPES[request.param], TABLE, request.param, 3, components=parts)
    return SimpleNamespace(cells=cells, table=TABLE)


def test_the_share_is_that_of_the_null_tones_cells(model):
    cells = np.random.default_rng(0).standard_normal((5, *model.cells.shape)).astype(np.float32)
    by_frame = model.cells.fold_frames(np.abs(cells))
    expected = by_frame[..., TABLE.null_mask].sum(axis=(1, 2)) / by_frame.sum(axis=(1, 2))
    assert expected.min() > 0.05
    # One float32 sum over 192 cells or 384 against another in a different order.
    np.testing.assert_allclose(NullSums.of(model).share(cells, cells), expected, rtol=1e-5)


def test_without_cells_the_share_is_that_of_the_tones(model):
    tones = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    magnitudes = np.abs(tones)
    expected = magnitudes[:, TABLE.null_mask].sum(axis=1) / magnitudes.sum(axis=1)
    np.testing.assert_allclose(NullSums.of(model).share(None, tones), expected, rtol=1e-5)


def test_the_share_of_an_attribution_of_nothing_is_not_known(model):
    assert np.isnan(NullSums.of(model).share(None, np.zeros((2, 64), np.float32))).all()


def test_the_smallest_attribution_has_a_share(model):
    tones = np.zeros((1, 64), np.float32)
    tones[0, 5] = np.finfo(np.float32).smallest_subnormal
    assert NullSums.of(model).share(None, tones).tolist() == [0.0]
