from __future__ import annotations

import pytest

from tonescope_server.errors import ManifestError
from tonescope_server.models.manifest import Manifest

WHOLE = """
[model]
name = "count"
version = "0.0.2"
architecture = "csi_count_net"
weights = "count.safetensors"
description = "how many people"
[input]
name = "csi_window"
shape = [56, 20]
axes = ["tone", "frame"]
cell_order = "frame_tone"
quantity = "amplitude"
[tones]
layout = "ruview56"
chip = "esp32-s3"
training_field = "lltf"
channel = 6
bandwidth_mhz = 20
[normalisation]
kind = "manifest"
mean = [1.0, 2.0]
std = [0.5, 0.5]
[sampling]
rate_hz = 14
[window]
frames = 20
hop = 5
[[outputs]]
name = "count_logits"
kind = "logits"
class_names = ["none", "one"]
trained_classes = [0, 1]
temperature = 0.9261822700500488
[baseline]
value = 0.0
[training]
source = "one room"
"""


def write(tmp_path, text):
    path = tmp_path / "model.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_field_is_read(tmp_path):
    manifest = Manifest.load(write(tmp_path, WHOLE))
    assert manifest.model.description == "how many people"
    assert manifest.input.cell_order == "frame_tone"
    assert manifest.normalisation.std == (0.5, 0.5)
    assert manifest.output("count_logits").trained_classes == (0, 1)
    assert manifest.output("other").class_names == ()


def test_a_manifest_survives_json():
    manifest = Manifest.parse({"input": {"shape": [56, 20]}, "outputs": [{"name": "y", "class_names": ["a"]}]})
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[input]\ncelorder = 1", r"unknown key input\.celorder \(known here: name, shape, axes, cell_order"),
        ("[colour]\nx = 1", r"unknown key colour \(known here: model, input, tones"),
        ("[[outputs]]\nname = 'y'\nclases = []", r"unknown key outputs\.0\.clases \(known here: name, kind"),
        ("[input]\ncell_order = 'diagonal'", r"input: cell_order: expected one of tone_frame, .*got 'diagonal'"),
        ("[input]\nlinks = ['a', 'b']", r"input: cell_order: expected the axes link, tone, frame .*got 'tone_frame'"),
        ("[input]\nquantity = 'complex'", r"input: cell_order: expected the axes component, tone, frame"),
        ("[input]\ncell_order = 'link_tone_frame'", r"input: cell_order: expected one of .*got 'link_tone_frame'"),
        ("[input]\nshape = [56, 0]", r"input\.shape\.1: .*greater than or equal to 1, got 0"),
        ("[normalisation]\nmean = [1.0]", r"normalisation: mean and std: expected equal lengths, got 1 and 0"),
        ("[normalisation]\nkind = 'manifest'", "expected mean and std beside it, got neither"),
        ("[normalisation]\nmean = [nan]\nstd = [1.0]", r"normalisation\.mean\.0: .*finite"),
        ("[[outputs]]\nkind = 'logits'", r"outputs\.0\.name: Field required"),
        ("[[outputs]]\nname = 'y'\ntemperature = 0", r"outputs\.0\.temperature: .*greater than 0, got 0"),
        ("[model]\nsha256 = 'abc'", r"model\.sha256: .*got 'abc'"),
        ("[model]\nname = '../x'", r"model\.name: .*got '\.\./x'"),
        ("[model", "not TOML: "),
    ],
)
def test_a_fault_is_one_line_with_file_key_and_value(text, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ManifestError, match=message) as error:
        Manifest.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_further_faults_are_counted(tmp_path):
    with pytest.raises(ManifestError, match=r"\(and 1 more\)$"):
        Manifest.load(write(tmp_path, "[input]\na = 1\nb = 2"))


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"model\.toml: cannot be read: No such file"):
        Manifest.load(tmp_path / "model.toml")


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "model.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="not TOML"):
        Manifest.load(path)


def infer(manifest=None, shape=(56, 20), outputs=None, layouts=None):
    stated = Manifest.parse(manifest or {})
    return stated.infer(shape=shape, outputs=outputs or {"logits": "Gemm"}, layouts=layouts)


def test_every_guess_about_a_bare_file_is_a_warning():
    manifest, warnings = infer(outputs={"y": "Gemm"})
    assert (manifest.input.cell_order, manifest.window.frames) == ("tone_frame", 20)
    assert manifest.tones.layout == "unknown_56"
    assert manifest.output("y").kind == "logits"
    guesses = ["input.cell_order", "tones.layout", "normalisation.kind", "outputs.kind"]
    assert [w.split()[0] for w in warnings] == guesses


def test_a_full_manifest_leaves_nothing_to_guess():
    stated = {
        "input": {"cell_order": "tone_frame"},
        "tones": {"layout": "ruview56"},
        "normalisation": {"kind": "none"},
        "outputs": [{"name": "y", "kind": "regression"}],
    }
    manifest, warnings = infer(stated, outputs={"y": "Gemm"})
    assert warnings == ()
    assert manifest.output("y").kind == "regression"


def test_fifty_six_rows_alone_are_no_reason_to_name_tones():
    assert infer()[0].tones.layout == "unknown_56"
    manifest, warnings = infer(layouts={56: "ruview56"})
    assert manifest.tones.layout == "ruview56"
    assert any("ruview56" in warning for warning in warnings)


def test_windows_written_frame_by_frame_may_be_declared_the_other_way_round():
    stated = {"input": {"cell_order": "frame_tone"}, "tones": {"layout": "ruview56"}}
    for shape in [(56, 20), (20, 56)]:
        manifest, _ = infer(stated, shape=shape)
        assert manifest.window.frames == 20
    assert infer({"input": {"cell_order": "frame_tone"}}, shape=(20, 56))[0].window.frames == 20
    guessed, _ = infer({"input": {"cell_order": "frame_tone"}}, layouts={56: "ruview56"})
    assert (guessed.window.frames, guessed.tones.layout) == (20, "ruview56")


@pytest.mark.parametrize(
    ("shape", "order", "frames", "layout"),
    [
        ((48,), "feature", 1, "unknown_48"),
        ((1, 30, 64), "tone_frame", 64, "unknown_30"),
        ((2, 16, 20), "tone_frame", 20, "unknown_32"),
    ],
)
def test_shapes_of_other_ranks_have_a_reading(shape, order, frames, layout):
    manifest, _ = infer(shape=shape)
    assert (manifest.input.cell_order, manifest.window.frames, manifest.tones.layout) == (order, frames, layout)


def test_a_window_length_that_does_not_fit_is_refused():
    with pytest.raises(ManifestError, match=r"window\.frames: expected .*\(56, 20\).*got 19"):
        infer({"window": {"frames": 19}})


def test_the_hop_is_a_whole_window_unless_stated():
    assert infer()[0].window.hop == 20
    assert infer({"window": {"hop": 5}})[0].window.hop == 5


@pytest.mark.parametrize(
    ("name", "op_type", "kind"),
    [("p", "Softmax", "probabilities"), ("keypoints", "Sigmoid", "regression"), ("count_logits", "Gemm", "logits")],
)
def test_the_kind_of_an_output_is_read_from_its_operator_or_name(name, op_type, kind):
    manifest, warnings = infer(outputs={name: op_type})
    assert manifest.output(name).kind == kind
    assert not any(warning.startswith("outputs") for warning in warnings)
