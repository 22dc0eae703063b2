"""Mask files: read back bit by bit, and by a C compiler."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from tonescope_server.csi.tones import feature_table, tone_layouts, tone_table
from tonescope_server.reports.tones.masks import c_header, mask_of

ORDER = np.array([63, 9, 1, 20, 40, 55, 5, 12, 3, 62])


def rows_of(mask_hex):
    """Read a mask as the documentation says: row r is bit r mod 8 of byte r // 8."""
    octets = bytes.fromhex(mask_hex)
    return [8 * at + bit for at, octet in enumerate(octets) for bit in range(8) if octet >> bit & 1]


def test_a_mask_file_names_its_tones_three_times_over_and_they_agree():
    found = mask_of(tone_table("esp_lltf").at(2437.0), ORDER, 4).as_json()
    assert found["rows"] == rows_of(found["mask_hex"]) == [1, 9, 20, 63]
    assert found["subcarrier_indices"] == [1, 9, 20, -1]
    np.testing.assert_allclose(found["offset_mhz"], [0.3125, 2.8125, 6.25, -0.3125])
    np.testing.assert_allclose(found["frequency_mhz"], [2437.3125, 2439.8125, 2443.25, 2436.6875])
    assert (found["tone_layout"], found["n_tones"], found["k"]) == ("esp_lltf", 64, 4)
    # Little-endian: the number that the bytes make has bit r set for row r.
    assert int.from_bytes(bytes.fromhex(found["mask_hex"]), "little") == sum(1 << row for row in (1, 9, 20, 63))


@pytest.mark.parametrize("layout", sorted(tone_layouts()))
def test_every_layout_has_a_byte_for_each_eight_rows_begun(layout):
    table = tone_table(layout)
    order = np.random.default_rng(0).permutation(len(table))
    found = mask_of(table, order, 8).as_json()
    assert len(found["mask_hex"]) == 2 * -(-len(table) // 8)
    assert rows_of(found["mask_hex"]) == sorted(order[:8].tolist())


def test_rows_that_are_no_known_tones_are_chosen_by_row_alone():
    found = mask_of(feature_table(12, ()), np.arange(12), 3).as_json()
    assert found["subcarrier_indices"] == found["frequency_mhz"] == found["offset_mhz"] == [None] * 3
    assert rows_of(found["mask_hex"]) == [0, 1, 2]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_header_compiles_and_a_program_reads_the_same_rows_from_it(tmp_path):
    masks = [mask_of(tone_table("esp_lltf"), ORDER, k) for k in (4, 8)]
    (tmp_path / "tones.h").write_text(c_header(masks, "a remark that tries to end */ itself"))
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "tones.h"\nint main(void) {\n'
        "  for (int r = 0; r < TONESCOPE_N_TONES; r++)\n"
        '    if (TONESCOPE_HAS_TONE(tonescope_mask_8, r)) printf("%d ", r);\n'
        '  for (int i = 0; i < 4; i++) printf("%d ", tonescope_rows_4[i]);\n'
        '  printf("%s\\n", TONESCOPE_TONE_LAYOUT);\n  return 0;\n}\n'
    )
    strict = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused", "main.c", "-o", "main"]
    subprocess.run(strict, cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [*map(str, sorted(ORDER[:8])), *map(str, sorted(ORDER[:4])), "esp_lltf"]


def test_the_header_names_the_subcarriers_in_the_order_of_the_spectrum():
    text = c_header([mask_of(tone_table("esp_lltf"), np.array([63, 0, 1]), 3)], "x")
    assert "/* subcarriers -1, +0, +1 */" in text
