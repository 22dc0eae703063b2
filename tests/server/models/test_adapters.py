"""Adapters beside weights: what is said of them, word for word, is what makes a model of both."""

from __future__ import annotations

import re
import shutil

import pytest

from tonescope_server.errors import ManifestError, TensorMismatchError
from tonescope_server.models.adapters import fitting, is_adapter
from tonescope_server.models.architectures import built_in_architectures
from tonescope_server.models.loading import load_model
from tonescope_server.models.store import ModelState, ModelStore

KNOWN = built_in_architectures()


@pytest.fixture
def root(tmp_path, weights, write):
    """A folder as they lie about: two models of different architectures, and an adapter of one of them."""
    write("store/count.safetensors", weights.count())
    write("store/pose.safetensors", weights.pose())
    write('store/room "4".adapter.safetensors', weights.adapter())
    return tmp_path / "store"


def line_of(text: str) -> str:
    """Return the line of a manifest that a message gives."""
    found = re.search(r"model = \{ .* \}$", text)
    assert found is not None, text
    return found[0]


def test_of_several_weights_those_are_found_that_an_adapter_fits(root):
    files = sorted(root.iterdir())
    (adapter,) = [path for path in files if is_adapter(path, KNOWN)]
    assert adapter.name == 'room "4".adapter.safetensors'
    assert [path.name for path in fitting(adapter, files, KNOWN)] == ["pose.safetensors"]


def test_the_note_of_a_store_says_what_to_write_and_that_loads(root):
    store = ModelStore(root)
    assert {entry.name: entry.state for entry in store.list()} == dict.fromkeys(("count", "pose"), ModelState.READY)
    (note,) = store.notes
    assert note.startswith(
        'room "4".adapter.safetensors: an adapter by itself is no model; it fits pose.safetensors: for'
    )
    bare = load_model(root / "pose.safetensors")
    folder = root / "pose_in_room_4"
    folder.mkdir()
    for name in ("pose.safetensors", 'room "4".adapter.safetensors'):
        shutil.move(root / name, folder / name)
    (folder / "model.toml").write_text(line_of(note))
    store.refresh()
    assert store.notes == ()
    assert store.get("pose_in_room_4").digest != bare.digest


def test_a_folder_of_weights_and_adapter_says_what_to_write_and_that_loads(root):
    (root / "count.safetensors").unlink()
    bare = load_model(root / "pose.safetensors")
    with pytest.raises(ManifestError, match="; with an adapter: model = ") as caught:
        load_model(root)
    (root / "model.toml").write_text(line_of(str(caught.value)))
    assert load_model(root).digest != bare.digest


def test_where_no_weights_or_several_fit_the_blank_is_left_to_fill_in(root, weights, write):
    write("store/other.safetensors", weights.pose())
    (note,) = ModelStore(root).notes
    assert "; it fits other.safetensors, pose.safetensors: " in note
    assert line_of(note).startswith('model = { weights = "…", adapter = ')
    for name in ("other", "pose"):
        (root / f"{name}.safetensors").unlink()
    (note,) = ModelStore(root).notes
    assert "; it fits no weights here: " in note


def test_an_adapter_asked_for_as_a_model_is_told_as_one(root):
    with pytest.raises(TensorMismatchError) as caught:
        load_model(root / 'room "4".adapter.safetensors')
    said = "expected a model, got an adapter: load the weights it belongs to, and give it as their adapter"
    assert str(caught.value) == f'room "4".adapter.safetensors: {said}'
