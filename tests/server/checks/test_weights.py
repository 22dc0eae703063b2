"""What a model's first layer betrays of the rows it was trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy.stats import truncnorm

from tonescope_server import Explainer
from tonescope_server.checks.weights import NULL_ROWS_TRAINED, _is_untouched, check_weights, row_weights
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.demo import store_path

NULL = tone_table("esp_lltf").null_mask


def model_with(tmp_path, weight, kind="Conv"):
    """Load a one-layer model of 64 tones by 20 frames with these weights."""
    if kind == "Conv":
        nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
        out = [None, weight.shape[0], 1]
    else:
        nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["y"])]
        out = [None, weight.shape[1]]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    manifest = tmp_path / "one.toml"
    manifest.write_text('[tones]\nlayout = "esp_lltf"\n[input]\ncell_order = "tone_frame"\n')
    return Explainer.load(path, manifest=manifest).model


def drawn(kind, seed=0):
    """Draw a layer's weights as PyTorch does, and train them a little on live rows."""
    rng = np.random.default_rng(seed)
    shape = (32, 64, 3) if kind == "Conv" else (64 * 20, 16)
    weight = rng.uniform(-1, 1, shape) / np.sqrt(192 if kind == "Conv" else 1280)
    learnt = rng.normal(0, 0.3 * weight.std(), shape)
    live = ~NULL if kind == "Conv" else np.repeat(~NULL, 20)
    mask = live[None, :, None] if kind == "Conv" else live[:, None]
    return weight, learnt, mask


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_rows_that_were_trained_without_signal_raise_nothing(tmp_path, kind):
    weight, learnt, live = drawn(kind)
    assert row_weights(model_with(tmp_path, weight, kind)) is not None
    assert check_weights(model_with(tmp_path, weight + learnt * live, kind)) == []
    decayed = np.where(live, weight + learnt, 0.2 * weight)
    assert check_weights(model_with(tmp_path, decayed, kind)) == []


FAMILIES = {
    "PyTorch's uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "Keras' and Flax' cut normal": lambda rng, n: truncnorm(-2, 2).rvs(n, random_state=rng),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_draws_of_any_initialiser_are_hardly_ever_taken_for_trained(family):
    """Two tests at a level of 0.01: of 300 draws at most 6 are expected, and more than 14 have a chance of 1e-3."""
    accused = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        accused += sum(not _is_untouched(0.03 * FAMILIES[family](rng, (n // 12, 12))) for n in (768, 2304, 12288))
    print(f"{family}: {accused} of 300 fresh draws taken for trained")
    assert accused <= 14


@pytest.mark.parametrize(("family", "learnt"), [("PyTorch's uniform", 0.3), ("Keras' and Flax' cut normal", 1.2)])
def test_what_training_leaves_on_a_fresh_draw_is_seen(family, learnt):
    """The share of the spread that is learnt, of three thousand weights; a cut normal first looks like a whole one."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights = FAMILIES[family](rng, (100, 30))
        assert not _is_untouched(weights + learnt * weights.std() * rng.laplace(0, 0.5**0.5, (100, 30)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("n_filters", "n"), [(64, 12), (128, 36), (16, 240)])
def test_a_fresh_draw_with_a_batch_normalisation_folded_in_is_hardly_ever_taken_for_trained(family, n_filters, n):
    """Each filter is scaled by its own factor. Of 40 draws more than 4 have a chance below 1e-3 at a rate of 2 %."""
    accused = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        factors = np.exp(rng.normal(0, 0.3, (n_filters, 1))) * rng.choice([-1, 1], (n_filters, 1))
        accused += not _is_untouched(factors * FAMILIES[family](rng, (n_filters, n)))
    assert accused <= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_draw_that_was_quantised_to_eight_bits_is_a_draw_still(family):
    """So many weights that the steps alone would betray them; those of binary weights are left as they are."""
    for seed in range(3):
        weights = FAMILIES[family](np.random.default_rng(seed), (256, 240))
        step = np.float32(np.abs(weights).max() / 127)
        assert _is_untouched(np.round(weights / step).astype(np.float32) * step)
    assert not _is_untouched(np.sign(weights))


def test_what_training_leaves_is_seen_behind_a_folded_batch_normalisation():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = rng.uniform(-1, 1, (64, 36)) + 0.3 * rng.laplace(0, 0.4, (64, 36))
        assert not _is_untouched(np.exp(rng.normal(0, 0.3, (64, 1))) * weights)


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_rows_that_were_trained_with_signal_are_told_with_a_p_value(tmp_path, kind):
    weight, learnt, _ = drawn(kind)
    (finding,) = check_weights(model_with(tmp_path, weight + learnt, kind))
    assert finding.code == NULL_ROWS_TRAINED
    assert finding.figures["p_value"] > 0.01
    assert finding.figures["rms_on_null_rows"] == pytest.approx(finding.figures["rms_on_live_rows"], rel=0.1)


def test_nothing_is_said_where_the_declared_rows_are_not_tones(tmp_path):
    weight, learnt, _ = drawn("Conv")
    model = model_with(tmp_path, weight + learnt, "Conv")
    scrambled = replace(model, cells=cell_map((64, 20), model.table, "frame_tone", 20))
    assert check_weights(scrambled) == []


def test_the_demos_model_was_trained_without_signal_on_its_nulls():
    assert check_weights(Explainer.load(store_path() / "people_count" / "1").model) == []


@pytest.mark.parametrize("name", ["count_v1", "count_v0.0.1", "pose_v1"])
def test_the_public_models_were_trained_with_signal_on_null_rows(shared, name):
    (finding,) = check_weights(Explainer.load(shared / "real/ruview" / f"{name}.safetensors").model)
    assert finding.figures["p_value"] > 0.1
