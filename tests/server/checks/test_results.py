"""Checks of answers: which are made of them, and which are not."""

from __future__ import annotations

import numpy as np

from tonescope_server.checks.attribution import NULL_TONE_SHARE
from tonescope_server.checks.results import Answers, check_answers
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.models.manifest import Manifest

CELLS = cell_map((64, 20), tone_table("esp_lltf"), "tone_frame", 20)


def test_a_map_that_tells_no_tones_apart_is_no_evidence_against_the_layout():
    """It spreads over null tones as over all others, whatever the cell order."""
    cells = np.ones((3, 64, 20), np.float32)
    for resolves, expected in ((True, [NULL_TONE_SHARE]), (False, [])):
        answers = Answers("any", CELLS.fold(cells), cells, resolves_tones=resolves)
        assert [found.code for found in check_answers(answers, Manifest(), CELLS)] == expected
