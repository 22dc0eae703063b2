"""Attribution on tones that carry no signal, in the declared cell order and in the others."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.checks.attribution import NULL_TONE_SHARE, check_null_share, shares_by_order
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table

TABLE = tone_table("esp_lltf")
CELLS = cell_map((64, 20), TABLE, "tone_frame", 20)


def sensible(order, n=5):
    """Draw attribution that spares the null tones, laid out in a cell order."""
    frames = np.random.default_rng(1).normal(size=(n, 20, 64)).astype(np.float32) * ~TABLE.null_mask
    return np.ascontiguousarray(frames if order == "frame_tone" else frames.transpose(0, 2, 1)).reshape(n, 64, 20)


def test_attribution_on_live_tones_raises_nothing():
    cells = sensible("tone_frame")
    assert check_null_share(CELLS.fold(cells), cells, CELLS) == []


def test_the_cell_order_that_makes_sense_is_named_with_its_share():
    cells = sensible("frame_tone")
    (finding,) = check_null_share(CELLS.fold(cells), cells, CELLS, node_id=2)
    assert (finding.code, finding.node_id) == (NULL_TONE_SHARE, 2)
    assert finding.remedy == 'input.cell_order = "frame_tone"'
    assert finding.figures["null_tone_share"] == pytest.approx(12 / 64, abs=0.03)  # as many as there are null tones
    assert finding.figures["null_tone_share_as_frame_tone"] == 0


def test_where_no_order_makes_sense_none_is_named():
    cells = np.ones((3, 64, 20), np.float32)
    (finding,) = check_null_share(CELLS.fold(cells), cells, CELLS)
    assert "cell_order = " not in finding.remedy
    assert shares_by_order(cells, CELLS) == {"tone_frame": 12 / 64, "frame_tone": 12 / 64}


def test_signed_cells_that_cancel_in_a_tone_count_all_the_same():
    cells = np.zeros((1, 64, 20), np.float32)
    cells[0, 0, :2] = 1, -1
    cells[0, 5, 0] = 2
    assert shares_by_order(cells, CELLS)["tone_frame"] == 0.5


def test_a_method_without_cells_is_judged_by_its_tones():
    tones = np.ones((4, 64), np.float32)
    (finding,) = check_null_share(tones, None, CELLS)
    assert finding.figures == {"null_tone_share": 12 / 64}


def test_nothing_is_said_of_no_attribution_nor_of_unknown_tones():
    assert check_null_share(np.zeros((2, 64), np.float32), np.zeros((2, 64, 20), np.float32), CELLS) == []
    unknown = cell_map((64, 20), tone_table("unknown_64"), "tone_frame", 20)
    assert check_null_share(np.ones((2, 64), np.float32), None, unknown) == []


def test_the_public_count_model_read_as_published_puts_a_third_of_it_on_null_tones(shared):
    """CSI.md: 30 % in the scrambled order, z-scored, and none in the right one."""
    from tonescope_server import Explainer
    from tonescope_server.csi.decoders import open_recording

    explainer = Explainer.load(shared / "real/ruview/count_v1.safetensors")
    path = shared / "real/ruview/rec_1772470567081-20260302_165607.csi.jsonl"
    frames = np.stack([frame.amplitude[:56] for frame in open_recording(path, explainer.host.decoders)])
    flat = np.stack([frames[i : i + 20].reshape(56, 20) for i in range(0, len(frames) - 19, 10)])
    z = (flat - flat.mean(axis=(0, 2), keepdims=True)) / (flat.std(axis=(0, 2), keepdims=True) + 1e-6)
    found = explainer.explain(z.astype(np.float32))
    right = cell_map((56, 20), explainer.model.table, "frame_tone", 20)
    (finding,) = check_null_share(right.fold(found.cells), found.cells, right)
    assert finding.figures["null_tone_share"] == pytest.approx(0.30, abs=0.02)
