from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tonescope_server import Explainer, Target
from tonescope_server.errors import ManifestError, MethodNotApplicableError
from tonescope_server.models.loading import load_model
from tonescope_server.models.manifest import Manifest


@pytest.fixture
def folder(weights, write):
    """A folder with a pose model, its adapter and a manifest that names both."""
    path = write("pose/pose.safetensors", weights.pose())
    write("pose/room.safetensors", weights.adapter())
    state(path.parent, 'weights = "pose.safetensors"\nadapter = "room.safetensors"')
    return path.parent


def state(folder, model="", rest=""):
    (folder / "model.toml").write_text(f"[model]\n{model}\n{rest}\n", encoding="utf-8")


def test_a_folder_a_manifest_and_the_file_it_names_are_the_same_model(folder):
    models = [load_model(p) for p in (folder, folder / "model.toml", folder / "pose.safetensors")]
    assert len({model.digest for model in models}) == 1
    both = (folder / "pose.safetensors").read_bytes() + (folder / "room.safetensors").read_bytes()
    assert models[0].digest == hashlib.sha256(both).hexdigest()


def test_a_manifest_beside_a_file_it_does_not_name_is_not_its(folder, weights, write):
    other = write("pose/other.safetensors", weights.pose())
    assert load_model(other).digest == hashlib.sha256(other.read_bytes()).hexdigest()


def test_arguments_win_over_the_manifest(folder, weights, write, run):
    other = write("other.safetensors", {k: 2 * v for k, v in weights.adapter().items()})
    x = np.ones((1, 6, 20), np.float32)
    stated, given = load_model(folder), load_model(folder, adapter=other)
    assert np.abs(run(stated.graph, x)["keypoints"] - run(given.graph, x)["keypoints"]).max() > 1e-3


def test_name_and_version_come_from_the_manifest_or_the_file(folder):
    model = load_model(folder)
    assert (model.name, model.version) == ("pose", "1")
    assert (model.manifest.model.name, model.manifest.model.version) == ("pose", "1")
    assert not model.manifest.model.states("name")
    state(folder, 'weights = "pose.safetensors"\nname = "joints"\nversion = "2.1"')
    model = load_model(folder)
    assert (model.name, model.version) == ("joints", "2.1")


def test_a_sha256_that_differs_is_refused(folder):
    right = hashlib.sha256((folder / "pose.safetensors").read_bytes()).hexdigest()
    state(folder, f'weights = "pose.safetensors"\nsha256 = "{right.upper()}"')
    assert load_model(folder).digest == right
    state(folder, f'weights = "pose.safetensors"\nsha256 = "{"0" * 64}"')
    with pytest.raises(ManifestError, match=rf"model\.sha256: expected {'0' * 64}, got {right}"):
        load_model(folder)


@pytest.mark.parametrize("key", ["weights", "adapter"])
@pytest.mark.parametrize("name", ["../pose.safetensors", "/etc/passwd", "gone.safetensors", "a\\u0000b"])
def test_a_manifest_names_files_of_its_own_folder_only(key, name, folder):
    (folder.parent / "pose.safetensors").write_bytes((folder / "pose.safetensors").read_bytes())
    own = "" if key == "weights" else 'weights = "pose.safetensors"\n'
    state(folder, f'{own}{key} = "{name}"')
    with pytest.raises(ManifestError, match=r"expected a file in the manifest's own folder|there is no such file"):
        load_model(folder)


def test_a_folder_of_several_files_needs_a_manifest(folder):
    (folder / "model.toml").unlink()
    with pytest.raises(ManifestError, match=r"expected one model file, got pose\.safetensors, room\.safetensors"):
        load_model(folder)


def test_an_unknown_tone_layout_is_refused_with_those_known(folder):
    state(folder, 'weights = "pose.safetensors"', '[tones]\nlayout = "esp99"')
    with pytest.raises(ManifestError, match=r"pose\.safetensors: .*'esp99'.*esp_lltf"):
        load_model(folder)


def test_a_tone_layout_of_another_size_is_refused(folder):
    state(folder, 'weights = "pose.safetensors"', '[tones]\nlayout = "ruview56"\n[window]\nframes = 20')
    with pytest.raises(ManifestError, match=r'"ruview56" has 56 tones, but the input \(6, 20\) holds 6 rows of 20'):
        load_model(folder)


@pytest.mark.parametrize("section", ["[normalisation]\nmean = [1.0]\nstd = [1.0]", "[baseline]\ntones = [1.0]"])
def test_values_per_tone_must_be_as_many_as_the_tones(section, folder):
    state(folder, 'weights = "pose.safetensors"', section)
    with pytest.raises(ManifestError, match="expected a value for each of 6 tones, got 1"):
        load_model(folder)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ('name = "keypoint"', r'no output "keypoint" \(outputs: keypoints\)'),
        ('name = "keypoints"\nclass_names = ["a"]', r'class_names of "keypoints": expected 6, got 1'),
        ('name = "keypoints"\ntrained_classes = [6]', "expected indices below 6, got 6"),
    ],
)
def test_what_is_stated_of_an_output_must_fit_it(output, message, folder):
    state(folder, 'weights = "pose.safetensors"', f"[[outputs]]\n{output}")
    with pytest.raises(ManifestError, match=message):
        load_model(folder)


def test_the_cell_order_reaches_the_cell_map(weights, write):
    path = write("count.safetensors", weights.count(rows=56))
    manifest = Manifest.parse({"input": {"cell_order": "frame_tone"}})
    model = load_model(path, manifest=manifest)
    assert (model.table.id, model.cells.n_frames, model.cells.n_tones) == ("ruview56", 20, 56)
    assert model.cells.tone_of_cell[:3].tolist() == [0, 1, 2]
    assert load_model(path).cells.tone_of_cell[:3].tolist() == [0, 0, 0]


def test_classes_come_only_from_the_manifest(weights, write):
    path = write("count.safetensors", weights.count())
    assert load_model(path).manifest.output("count_logits").class_names == ()
    stated = {"outputs": [{"name": "count_logits", "class_names": ["0", "1", "2"], "trained_classes": [0, 1]}]}
    output = load_model(path, manifest=Manifest.parse(stated)).manifest.output("count_logits")
    assert (output.class_names, output.trained_classes) == (("0", "1", "2"), (0, 1))


def test_a_bare_count_network_is_guessed_to_be_the_recorders_and_says_so(shared):
    model = load_model(shared / "real/ruview/count_v1.safetensors")
    assert model.table.id == "ruview56"
    said = [warning.split()[0] for warning in model.warnings]
    assert said == ["input.cell_order", "tones.layout", "normalisation.kind", "window.frames"]


@pytest.mark.parametrize("name", ["gone.onnx", "notes.txt"])
def test_what_is_no_model_is_refused_by_name(name, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ManifestError, match=name.replace(".", r"\.")):
        load_model(tmp_path / name)


def test_safetensors_weights_take_no_others_beside_them(shared):
    weights = shared / "real/ruview/count_v1.safetensors"
    with pytest.raises(
        ManifestError, match=r"^count_v1.safetensors: paired weights need an ONNX model, got safetensors"
    ):
        load_model(weights, weights=weights)


def test_a_manifest_takes_no_other_beside_it(folder):
    with pytest.raises(ManifestError, match=r"model.toml: expected a model file or folder beside another manifest"):
        load_model(folder / "model.toml", manifest=folder / "model.toml")


def test_an_onnx_model_takes_no_adapter(shared):
    with pytest.raises(ManifestError, match="an adapter needs safetensors weights"):
        load_model(shared / "golden/A_count/model.onnx", adapter=shared / "golden/B_pose_adapter/adapter.safetensors")


def _with_a_loss(path, outputs):
    nodes = [
        helper.make_node("ArgMin", ["x"], ["class"], axis=1, keepdims=0),
        helper.make_node("SoftmaxCrossEntropyLoss", ["x", "class"], ["loss"]),
        helper.make_node("Tanh", ["x"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy")
    info = {"y": y, "loss": helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])}
    graph = helper.make_graph(nodes, "g", [x], [info[n] for n in outputs])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_a_first_output_of_one_number_for_all_windows_is_refused(tmp_path):
    _with_a_loss(tmp_path / "loss.onnx", ["loss"])
    with pytest.raises(ManifestError, match=r'^loss\.onnx: output "loss": expected a batch axis first, got one number'):
        load_model(tmp_path / "loss.onnx")


def test_such_an_output_beside_the_first_is_refused_as_a_target_only(tmp_path):
    _with_a_loss(tmp_path / "both.onnx", ["y", "loss"])
    explainer, x = Explainer.load(tmp_path / "both.onnx"), np.ones((2, 4), np.float32)
    assert explainer.gradient(x, 1).any()
    for ask in (explainer.score, explainer.gradient):
        with pytest.raises(MethodNotApplicableError, match="output 'loss': expected a batch axis first"):
            ask(x, Target.element(0, "loss"))
