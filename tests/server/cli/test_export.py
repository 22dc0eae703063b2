from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.exporting import SAME_KERNELS, off, on_runtime
from tonescope_server import Explainer
from tonescope_server.demo import store_path
from tonescope_server.testing import tiny_windows


@pytest.fixture(scope="module")
def people_count():
    return Explainer.load("people_count", store=store_path())


def test_what_is_written_gives_what_explain_gives(run, tmp_path, people_count):
    path = tmp_path / "made" / "out.onnx"
    ran = run(
        "export", "people_count", "--method", "integrated_gradients", "-p", "n_steps=8", "--target", 2, "-o", path
    )
    assert (ran.code, ran.err) == (0, "")
    assert f"{path}: " in ran.out
    assert "10 model evaluations a window" in ran.out
    assert "output tones: attribution per row of the tone table, (batch, tones)" in ran.out
    x = tiny_windows(people_count.model, 3)
    want = people_count.explain(x, "integrated_gradients", 2, n_steps=8)
    assert off(on_runtime(onnx.load(path), csi_window=x), want) <= SAME_KERNELS


def test_inspect_says_what_an_exported_graph_is(run, tmp_path, people_count):
    path = tmp_path / "out.onnx"
    assert run("export", "people_count", "--method", "lrp", "--target", "difference:1,0", "-o", path).code == 0
    said = run("inspect", path).out
    assert "lrp of model people_count/1" in said
    assert people_count.model.digest in said
    assert "target: element 1 of count_logits less element 0 of count_logits, rule set lrp" in said
    assert "tone table esp_lltf (verified): 64 tones: 12 null, 48 data, 4 pilot" in said
    found = run("inspect", path, "--json").json
    assert found["is"] == "an exported graph"
    assert found["method"] == "lrp"
    assert found["parameters"]["preset"] == "epsilon_gamma"
    assert len(found["tone_table"]["rows"]) == 64


def test_inputs_are_left_open_as_asked(run, tmp_path):
    def inputs(*options):
        path = tmp_path / "out.onnx"
        assert (
            run("export", "people_count", "--method", "smoothgrad", "-p", "n=4", "-o", path, "--force", *options).code
            == 0
        )
        return [i.name for i in onnx.load(path).graph.input]

    assert inputs() == ["csi_window", "noise"]
    assert inputs("--input", "none") == ["csi_window"]


def test_plain_forms_are_asked_for(run, tmp_path):
    kinds = []
    for options in ((), ("--plain",)):
        path = tmp_path / f"out{len(options)}.onnx"
        assert run("export", "people_count", "-o", path, *options).code == 0
        kinds.append({node.op_type for node in onnx.load(path).graph.node})
    assert "HardSigmoid" in kinds[0] - kinds[1]


def test_a_file_that_is_there_is_replaced_only_when_told_to(run, refused, tmp_path):
    path = tmp_path / "out.onnx"
    path.write_text("precious")
    assert "is there already; --force replaces it" in refused("export", "people_count", "-o", path)
    assert path.read_text() == "precious"
    assert run("export", "people_count", "-o", path, "--force").code == 0
    assert np.array_equal(onnx.load(path).opset_import[0].version, 18)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("people_count", "--method", "nonsense"), "nonsense"),
        (("people_count", "--method", "occlusion"), "method 'occlusion' cannot be exported: it asks the model"),
        (("people_count", "-p", "n_steps=3"), "method 'input_x_gradient' has no parameter 'n_steps'"),
        (("people_count", "--method", "integrated_gradients", "-p", "n_steps=1"), "greater than or equal to 2"),
        (("people_count", "--target", "9"), "expected an index from 0 to 3, got 9"),
        (("people_count", "--input", "noise"), "has no input 'noise' to leave open; it has none"),
        (("nothing_here",), "nothing_here"),
    ],
)
def test_what_cannot_be_exported_is_one_line(refused, tmp_path, arguments, said):
    assert said in refused("export", *arguments, "-o", tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_one_line(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("export", "people_count", "-o", tmp_path / "file" / "out.onnx")
    assert "--out: expected an .onnx file, got" in refused("export", "people_count", "-o", tmp_path / "out.txt")
