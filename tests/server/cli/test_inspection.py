"""``inspect``: what a file is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tonescope_server.csi.tones import tone_table


def esp_line(layout: str, sequence: int) -> bytes:
    """A line of esp-csi as an ESP32 prints it, with a signal mode that differs from layout to layout."""
    pairs = np.full((64, 2), 3 + sequence)
    pairs[tone_table(layout).null_mask] = 0
    mode = int(layout == "esp_ht20")
    radio = f"aa:bb,-50,11,{mode},0,0,0,0,0,0,0,0,-97,0,6,0,{sequence}000,0,101,0"
    return f'CSI_DATA,{sequence},{radio},128,0,"[{",".join(map(str, pairs.reshape(-1)))}]"'.encode()


def test_a_recording_is_told_by_node_length_rate_and_zeros(run, recording: Path) -> None:
    found = run("inspect", recording, "--json").json
    assert (found["is"], found["format"], found["frames"]) == ("a recording", "ruview_jsonl", 720)
    assert [node["node"] for node in found["nodes"]] == [1, 2]
    for node in found["nodes"]:
        assert abs(node["rate_hz"] - 20) < 1
        (length,) = node["lengths"]
        assert length["always_zero"] == [0, *range(27, 38)]
        assert length["layout"] == "esp_lltf"
    text = run("inspect", recording).out
    assert "0, 27–37" in text
    assert "esp_lltf" in text


def test_what_is_not_csi_in_a_real_recording_is_counted_by_kind(run, shared: Path) -> None:
    found = run("inspect", shared / "real/ruview/pretrain-1775182186.csi.jsonl", "--json").json
    assert {length["tones"] for node in found["nodes"] for length in node["lengths"]} == {64, 128, 192}
    kinds = {kind for node in found["nodes"] for kind in node["skipped"]}
    assert {"vitals", "feature", "compressed"} == kinds
    skipped = sum(sum(node["skipped"].values()) for node in found["nodes"])
    assert found["frames"] + skipped == 5783


def test_records_of_no_node_are_not_counted_as_a_node(run, shared: Path) -> None:
    path = shared / "real/captures/esp32_csi_tool_example.csv"
    found = run("inspect", path, "--json").json
    assert [(node["node"], node["frames"]) for node in found["nodes"]] == [(0, 33)]
    assert found["nodes"][0]["transmitters"] == ["D0:6E:DE:27:6B:63"]
    assert found["skipped_of_no_node"] == {"duplicate": 27}
    text = run("inspect", path).out
    assert "33 frames of 1 node\n" in text
    assert "node 0: hears D0:6E:DE:27:6B:63\n" in text
    assert "\nrecords without a frame: 27 duplicate\n" in text


def test_the_tones_of_every_training_field_are_named(run, shared: Path) -> None:
    path = shared / "real/ruview/pretrain-1775182186.csi.jsonl"
    (node, _) = run("inspect", path, "--json").json["nodes"]
    lltf, both, stbc = node["lengths"]
    assert [each["layout"] for each in (lltf, both, stbc)] == ["esp_lltf", "esp128", "esp192_stbc"]
    assert [field["training_field"] for field in both["identity"]] == ["lltf", "ht_ltf"]
    assert [(field["data"], field["pilot"], field["null"]) for field in both["identity"]] == [(48, 4, 12), (52, 4, 8)]
    assert both["identity"][0]["subcarriers"] == [-32, 31]
    assert both["kinds"][0]["reason"] == "settled by the rows that stay zero"
    assert (
        "node 1, 128 tones: esp128 (verified): lltf -32 … 31 (48 data, 4 pilot, 12 null); ht"
        in run("inspect", path).out
    )
    for length in node["lengths"]:
        assert sorted(row for field in length["identity"] for row in field["at"]) == list(range(length["tones"]))
    assert stbc["identity"][-1] | {"at": [64, 128]} == stbc["identity"][-1]
    assert "; cyclic-shift angles, no channel, in rows 64, 128\n" in run("inspect", path).out


def test_a_capture_of_a_network_card_is_told_with_its_tones(run, shared: Path) -> None:
    text = run("inspect", shared / "real/captures/feitcsi_HT20_2452.csi").out
    assert "a recording in format feitcsi: 48 frames of 1 node\n" in text
    assert "feitcsi_ht20 (verified): ht_ltf -28 … 28 (52 data, 4 null)" in text


def test_frames_that_nothing_settles_are_told_with_the_reason(run, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.random.default_rng(0).uniform(1, 2, (20, 192)))
    text = run("inspect", tmp_path / "frames.npy", "--format", "numpy").out
    assert "unknown_192: 192 rows could be esp192_stbc or esp192_ht40, and no row stays zero" in text


def test_a_length_of_several_layouts_has_none_of_its_own(run, tmp_path: Path) -> None:
    lines = [esp_line(layout, i) for i, layout in enumerate(["esp_lltf", "esp_ht20"] * 4)]
    (tmp_path / "mixed.csv").write_bytes(b"\n".join(lines))
    (length,) = run("inspect", tmp_path / "mixed.csv", "--json").json["nodes"][0]["lengths"]
    assert length["layout"] == "unknown_64"
    assert {kind["layout"] for kind in length["kinds"]} == {"esp_lltf", "esp_ht20"}


def test_a_model_is_told_with_the_methods_that_apply_and_why_others_do_not(run, tiny_store: Path) -> None:
    found = run("inspect", "ruleless", "--store", tiny_store, "--json").json
    assert found["input"]["shape"] == [-1, 56, 4]
    assert found["tone_layout"] == "ruview56"
    (without_rule,) = [each["operator"] for each in found["operators"] if not each["differentiable"]]
    assert found["methods"]["occlusion"] == ""
    assert without_rule in found["methods"]["saliency"]
    text = run("inspect", "ruleless", "--store", tiny_store).out
    assert f"{without_rule}×1 (no rule)" in text
    assert "method occlusion: applies" in text


def test_an_array_is_told_by_shape_and_whether_it_is_finite(run, windows: Path, tmp_path: Path) -> None:
    assert run("inspect", windows, "--json").json == {
        "is": "an array",
        "shape": [5, 56, 4],
        "dtype": "float32",
        "finite": True,
    }
    np.save(tmp_path / "bad.npy", np.full(3, np.nan))
    assert "NOT all finite" in run("inspect", tmp_path / "bad.npy").out


def test_guesses_about_a_bare_model_are_said(run, shared: Path) -> None:
    found = run("inspect", shared / "real/ruview/count_v1.safetensors", "--json").json
    assert any("cell_order" in warning for warning in found["warnings"])
