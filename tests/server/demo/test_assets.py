"""The bundled model and recording: that they are what docs/demo.md says they are.

That training gives the same bytes twice is not run here (it needs jax); docs/demo.md records how it was checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from tonescope_server import Explainer
from tonescope_server.demo import PLANTED_ROWS, recording_path, store_path
from tonescope_server.demo.recording import DEMO_SCENE, demo_recording, recording_lines, steady_windows
from tonescope_server.demo.simulator import NULL_ROWS, Scene, simulate
from tonescope_server.models.manifest import Manifest
from tonescope_server.types import Target

MODEL = store_path() / "people_count" / "1"
STATED_ACCURACY = 0.99
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    inputs: FloatArray  # (n, 64, 20)
    people: npt.NDArray[np.int64]


def _windows(scenes: list[Scene]) -> Windows:
    captures = [capture for scene in scenes for capture in simulate(scene)]
    amplitudes, people = steady_windows(captures, n_frames=20, hop=10)
    statistics = Manifest.load(MODEL / "model.toml").normalisation
    z = (amplitudes - np.float32(statistics.mean)) / (np.float32(statistics.std) + np.float32(statistics.eps))
    return Windows(np.ascontiguousarray(z.transpose(0, 2, 1), dtype=np.float32), people)


@pytest.fixture(scope="module")
def held_out() -> Windows:
    """Scenes that training never saw, of a shape that it never saw either: counts in order, five seconds each."""
    return _windows([Scene(tuple((5.0, n) for n in (0, 1, 2, 3)), seed=700_000 + i) for i in range(20)])


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.load("people_count", store=store_path())


def _planted(tones: FloatArray, k: int = 8) -> int:
    ranking = np.argsort(-np.abs(tones).mean(axis=0))
    return len({int(row) for row in ranking[:k]} & set(PLANTED_ROWS))


def _count_logits(tensors: dict[str, FloatArray], inputs: FloatArray) -> FloatArray:
    """The forward pass, written out: what the product's graph of these weights must compute."""
    hidden = inputs
    for layer, dilation in ((1, 1), (2, 2), (3, 4)):
        weight, bias = tensors[f"enc.c{layer}.weight"], tensors[f"enc.c{layer}.bias"]
        padded = np.pad(hidden, ((0, 0), (0, 0), (dilation, dilation)))
        taps = [padded[:, :, tap * dilation : tap * dilation + hidden.shape[2]] for tap in range(3)]
        summed = sum(np.einsum("oi,nit->not", weight[:, :, tap], taps[tap], optimize=True) for tap in range(3))
        hidden = np.maximum(summed + bias[:, None], 0.0)
    features = hidden.mean(axis=2)
    first = features @ tensors["count_head.fc1.weight"].T + tensors["count_head.fc1.bias"]
    return np.asarray(np.maximum(first, 0.0) @ tensors["count_head.fc2.weight"].T + tensors["count_head.fc2.bias"])


def test_the_bundled_recording_is_what_the_simulator_writes_today() -> None:
    assert recording_path().read_bytes() == demo_recording()


def test_the_recording_has_two_nodes_in_order_of_time_and_nulls_that_are_zero() -> None:
    lines = [json.loads(line) for line in recording_lines(simulate(DEMO_SCENE))]
    assert {line["node_id"] for line in lines} == {1, 2}
    assert np.all(np.diff([line["timestamp"] for line in lines]) > 0)
    iq = np.array([np.frombuffer(bytes.fromhex(line["iq_hex"]), np.int8) for line in lines]).reshape(-1, 64, 2)
    assert not iq[:, list(NULL_ROWS)].any()
    assert all(line["size"] == 20 + iq.shape[1] * 2 for line in lines)


def test_the_assets_together_stay_below_one_megabyte() -> None:
    files = [recording_path(), *(path for path in store_path().rglob("*") if path.is_file())]
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= 1_000_000


def test_the_manifest_names_the_sha256_of_the_weights_beside_it() -> None:
    manifest = Manifest.load(MODEL / "model.toml")
    assert hashlib.sha256((MODEL / manifest.model.weights).read_bytes()).hexdigest() == manifest.model.sha256


def test_the_bundled_model_counts_as_well_as_stated_in_scenes_it_never_saw(held_out: Windows) -> None:
    logits = _count_logits(load_file(MODEL / "people_count.safetensors"), held_out.inputs)
    assert (logits.argmax(axis=1) == held_out.people).mean() >= STATED_ACCURACY


def test_the_product_predicts_what_the_written_out_forward_pass_does(held_out: Windows, explainer: Explainer) -> None:
    inputs = held_out.inputs[:64]
    expected = _count_logits(load_file(MODEL / "people_count.safetensors"), inputs)
    # float32 sums of a few hundred terms, in another order
    np.testing.assert_allclose(explainer.predict(inputs).scores, expected, atol=2e-4)


def test_the_model_loads_without_a_guess(explainer: Explainer) -> None:
    assert explainer.model.warnings == ()
    assert explainer.model.table.id == "esp_lltf"


@pytest.mark.parametrize("method", ["subcarrier_saliency", "integrated_gradients", "input_x_gradient"])
def test_the_eight_tones_that_matter_most_are_planted(method: str, held_out: Windows, explainer: Explainer) -> None:
    target = Target.negative_log_likelihood() if method == "subcarrier_saliency" else Target.predicted()
    result = explainer.explain(held_out.inputs, method=method, target=target)
    assert _planted(result.tones) == 8
    assert result.null_tone_share is not None
    assert float(result.null_tone_share.max()) == 0.0


def test_the_recording_shows_the_planted_tones_too(explainer: Explainer) -> None:
    windows = _windows([DEMO_SCENE])
    assert (np.asarray(explainer.predict(windows.inputs).class_index) == windows.people).mean() >= STATED_ACCURACY
    result = explainer.explain(windows.inputs, method="subcarrier_saliency", target=Target.negative_log_likelihood())
    assert _planted(result.tones) == 8
