from __future__ import annotations

import os
import shutil
import threading

import pytest

from tonescope_server.errors import (
    ConfigurationError,
    CorruptWeightsError,
    ParameterError,
    StorePathError,
    UnknownModelError,
)
from tonescope_server.models.store import ModelState, ModelStore


@pytest.fixture
def root(tmp_path, weights, write):
    """count in versions 1.9 and 1.10, pose flat with its adapter, mlp as a bare file, and an adapter on its own."""
    write("store/count/1.9/w.safetensors", weights.count())
    write("store/count/1.10/w.safetensors", weights.count())
    write("store/pose/pose.safetensors", weights.pose())
    write("store/pose/room.safetensors", weights.adapter())
    (tmp_path / "store/pose/model.toml").write_text(
        '[model]\nweights = "pose.safetensors"\nadapter = "room.safetensors"\ndescription = "joints"\n'
    )
    write("store/mlp.safetensors", weights.residual())
    write("store/room.safetensors", weights.adapter())
    (tmp_path / "store/README.txt").write_text("not a model")
    return tmp_path / "store"


def test_all_three_places_are_found(root):
    entries = ModelStore(root).list()
    assert [(e.name, e.version, e.state) for e in entries] == [
        ("count", "1.9", ModelState.READY),
        ("count", "1.10", ModelState.READY),
        ("mlp", "1", ModelState.READY),
        ("pose", "1", ModelState.READY),
    ]
    assert entries[3].description == "joints"
    assert all(len(entry.digest) == 64 for entry in entries)


def test_a_model_goes_by_the_name_of_its_place(root):
    model = ModelStore(root).get("count", "1.9")
    assert (model.name, model.version, model.manifest.model.version) == ("count", "1.9", "1.9")


def test_a_manifest_that_names_another_place_is_warned_of(root):
    toml = root / "pose/model.toml"
    toml.write_text(toml.read_text() + 'name = "joints"\n')
    model = ModelStore(root).get("pose")
    assert model.name == "pose"
    assert any('model.name is "joints"' in warning for warning in model.warnings)


def test_no_version_means_the_newest_in_natural_order(root):
    assert ModelStore(root).get("count").version == "1.10"


def test_words_are_older_than_numbers(root):
    (root / "count/latest").mkdir()
    shutil.copy(root / "count/1.9/w.safetensors", root / "count/latest/w.safetensors")
    assert ModelStore(root).get("count").version == "1.10"


def test_an_adapter_by_itself_is_passed_over_with_a_note(root):
    store = ModelStore(root)
    assert "room" not in {entry.name for entry in store.list()}
    assert any(note.startswith("room.safetensors: an adapter") for note in store.notes)


def test_a_broken_model_is_listed_with_its_reason_and_disturbs_no_other(root):
    path = root / "count/1.10/w.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (root / "junk.onnx").write_bytes(b"junk")
    store = ModelStore(root)
    states = {(e.name, e.version): e for e in store.list()}
    assert states["count", "1.10"].state is ModelState.FAILED
    assert "not a whole safetensors file" in states["count", "1.10"].failure
    assert "not an ONNX model" in states["junk", "1"].failure
    assert [e.state for k, e in states.items() if k[0] in ("pose", "mlp")] == [ModelState.READY] * 2
    assert store.get("count", "1.9").version == "1.9"
    for _ in range(2):
        with pytest.raises(CorruptWeightsError, match="not a whole safetensors file"):
            store.get("count")


@pytest.mark.parametrize(
    "name", [".", "..", "../pose", "a/b", "/etc/passwd", "..\\pose", "C:evil", "po\0se", "x" * 300]
)
def test_a_name_that_would_leave_the_store_is_refused(name, root):
    store = ModelStore(root)
    for ask in (store.get, store.load, store.unload):
        with pytest.raises(StorePathError, match="model name: expected a plain name, got"):
            ask(name)
    with pytest.raises(StorePathError, match="model version: expected a plain name"):
        store.get("count", name)


def test_no_name_is_a_name_missing_and_no_way_out_of_the_store(root):
    store = ModelStore(root)
    for ask in (store.get, store.load, store.unload):
        with pytest.raises(ParameterError, match=r"^model name: expected one, got none$"):
            ask("")


@pytest.mark.parametrize("kind", ["folder", "version", "file", "bare", "adapter"])
def test_a_link_that_leaves_the_store_is_refused(kind, root, tmp_path, weights, write):
    outside = write("elsewhere/w.safetensors", weights.count())
    if kind == "folder":
        (root / "evil").symlink_to(outside.parent)
    elif kind == "version":
        (root / "evil").mkdir()
        (root / "evil/1").symlink_to(outside.parent)
    elif kind == "bare":
        (root / "evil.safetensors").symlink_to(outside)
    else:
        (root / "evil").mkdir()
        shutil.copy(root / "pose/pose.safetensors", root / "evil/w.safetensors")
        target = root / ("evil/room.safetensors" if kind == "adapter" else "evil/model.toml")
        target.symlink_to(outside)
    store = ModelStore(root)
    with pytest.raises(StorePathError, match=r'model "evil": .*: a link that leaves the store'):
        store.get("evil")
    assert {e.name: e.state for e in store.list()}["evil"] is ModelState.FAILED


def test_a_link_inside_the_store_is_followed(root):
    (root / "count/stable").symlink_to(root / "count/1.9")
    assert ModelStore(root).get("count", "stable").version == "stable"


def test_an_unknown_model_is_answered_with_those_there_are(root):
    with pytest.raises(UnknownModelError, match=r'no model "cuont" \(there are: count, mlp, pose\)'):
        ModelStore(root).get("cuont")
    with pytest.raises(UnknownModelError, match=r'model "count": no version "2" \(there are: 1\.9, 1\.10\)'):
        ModelStore(root).get("count", "2")


def test_a_model_is_loaded_once_and_unloaded_on_request(root):
    store = ModelStore(root)
    first = store.get("mlp")
    assert store.get("mlp") is first
    assert store.unload("mlp").state is ModelState.UNLOADED
    assert {e.name: e.state for e in store.list()}["mlp"] is ModelState.UNLOADED
    again = store.get("mlp")
    assert again is not first
    assert store.load("mlp") is not again


def test_threads_that_ask_at_once_get_the_same_model(root):
    store, found = ModelStore(root), []
    start = threading.Barrier(8)

    def ask():
        start.wait()
        found.append(store.get("count"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(model) for model in found}) == 1


def test_refresh_finds_what_came_went_and_changed(root, weights, write):
    store = ModelStore(root)
    kept, changed = store.get("pose"), store.get("mlp")
    write("store/new.safetensors", weights.count())
    shutil.rmtree(root / "count/1.10")
    write("store/mlp.safetensors", weights.residual())
    os.utime(root / "mlp.safetensors", ns=(1, 1))
    assert store.refresh() == (("count", "1.10"), ("mlp", "1"), ("new", "1"))
    assert store.get("pose") is kept
    assert store.get("mlp") is not changed
    assert store.get("count").version == "1.9"
    assert store.get("new").name == "new"


def test_a_repaired_model_is_tried_again_after_a_refresh(root, weights, write):
    path = root / "mlp.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    store = ModelStore(root)
    with pytest.raises(CorruptWeightsError):
        store.get("mlp")
    path.write_bytes(good)
    store.refresh()
    assert store.get("mlp").name == "mlp"


def test_a_graph_whose_weights_are_missing_is_paired_with_the_file_of_its_name(shared, tmp_path):
    for name in ("count_v1.onnx", "count_v1.safetensors", "pose_v1.onnx"):
        shutil.copyfile(shared / "real/ruview" / name, tmp_path / name)
    store = ModelStore(tmp_path)
    assert any("paired with count_v1.safetensors" in warning for warning in store.get("count_v1").warnings)
    states = {e.name: e for e in store.list()}
    assert "pose_v1.onnx.data is missing" in states["pose_v1"].failure


def test_a_whole_graph_needs_no_file_of_its_name(shared, tmp_path):
    for suffix in ("onnx", "safetensors"):
        shutil.copyfile(shared / f"golden/A_count/model.{suffix}", tmp_path / f"model.{suffix}")
    model = ModelStore(tmp_path).get("model")
    assert model.warnings[0] == "model.safetensors is not used: model.onnx holds its weights itself"


def test_a_store_that_is_not_there_is_a_configuration_fault(tmp_path):
    with pytest.raises(ConfigurationError, match=r"model store .*gone: cannot be read"):
        ModelStore(tmp_path / "gone")


def test_an_empty_store_is_a_store(tmp_path):
    assert ModelStore(tmp_path).list() == []


def test_a_folder_that_holds_no_model_is_passed_over(root):
    (root / "notes").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden/w.safetensors").write_bytes(b"")
    assert {e.name for e in ModelStore(root).list()} == {"count", "mlp", "pose"}
