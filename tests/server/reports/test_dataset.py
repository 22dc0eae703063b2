"""One interface to recordings, paired files and arrays: cells as they lie, windows as the daemon cuts them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.cli.recordings import open_file, windows_of
from tonescope_server.csi.cells import cell_map
from tonescope_server.demo import recording_path, store_path
from tonescope_server.errors import (
    DtypeError,
    EmptyRecordingError,
    NonFiniteError,
    ParameterError,
    RecordingError,
    ShapeError,
)
from tonescope_server.reports.dataset import Kind, cut_windows, need_windows, read_dataset


@pytest.fixture(scope="module")
def demo():
    return Explainer.load("people_count", store=store_path())


@pytest.fixture
def tiny(tiny_store):
    return Explainer.load("tiny", store=tiny_store)


@pytest.fixture
def cells():
    return np.random.default_rng(4).uniform(1, 30, (6, 56, 4)).astype(np.float32)


def paired(tmp_path, cells, **more):
    path = tmp_path / "paired.jsonl"
    records = [{"csi": w.ravel().tolist(), "csi_shape": list(w.shape), **more} for w in cells]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("normalise", ["", "none", "manifest", "recording", "running"])
@pytest.mark.parametrize("hop", [0, 7])
def test_a_recording_is_cut_and_normalised_bit_for_bit_as_the_daemon_does_it(demo, normalise, hop):
    windows = cut_windows(read_dataset(recording_path(), demo), demo, normalise, hop)
    jobs = windows_of(open_file(recording_path(), demo.host), demo.model, demo.host, normalise, hop)[0]
    assert windows.cells.tobytes() == np.concatenate([job.cells for job in jobs]).tobytes()
    assert windows.node_ids.tolist() == [job.node_id for job in jobs]
    assert windows.normalisation == jobs[0].normalisation


def test_the_cells_of_an_array_are_as_they_lie(tiny, cells, tmp_path):
    np.savez(tmp_path / "w.npz", windows=cells, labels=np.arange(6), node_ids=np.array([1, 1, 1, 2, 2, 2]))
    data = read_dataset(tmp_path / "w.npz", tiny)
    assert data.kind is Kind.WINDOWS
    assert data.cells.tobytes() == cells.tobytes()
    windows = cut_windows(data, tiny)
    assert windows.cells.tobytes() == cells.tobytes()
    assert (windows.labels.tolist(), windows.node_ids.tolist()) == ([0, 1, 2, 3, 4, 5], [1, 1, 1, 2, 2, 2])
    assert windows.normalisation == "none"


def test_the_cells_of_a_paired_file_are_as_they_lie_whatever_its_zeros_say(tiny, cells, tmp_path):
    scrambled = cells.copy()
    scrambled.reshape(6, 4, 56)[:, :, tiny.model.table.null_mask] = 0
    data = read_dataset(paired(tmp_path, scrambled, n_persons_mode=2), tiny)
    assert data.kind is Kind.PAIRED
    np.testing.assert_allclose(data.cells, scrambled, rtol=1e-6)  # through decimal text
    assert data.labels.tolist() == [2] * 6


def test_rows_are_normalised_by_the_order_that_is_asked_for(tiny, cells, tmp_path):
    np.save(tmp_path / "w.npy", cells)
    data = read_dataset(tmp_path / "w.npy", tiny)
    for order in ("tone_frame", "frame_tone"):
        model_cells = tiny.model.cells
        other = cell_map(model_cells.shape, model_cells.table, order, model_cells.n_frames)
        frames = other.frames(cut_windows(data, tiny, "recording", cells=other).cells).reshape(-1, 56)
        # 24 values a tone in float32: mean and spread are right to about 1e-6.
        np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-5)


def test_each_node_has_statistics_of_its_own(tiny, cells, tmp_path):
    cells[3:] *= 100
    np.savez(tmp_path / "w.npz", windows=cells, node_ids=np.array([1, 1, 1, 2, 2, 2]))
    windows = cut_windows(read_dataset(tmp_path / "w.npz", tiny), tiny, "recording")
    for node in (1, 2):
        assert windows.cells[windows.node_ids == node].std() == pytest.approx(1, abs=1e-5)


def test_windows_whose_axes_are_the_other_way_round_are_kept_so_and_turned_for_the_model(tiny, cells, tmp_path):
    np.save(tmp_path / "w.npy", np.ascontiguousarray(cells.transpose(0, 2, 1)))
    data = read_dataset(tmp_path / "w.npy", tiny)
    assert data.cells.shape == (6, 4, 56)
    assert cut_windows(data, tiny).cells.tobytes() == cells.tobytes()


def test_windows_that_are_normalised_already_are_not_normalised_again(demo, tmp_path):
    z = np.random.default_rng(1).standard_normal((4, 64, 20)).astype(np.float32)
    data = read_dataset(paired(tmp_path, z), demo)
    assert not data.is_raw
    assert cut_windows(data, demo).normalisation == "none"
    raw = read_dataset(paired(tmp_path, np.abs(z)), demo)
    assert cut_windows(raw, demo).normalisation == "manifest"


@pytest.mark.parametrize(
    ("arrays", "error", "said"),
    [
        ({"windows": np.zeros((3, 56, 5))}, ShapeError, r"expected \(batch, 56, 4\), got \(3, 56, 5\)"),
        ({"windows": np.zeros((0, 56, 4))}, ShapeError, r"got \(0, 56, 4\)"),
        ({"windows": np.full((3, 56, 4), np.nan)}, NonFiniteError, "window 0"),
        ({"windows": np.full((3, 4, 56), np.inf)}, NonFiniteError, "window 0"),
        ({"windows": np.zeros((3, 56, 4), complex)}, DtypeError, "complex128"),
        ({"windows": np.zeros((3, 56, 4)), "labels": np.zeros(2, int)}, ShapeError, "one for each of 3 windows"),
        ({"windows": np.zeros((3, 56, 4)), "labels": np.zeros(3)}, DtypeError, "'labels': expected integers"),
        ({"one": np.zeros(3), "two": np.zeros(3)}, RecordingError, "expected an array 'windows' or 'x', got one, two"),
    ],
)
def test_an_array_that_is_not_the_models_is_refused(tiny, tmp_path, arrays, error, said):
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(error, match=said):
        read_dataset(tmp_path / "w.npz", tiny)


def test_a_paired_file_of_another_length_is_refused(tiny, tmp_path):
    with pytest.raises(RecordingError, match=r"paired.jsonl:1: csi_shape: expected \[56, 4\] for .* got \[56, 20\]"):
        read_dataset(paired(tmp_path, np.ones((2, 56, 20))), tiny)


def test_an_unknown_normaliser_is_refused_with_those_there_are(tiny, cells, tmp_path):
    np.save(tmp_path / "w.npy", cells)
    with pytest.raises(ParameterError, match="normalisation 'tea': unknown, expected one of"):
        cut_windows(read_dataset(tmp_path / "w.npy", tiny), tiny, "tea")


def test_too_few_frames_make_no_window_and_the_refusal_counts_what_there_was(tiny, tmp_path):
    path = tmp_path / "short.csi.jsonl"
    lengths = (56, 56, 64, 128)
    path.write_text("".join(json.dumps({"subcarriers": [1.0] * n, "timestamp": 1.0}) + "\n" for n in lengths))
    data = read_dataset(path, tiny)
    windows = cut_windows(data, tiny)
    assert len(windows) == 0
    assert windows.cells.shape == (0, 56, 4)
    with pytest.raises(EmptyRecordingError, match=r"run of 4 frames of 56 tones .* \(skipped: 1 length_128\)"):
        need_windows(data, windows, tiny.model)
