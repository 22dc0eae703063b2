"""Every row of the tone table against its facts: indices, nulls, pilots, and the zeros of recordings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from tonescope_server.csi.tones import (
    ToneKind,
    detect_layout,
    tone_layouts,
    tone_table,
    unknown_table,
    zero_signature,
)
from tonescope_server.errors import ShapeError, UnknownToneLayoutError


def rows(*spans: int | tuple[int, int]) -> tuple[int, ...]:
    """Rows as the documents write them: single rows, and (first, last) spans."""
    listed: list[int] = []
    for span in spans:
        listed += [span] if isinstance(span, int) else range(span[0], span[1] + 1)
    return tuple(listed)


def natural(i: int) -> int:
    return i if i < 32 else i - 64


def shifted(i: int) -> int:
    return i - 32


LLTF_NULLS = rows(0, (27, 37))
PILOTS = (7, 21, 43, 57)
SECONDARY_NULLS = rows((0, 5), 32, (59, 63))
HT40_NULLS = tuple(64 + j for j in rows(0, 1, (59, 69), 127))
HT40_PILOTS = (11, 25, 39, 53, *(64 + j for j in (11, 25, 53, 75, 103, 117)))


def ht40(i: int) -> int:
    j = i - 64
    return shifted(i) if i < 64 else (j if j < 64 else j - 128)


def c5(edge: int) -> Callable[[int], int]:
    return lambda i: i if i <= edge else i - (2 * edge + 1)


def listed(indices: Iterable[int]) -> Callable[[int], int]:
    return list(indices).__getitem__


def fft(n: int) -> Callable[[int], int]:
    return lambda i: i if i < n // 2 else i - n


def fft_at(n: int, *wanted: int) -> tuple[int, ...]:
    return tuple(sorted([*wanted, *(n - k for k in wanted)]))


INTEL_20 = [*range(-28, 0, 2), -1, *range(1, 28, 2), 28]
INTEL_40 = [*range(-58, 0, 4), *range(2, 59, 4)]


def sides(first: int, last: int) -> list[int]:
    return sorted([*range(-last, -first + 1), *range(first, last + 1)])


def at(indices: list[int], *wanted: int) -> tuple[int, ...]:
    return tuple(indices.index(k) for k in wanted)


HT20_PILOTS = at(sides(1, 28), -21, -7, 7, 21)
HT114_PILOTS = at(sides(2, 58), -53, -25, -11, 11, 25, 53)
HE242_PILOTS = at(sides(2, 122), -116, -90, -48, -22, 22, 48, 90, 116)

FFT80_NULLS = rows(0, 1, (123, 133), 255)

FACTS: dict[str, tuple[int, Callable[[int], int], tuple[int, ...], tuple[int, ...]]] = {
    "esp_lltf": (64, natural, LLTF_NULLS, PILOTS),
    "esp_ht20": (64, natural, rows(0, (29, 35)), PILOTS),
    "esp128": (
        128,
        lambda i: natural(i % 64),
        (*LLTF_NULLS, *rows(64, (93, 99))),
        (*PILOTS, *(64 + i for i in PILOTS)),
    ),
    "esp192_stbc": (
        192,
        lambda i: natural(i % 64),
        (*LLTF_NULLS, *rows((93, 99), (157, 163))),
        (*PILOTS, *(64 + i for i in PILOTS), *(128 + i for i in PILOTS)),
    ),
    **{f"esp_lltf_secondary{s}": (64, shifted, SECONDARY_NULLS, (11, 25, 39, 53)) for s in ("", "_above", "_below")},
    **{f"esp192_ht40{s}": (192, ht40, (*SECONDARY_NULLS, *HT40_NULLS), HT40_PILOTS) for s in ("", "_above", "_below")},
    "esp_c6_64": (64, shifted, rows((0, 3), 32, (61, 63)), (11, 25, 39, 53)),
    "ruview56": (56, natural, LLTF_NULLS, (7, 21, 43)),
    "c5_53": (53, c5(26), (0,), ()),
    "c5_57": (57, c5(28), (0,), ()),
    "c5_117": (117, c5(58), (0, 1, 116), ()),
    "c5_245": (245, c5(122), (0, 1, 244), ()),
    "intel5300_ht20": (30, listed(INTEL_20), (), ()),
    "intel5300_ht40": (30, listed(INTEL_40), (), ()),
    "ht20_56": (56, listed(sides(1, 28)), (), HT20_PILOTS),
    "ht40_114": (114, listed(sides(2, 58)), (), HT114_PILOTS),
    "he20_242": (242, listed(sides(2, 122)), (), HE242_PILOTS),
    # The pilots of these buffers hold nothing: they are nulls.
    "feitcsi_ht20": (56, listed(sides(1, 28)), (7, 21, 34, 48), ()),
    "feitcsi_he20": (242, listed(sides(2, 122)), (6, 32, 74, 100, 141, 167, 209, 235), ()),
    "nexmon_20": (64, natural, rows(0, (29, 35)), PILOTS),
    "nexmon_40": (128, fft(128), rows(0, 1, (59, 69), 127), fft_at(128, 11, 25, 53)),
    "nexmon_80": (256, fft(256), FFT80_NULLS, fft_at(256, 11, 39, 75, 103)),
}
HE = {"c5_245", "he20_242", "feitcsi_he20"}
SHIFT_HZ = {"esp192_ht40_above": -10e6, "esp192_ht40_below": 10e6}
layouts = pytest.mark.parametrize("layout", FACTS)


def test_every_layout_is_held_against_its_facts():
    assert set(tone_layouts()) == set(FACTS)


@layouts
def test_rows_have_the_documented_subcarrier_indices(layout: str):
    n, index, _, _ = FACTS[layout]
    table = tone_table(layout)
    assert [tone.subcarrier_index for tone in table] == [index(i) for i in range(n)]
    assert [tone.row for tone in table] == list(range(n))


@layouts
def test_the_documented_rows_are_null_and_no_others(layout: str):
    _, _, nulls, _ = FACTS[layout]
    table = tone_table(layout)
    assert table.null_rows == tuple(sorted(nulls))
    assert tuple(np.flatnonzero(table.null_mask)) == tuple(sorted(nulls))
    assert table.knows_nulls == bool(nulls)


@layouts
def test_the_documented_rows_are_pilots_and_no_others(layout: str):
    _, _, _, pilots = FACTS[layout]
    found = tuple(tone.row for tone in tone_table(layout) if tone.kind is ToneKind.PILOT)
    assert found == tuple(sorted(pilots))


@layouts
def test_offsets_are_the_index_times_the_spacing_from_the_centre(layout: str):
    spacing = 78_125.0 if layout in HE else 312_500.0
    for tone in tone_table(layout):
        shift = SHIFT_HZ.get(layout, 0.0) if tone.training_field == "lltf" else 0.0
        if layout == "esp192_ht40" and tone.training_field == "lltf":
            assert tone.offset_hz is None, "which side the secondary lies on is not known"
        else:
            assert tone.offset_hz == tone.subcarrier_index * spacing + shift


@pytest.mark.parametrize("layout", [name for name in FACTS if name.startswith("esp")])
def test_dc_is_a_null_tone_in_every_esp_layout(layout: str):
    for tone in tone_table(layout):
        if tone.subcarrier_index == 0 and tone.training_field != "csd":
            assert tone.kind is ToneKind.NULL


def test_the_two_angle_rows_of_stbc_are_not_a_channel():
    table = tone_table("esp192_stbc")
    angles = [tone for tone in table if tone.training_field == "csd"]
    assert [tone.row for tone in angles] == [64, 128]
    assert {tone.kind for tone in angles} == {ToneKind.UNKNOWN}


def test_training_fields_of_a_mixed_frame_are_told_apart():
    fields = [tone.training_field for tone in tone_table("esp128")]
    assert fields == ["lltf"] * 64 + ["ht_ltf"] * 64


@pytest.mark.parametrize(("layout", "indices"), [("intel5300_ht20", {7, 21}), ("c5_117", {-53, -25, -11, 11, 25, 53})])
def test_a_pilot_that_the_source_does_not_state_is_unknown(layout: str, indices: set[int]):
    unknown = {tone.subcarrier_index for tone in tone_table(layout) if tone.kind is ToneKind.UNKNOWN}
    assert unknown == indices


@pytest.mark.parametrize("layout", ["ht20_56", "ht40_114", "he20_242"])
def test_assumed_layouts_say_so(layout: str):
    assert tone_table(layout).status == "assumed"


def test_ruview56_has_44_live_tones_and_lacks_the_last_eight():
    table = tone_table("ruview56")
    assert len(table) - len(table.null_rows) == 44
    assert not {tone.subcarrier_index for tone in table} & set(range(-8, 0))


def test_the_null_mask_cannot_be_written():
    with pytest.raises(ValueError):
        tone_table("esp_lltf").null_mask[0] = False


def test_an_unknown_layout_is_refused_with_the_known_ones():
    with pytest.raises(UnknownToneLayoutError, match=r"'esp_lltv'.*esp_lltf.*ruview56"):
        tone_table("esp_lltv")


@pytest.mark.parametrize(
    "layout", ["unknown_0", "unknown_65537", "unknown_", "unknown_x", "unknown_999999999999", "64"]
)
def test_an_unknown_table_without_a_possible_size_is_refused(layout: str):
    with pytest.raises(UnknownToneLayoutError):
        tone_table(layout)


def test_unknown_tables_have_rows_without_identity():
    table = tone_table("unknown_70")
    assert table == unknown_table(70) == tone_table("unknown", 70) == tone_table("", 70)
    assert len(table) == 70
    assert not table.knows_nulls
    assert {(tone.subcarrier_index, tone.offset_hz, tone.kind) for tone in table} == {(None, None, ToneKind.UNKNOWN)}


def test_a_layout_of_another_length_than_asked_for_is_refused():
    with pytest.raises(ShapeError, match=r"'ruview56'.*expected 56.*got 64"):
        tone_table("ruview56", 64)


# Detection


@pytest.mark.parametrize(
    "layout",
    ["esp_lltf", "esp_ht20", "esp128", "esp192_stbc", "esp_lltf_secondary", "esp192_ht40", "esp_c6_64", "ruview56"],
)
def test_a_layout_is_recognised_by_its_zeros(layout: str):
    table = tone_table(layout)
    assert detect_layout(len(table), zero_rows=table.null_rows) == layout


def test_rows_that_a_chip_overwrites_are_no_evidence():
    nulls = set(tone_table("esp_lltf").null_rows)
    assert detect_layout(64, zero_rows=nulls - {0}) == "esp_lltf"
    assert detect_layout(64, zero_rows=nulls - {30}) == "unknown_64"


def test_a_zero_on_a_live_tone_fits_no_layout():
    nulls = set(tone_table("esp_lltf").null_rows)
    assert detect_layout(64, zero_rows=nulls | {12}) == "unknown_64"
    assert detect_layout(56, zero_rows=nulls | {12}) == "unknown_56"


@pytest.mark.parametrize("n", [56, 64, 128, 192, 30, 53, 114, 242, 70])
def test_length_alone_settles_nothing(n: int):
    assert detect_layout(n) == f"unknown_{n}"


@pytest.mark.parametrize("n", [64, 128, 192])
def test_an_esp32_buffer_needs_its_zeros(n: int):
    assert detect_layout(n, "esp32") == f"unknown_{n}"
    assert detect_layout(n, "esp32", zero_rows=()) == f"unknown_{n}"


@pytest.mark.parametrize(
    ("n", "chip", "mhz", "layout"),
    [
        (64, "ESP32-C6", None, "esp_c6_64"),
        (53, "esp32-c5", None, "c5_53"),
        (57, "esp32c5", None, "c5_57"),
        (117, "esp32c5", None, "c5_117"),
        (245, "esp32c5", None, "c5_245"),
        (30, "intel5300", 20, "intel5300_ht20"),
        (30, "intel5300", 40, "intel5300_ht40"),
        (30, "intel5300", None, "unknown_30"),
        (56, "atheros", 20, "unknown_56"),
        (64, "atheros", 20, "unknown_64"),
    ],
)
def test_chip_length_and_bandwidth_settle_what_they_can(n: int, chip: str, mhz: int | None, layout: str):
    assert detect_layout(n, chip, bandwidth_mhz=mhz) == layout


def test_zeros_that_contradict_the_chip_settle_nothing():
    assert detect_layout(64, "esp32-c6", tone_table("esp_lltf").null_rows) == "unknown_64"
    assert detect_layout(53, "esp32-c5", (5,)) == "unknown_53"


def test_no_frames_show_no_zeros():
    assert zero_signature(np.empty((0, 64))) == ()


# Recordings


def raw_frames(shared: Path) -> dict[int, np.ndarray]:
    by_length: dict[int, list[np.ndarray]] = {}
    with (shared / "real/ruview/pretrain-1775182186.csi.jsonl").open() as file:
        for line in file:
            record = json.loads(line)
            if record.get("type") == "raw_csi":
                pairs = np.frombuffer(bytes.fromhex(record["iq_hex"]), np.int8).reshape(-1, 2)
                by_length.setdefault(len(pairs), []).append(np.abs(pairs.astype(int)).sum(axis=1))
    return {n: np.array(frames) for n, frames in by_length.items()}


def test_the_zeros_of_a_two_node_recording_are_the_null_rows_of_three_layouts(shared: Path):
    frames = raw_frames(shared)
    for n, layout in ((64, "esp_lltf"), (128, "esp128"), (192, "esp192_stbc")):
        seen = zero_signature(frames[n])
        assert seen == tone_table(layout).null_rows
        assert detect_layout(n, zero_rows=seen) == layout


def test_the_zeros_of_a_56_amplitude_recording_are_those_of_ruview56(shared: Path):
    lines = (shared / "real/ruview/rec_1772470567081-20260302_165607.csi.jsonl").read_text().splitlines()
    seen = zero_signature(np.array([json.loads(line)["subcarriers"] for line in lines]))
    assert seen == tone_table("ruview56").null_rows
    assert detect_layout(56, zero_rows=seen) == "ruview56"


@pytest.mark.parametrize(
    ("name", "layout"),
    [("esp32_csi_tool_example.csv", "esp_lltf"), ("esp32_csiread_example.csv", "esp_lltf_secondary")],
)
def test_the_zeros_of_a_capture_settle_its_layout(shared: Path, name: str, layout: str):
    lists = [
        line.partition("[")[2].rstrip("] \n").split()
        for line in (shared / "real/captures" / name).read_text().splitlines()
        if "[" in line
    ]
    amplitudes = np.abs(np.array(lists, dtype=int)).reshape(len(lists), 64, 2).sum(axis=2)
    assert detect_layout(64, zero_rows=zero_signature(amplitudes)) == layout


def test_leaking_nulls_of_a_capture_are_far_weaker_than_its_live_tones(shared: Path):
    lines = (shared / "real/captures/esp32_csiread_example.csv").read_text().splitlines()
    pairs = np.array([line.partition("[")[2].rstrip("] \n").split() for line in lines], dtype=float)
    amplitude = np.hypot(pairs[:, 0::2], pairs[:, 1::2]).mean(axis=0)
    nulls = tone_table("esp_lltf_secondary").null_mask.copy()
    live = amplitude[~nulls]
    # Rows 0 and 1 hold what the chip wrote over them. At the band's edges and at DC the filter leaks a little.
    assert amplitude[[5, 59]].max() < 0.5 * live.min()
    assert amplitude[32] < 0.7 * np.median(live)
