"""``docs/manifest.md`` against the parser: every key, its default, its example, and whole manifests that load."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tonescope_server.csi.tones import tone_layouts, tone_table
from tonescope_server.models.architectures import built_in_architectures
from tonescope_server.models.loading import load_model
from tonescope_server.models.manifest import Manifest, OutputSection

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
SECTIONS = {
    name: OutputSection if name == "outputs" else field.annotation for name, field in Manifest.model_fields.items()
}
EXAMPLES = dict(re.findall(r"^```toml (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def rows(section: str) -> dict[str, list[str]]:
    """Return the cells of a section's table by key: meaning, unit, default, example."""
    heading = rf"^## `\[{re.escape(section)}\]`$" if section != "outputs" else r"^## `\[\[outputs\]\]`$"
    parts = re.split(heading, PAGE, flags=re.MULTILINE)
    assert len(parts) == 2, f"expected one heading for {section}"
    text = parts[1].partition("\n## ")[0]
    table = [[cell.strip() for cell in line.split(" |")] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].removeprefix("| ").strip("`"): cells[1:5] for cells in table}


ROWS = [(section, key, *cells) for section in SECTIONS for key, cells in rows(section).items()]
by_key = pytest.mark.parametrize(
    ("section", "key", "meaning", "unit", "default", "example"), ROWS, ids=[f"{row[0]}.{row[1]}" for row in ROWS]
)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_keys_of_a_table_are_those_that_the_parser_knows_in_its_order(section: str) -> None:
    assert list(rows(section)) == list(SECTIONS[section].model_fields)


@by_key
def test_the_default_of_a_key_is_the_parsers(
    section: str, key: str, meaning: str, unit: str, default: str, example: str
) -> None:
    field = SECTIONS[section].model_fields[key]
    assert meaning
    if field.is_required():
        assert default == "required"
        return
    stated = re.match(r"`([^`]*)`", default)
    assert stated is not None, default
    value = tomllib.loads(f"x = {stated[1]}")["x"]
    assert (tuple(value) if isinstance(value, list) else value) == field.default
    assert type(value) is (list if isinstance(field.default, tuple) else type(field.default))


@by_key
def test_the_example_of_a_key_is_taken_and_is_not_the_default(
    section: str, key: str, meaning: str, unit: str, default: str, example: str
) -> None:
    model, field = SECTIONS[section], SECTIONS[section].model_fields[key]
    if example == "see the first example below":
        found = getattr(getattr(Manifest.parse(tomllib.loads(EXAMPLES["count"])), section), key)
    else:
        example, _, axis = example.partition(", with ")
        stated = tomllib.loads(example.strip("`"))
        assert list(stated) == [key]
        needed = {"name": "y"} if section == "outputs" else {}
        if axis:  # what the cells have several of must be an axis of theirs
            needed = {"cell_order": f"{axis.split('`')[1]}_tone_frame"}
        found = getattr(model.model_validate({**needed, **stated}), key)
    assert found != field.default


def test_the_layouts_and_architectures_listed_are_those_there_are() -> None:
    listed = PAGE.partition("Layouts, with their number of tones:")[2].partition("\n\n")[0]
    named: dict[str, int] = {}
    for name, size, more in re.findall(r"`(\w+)`\s(\d+)((?:\s\([^)]*\))?)", listed):
        named |= {name + suffix: int(size) for suffix in ["", *re.findall(r"`(\w+)`", more)]}
    assert named == {layout: len(tone_table(layout)) for layout in tone_layouts()}
    architectures = rows("model")["architecture"][0]
    assert set(re.findall(r"`(\w+)`", architectures)) == set(built_in_architectures())


def test_the_smallest_manifest_leaves_nothing_to_guess() -> None:
    stated = Manifest.parse(tomllib.loads(EXAMPLES["smallest"]))
    assert stated.infer(shape=(64, 20), outputs={"logits": "Gemm"})[1] == ()


def test_the_count_network_states_every_key_there_is_but_those_that_it_needs_not() -> None:
    stated = tomllib.loads(EXAMPLES["count"])
    no_signal = [row for row, mean in enumerate(stated["normalisation"]["mean"]) if mean == 0]
    assert no_signal == np.flatnonzero(tone_table(stated["tones"]["layout"]).null_mask).tolist()
    stated["outputs"] = stated["outputs"][0]
    unstated = {f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields.keys() - stated[name]}
    assert unstated == {
        *("model.version", "model.adapter", "model.sha256", "baseline.value", "training.data_sha256"),
        *("baseline.dataset_mean", "baseline.empty_room", "baseline.background"),
        *("input.feature_names", "input.phase", "input.links", "tones.secondary", "tones.centre_mhz"),
    }


@pytest.fixture
def write_count(weights, write):
    heads = [("count_head.fc1", 4, 8), ("count_head.fc2", 8, 8), ("conf_head.fc1", 4, 9), ("conf_head.fc2", 9, 1)]
    tensors = weights.encoder(56)
    for head in heads:
        tensors |= weights.linear(*head)
    return lambda: write("count_v1.safetensors", tensors)


@pytest.fixture
def write_image(save_onnx):
    tensors = {"w": np.ones((1920, 4), np.float32)}
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return lambda: save_onnx("activity.onnx", nodes, tensors, shape=("batch", 1, 30, 64))


@pytest.fixture
def write_adapter(weights, write):
    def make():
        write("pose_v1.safetensors", weights.pose(56))
        write("room_4.safetensors", weights.adapter())

    return make


@pytest.mark.parametrize(
    ("example", "shape", "layout"),
    [("count", (56, 20), "ruview56"), ("image", (1, 30, 64), "intel5300_ht20"), ("adapter", (56, 20), "ruview56")],
)
def test_a_whole_manifest_loads_beside_its_weights_without_a_guess(
    example: str, shape: tuple[int, ...], layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.getfixturevalue(f"write_{example}")()
    (tmp_path / "model.toml").write_text(EXAMPLES[example], encoding="utf-8")
    model = load_model(tmp_path)
    assert model.warnings == ()
    assert (model.input.shape[1:], model.table.id) == (shape, layout)


def test_no_example_is_missed() -> None:
    assert set(EXAMPLES) == {"smallest", "count", "image", "adapter"}
    assert PAGE.count("```toml") == len(EXAMPLES)
