"""What could not be checked is said, as a warning where other data would have told, and as a note where none could."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer
from tonescope_server.checks import Severity
from tonescope_server.csi.tones import tone_table
from tonescope_server.demo import recording_path
from tonescope_server.reports.coverage import NOT_CHECKED, too_few_labels
from tonescope_server.reports.dataset import Dataset, Kind, read_dataset
from tonescope_server.reports.doctor import examine

FRAMES = 20


def not_checked(report):
    return [e.finding for e in report.entries if e.finding.code == NOT_CHECKED]


@pytest.fixture
def model(tmp_path):
    """Make a linear model of windows with a given manifest."""

    def make(shape, manifest):
        weight = np.random.default_rng(0).normal(0, 0.01, (int(np.prod(shape)), 3)).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [numpy_helper.from_array(weight, "w")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(made, tmp_path / "m.onnx")
        (tmp_path / "m.toml").write_text(manifest)
        return Explainer.load(tmp_path / "m.onnx", manifest=tmp_path / "m.toml")

    return make


def windows(cells):
    return Dataset("made", Kind.WINDOWS, cells=cells.astype(np.float32), node_ids=np.zeros(len(cells), np.int64))


def moving(n_tones, n=40):
    """Amplitudes that follow each other smoothly: (n, n_tones, FRAMES)."""
    walk = 20 + np.random.default_rng(1).normal(0, 0.3, (n_tones, n * FRAMES)).cumsum(axis=1)
    return walk.reshape(n_tones, n, FRAMES).transpose(1, 0, 2)


RAW = '[normalisation]\nkind = "none"\n[[outputs]]\nname = "y"\nkind = "logits"\n'
WITHOUT_NULLS = '[tones]\nlayout = "ht20_56"\n[input]\ncell_order = "tone_frame"\n' + RAW


def test_a_whole_recording_is_checked_in_all(demo_model):
    assert not_checked(examine(demo_model, read_dataset(recording_path(), demo_model))) == []


def test_a_short_recording_says_what_it_is_too_short_for(demo_model):
    whole = read_dataset(recording_path(), demo_model)
    report = examine(demo_model, replace(whole, frames=tuple(f for f in whole.frames if f.node_id == 1)[:60]))
    (found,) = not_checked(report)
    assert found.severity is report.worst is Severity.WARNING
    assert "60 frames are too few to tell drift from the training (64)" in found.message
    assert "5 windows are too few to judge the predictions together (32)" in found.message
    assert "5 windows are too few to tell which cells never carry signal (8)" in found.message


def test_few_windows_that_are_enough_for_all_but_the_predictions_are_a_note(demo_model):
    whole = read_dataset(recording_path(), demo_model)
    report = examine(demo_model, replace(whole, frames=tuple(f for f in whole.frames if f.node_id == 1)[:200]))
    (found,) = not_checked(report)
    assert found.severity is Severity.NOTE
    assert found.message.endswith("windows are too few to judge the predictions together (32)")


def test_a_layout_that_is_declared_and_has_no_nulls_is_not_asked_for(model):
    report = examine(model((56, FRAMES), WITHOUT_NULLS), windows(moving(56)))
    (found,) = not_checked(report)
    assert found.severity is report.worst is Severity.NOTE
    assert '"ht20_56" has no null tone: whether row k is its subcarrier was not checked' in found.message
    assert "LAYOUT_UNKNOWN" not in {e.finding.code for e in report.entries}
    nobody = WITHOUT_NULLS.replace("ht20_56", "unknown_56")
    assert "LAYOUT_UNKNOWN" in {
        e.finding.code for e in examine(model((56, FRAMES), nobody), windows(moving(56))).entries
    }


def test_an_order_that_neighbours_do_not_tell_is_a_warning(model):
    noise = np.random.default_rng(2).uniform(10, 20, (40, 56, FRAMES))
    found = not_checked(examine(model((56, FRAMES), WITHOUT_NULLS), windows(noise)))
    assert {each.severity for each in found} == {Severity.NOTE, Severity.WARNING}
    assert any('does not tell whether the cells lie in the order "tone_frame"' in each.message for each in found)


def test_the_order_without_nulls_comes_with_its_lines(model):
    scrambled = moving(56).transpose(0, 2, 1).reshape(-1, 56, FRAMES)
    report = examine(model((56, FRAMES), WITHOUT_NULLS), windows(scrambled))
    (entry,) = [e for e in report.entries if e.finding.code == "FRAME_MAJOR"]
    assert entry.manifest == '[input]\ncell_order = "frame_tone"'
    assert "where the model was trained on such windows" in entry.finding.remedy
    mended = model((56, FRAMES), WITHOUT_NULLS.replace("tone_frame", "frame_tone"))
    assert examine(mended, windows(scrambled)).worst is Severity.NOTE


def of_parts(order, quantity="complex", phase=""):
    return (
        f'[input]\ncell_order = "{order}"\nquantity = "{quantity}"\nshape = [2, {FRAMES}, 64]\n{phase}'
        '[tones]\nlayout = "esp_lltf"\n[window]\nframes = 20\n' + RAW
    )


def iq(n=40):
    """I and Q in the order component, frame, tone, zero on the nulls."""
    cells = np.random.default_rng(3).normal(0, 20, (n, 2, FRAMES, 64)).round()
    cells[..., tone_table("esp_lltf").null_mask] = 0
    return cells


def test_orders_of_components_that_the_zeros_do_not_tell_are_a_warning(model):
    report = examine(
        model((2, FRAMES, 64), of_parts("component_frame_tone", phase='phase = "wrapped"\n')), windows(iq())
    )
    (found,) = not_checked(report)
    assert found.severity is Severity.WARNING
    assert "cannot tell the declared order of cells from frame_component_tone" in found.message


def test_an_order_of_components_is_tried_before_it_is_given(model):
    known = model((2, FRAMES, 64), of_parts("component_tone_frame", phase='phase = "wrapped"\n'))
    report = examine(known, windows(iq()))
    (entry,) = [e for e in report.entries if e.finding.code == "FRAME_MAJOR"]
    assert entry.manifest == '[input]\ncell_order = "component_frame_tone"'
    assert entry.finding.figures["null_tone_share"] > 0.1


def test_labels_of_windows_that_are_right_and_wrong_together_may_be_too_few():
    (found,) = too_few_labels(100, 10)
    assert found.message.startswith("100 labelled windows are right and wrong 10 at a time, worth 10 (32 are needed)")
    assert too_few_labels(320, 10) == []
    assert too_few_labels(20, 10) == []  # which is said of the windows already


def test_what_labels_cannot_tell_is_said(demo_model):
    whole = read_dataset(recording_path(), demo_model)
    frames = tuple(f for f in whole.frames if f.node_id == 1)
    cells = examine(demo_model, replace(whole, frames=frames[:340])).windows.cells
    predicted = demo_model.predict(cells).class_index
    half = len(cells) // 2
    labels = np.where(np.arange(len(cells)) < half, predicted, (predicted + 1) % 4)
    data = Dataset("made", Kind.WINDOWS, cells=cells, node_ids=np.zeros(len(cells), np.int64), labels=labels)
    assert any(
        "labelled windows are right and wrong" in each.message for each in not_checked(examine(demo_model, data))
    )
