"""Remedies are tried before they are given: those that help are, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.examined import dataset_of, model_of
from tests.faults import CLEAN, FAULTS, VARIANTS, declared_by
from tonescope_server import Explainer
from tonescope_server.checks.layout import Reading, declared_reading
from tonescope_server.csi.tones import tone_table
from tonescope_server.demo import recording_path, store_path
from tonescope_server.models.manifest import Manifest
from tonescope_server.reports.dataset import read_dataset
from tonescope_server.reports.doctor import examine
from tonescope_server.reports.mending import Outcome, is_clean, mend, rearranged, roll_to, rows_of

MODEL = store_path() / "people_count" / "1"
LLTF = tone_table("esp_lltf")


@pytest.fixture(scope="module")
def declared():
    stated = Manifest.load(MODEL / "model.toml").normalisation
    return declared_by(np.array(stated.mean), np.array(stated.std))


def examined(make, declared, demo_model, seed=0):
    stream = make(seed, declared)
    return examine(model_of(demo_model, stream), dataset_of(stream)), model_of(demo_model, stream), dataset_of(stream)


def only(report):
    (entry, *again) = [e for e in report.entries if e.finding.severity == "fault"]
    assert {e.finding.code for e in again} <= {entry.finding.code}
    return entry


def test_rows_are_found_by_their_subcarrier():
    shifted = Reading("tone_frame", "esp_lltf_secondary", 64, 20)
    assert roll_to(rows_of(shifted, LLTF)) == -32
    rolled = Reading("tone_frame", "esp_lltf", 64, 20, rolled=3)
    assert roll_to(rows_of(rolled, LLTF)) == -3
    frame = np.roll(np.arange(64), 3)
    np.testing.assert_array_equal(np.roll(frame, -3), np.arange(64))
    assert rows_of(Reading("tone_frame", "esp_lltf", 64, 20, header_rows=6), LLTF) is None  # six tones are lost
    assert rows_of(Reading("tone_frame", "esp192_stbc", 192, 20), tone_table("esp192_ht40")) is None
    assert roll_to(np.array([0, 2, 1])) is None


def test_an_order_of_rows_that_statistics_do_not_fit_is_put_right_in_the_frames(declared, demo_model):
    report, model, data = examined(VARIANTS["LAYOUT_MISMATCH"]["another layout"], declared, demo_model)
    entry = only(report)
    assert entry.manifest == ""  # declared, the statistics of the training would be given to the wrong rows
    assert "np.roll(x, -32, axis=…)" in entry.finding.remedy
    mended = replace(data, frames=tuple(replace(f, values=np.roll(f.values, -32)) for f in data.frames))
    assert examine(model, mended).entries == ()


def test_what_was_normalised_before_it_was_laid_out_is_to_be_normalised_anew(declared, demo_model):
    report, model, data = examined(VARIANTS["TONES_ROLLED"]["rolled, normalised"], declared, demo_model)
    assert "but do so before the amplitudes are normalised" in only(report).finding.remedy
    back = replace(data, cells=np.roll(data.cells, -1, axis=1))
    assert only(examine(model, back)).finding.code == "WRONG_NORMALISATION"  # rolled back and no more, it does not help
    right = examined(FAULTS["FRAME_MAJOR"], declared, demo_model)[0]
    assert "before the amplitudes are normalised" not in only(right).finding.remedy


@pytest.mark.parametrize("layout", ["esp_c6_64", "esp_ht20"])
def test_every_line_that_is_given_helps(tmp_path, layout):
    (tmp_path / "people_count.safetensors").write_bytes((MODEL / "people_count.safetensors").read_bytes())
    text = (MODEL / "model.toml").read_text()
    (tmp_path / "model.toml").write_text(text.replace('"esp_lltf"', f'"{layout}"'))
    wrong = Explainer.load(tmp_path)
    entry = only(examine(wrong, read_dataset(recording_path(), wrong)))
    assert entry.manifest == '[tones]\nlayout = "esp_lltf"'
    (tmp_path / "model.toml").write_text(text)
    right = Explainer.load(tmp_path)
    assert examine(right, read_dataset(recording_path(), right)).entries == ()


def test_of_mixed_training_fields_no_reading_is_named(declared, demo_model):
    report = examined(FAULTS["MIXED_TRAINING_FIELDS"], declared, demo_model)[0]
    assert only(report).manifest == ""
    assert report.best is None
    assert "esp_ht20" not in only(report).finding.remedy


def test_a_remedy_that_leaves_a_fault_is_not_clean():
    assert is_clean(Outcome(0.0))
    assert is_clean(Outcome(None))
    assert not is_clean(Outcome(0.2))
    assert not is_clean(Outcome(0.0, ("WRONG_NORMALISATION",)))
    assert not is_clean(None)
    assert str(Outcome(0.2, ("X",))) == "on null tones then: 20.0%, X"


@pytest.mark.parametrize("kind", CLEAN)
def test_what_lies_as_declared_is_left_as_it_is(declared, demo_model, kind):
    data = dataset_of(CLEAN[kind](0, declared))
    same = rearranged(data, declared_reading(demo_model.model.cells), demo_model.model)
    if data.cells is None:
        np.testing.assert_array_equal(same.frames[5].values, data.frames[5].values)
    else:
        np.testing.assert_array_equal(same.cells, data.cells)


def test_all_three_remedies_are_tried(declared, demo_model):
    report, model, data = examined(VARIANTS["FRAME_MAJOR"]["frame-major, normalised"], declared, demo_model)
    tried = mend(model, data, "", 0, report.trial.best)
    assert tried.declared.faults == tried.rearranged.faults == ("WRONG_NORMALISATION",)
    assert tried.declared.share > 0.3
    assert tried.anew.is_clean
