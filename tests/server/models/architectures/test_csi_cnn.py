"""The count and pose networks against a forward pass written out slowly."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from tonescope_server.errors import CorruptWeightsError, TensorMismatchError
from tonescope_server.models.architectures.csi_cnn import CountNet, PoseNet
from tonescope_server.models.loading import load_model

# Float32 sums of at most 384 products against float64 ones.
TOLERANCE = 1e-5


def conv1d(x, weight, bias, dilation):
    """Convolve one window (channels, frames), one output value at a time, with zeros beyond both ends."""
    frames = x.shape[1]
    outputs, _, kernel = weight.shape
    reach = dilation * (kernel - 1) // 2
    result = np.zeros((outputs, frames))
    for o in range(outputs):
        for t in range(frames):
            total = float(bias[o])
            for k in range(kernel):
                at = t + k * dilation - reach
                if 0 <= at < frames:
                    total += float(np.dot(weight[o, :, k].astype(np.float64), x[:, at]))
            result[o, t] = total
    return result


def relu(x):
    return np.where(x > 0, x, 0.0)


def linear(x, tensors, prefix):
    return tensors[f"{prefix}.weight"].astype(np.float64) @ x + tensors[f"{prefix}.bias"]


def encode(x, tensors):
    h = x.astype(np.float64)
    for layer, dilation in (("c1", 1), ("c2", 2), ("c3", 4)):
        h = relu(conv1d(h, tensors[f"enc.{layer}.weight"], tensors[f"enc.{layer}.bias"], dilation))
    return h.mean(axis=1)


def count_forward(x, tensors):
    pooled = encode(x, tensors)
    count = linear(relu(linear(pooled, tensors, "count_head.fc1")), tensors, "count_head.fc2")
    confidence = linear(relu(linear(pooled, tensors, "conf_head.fc1")), tensors, "conf_head.fc2")
    return count, confidence


def pose_forward(x, tensors, adapter=None):
    def layer(v, name):
        y = linear(v, tensors, f"head.{name}")
        if adapter is not None:
            y = y + (v @ adapter[f"{name}.a"].astype(np.float64)) @ adapter[f"{name}.b"]
        return y

    return 1 / (1 + np.exp(-layer(relu(layer(encode(x, tensors), "fc1")), "fc2")))


def windows(rows, frames, n=2):
    return np.random.default_rng(3).standard_normal((n, rows, frames)).astype(np.float32)


def assert_count_agrees(graph, tensors, x, run):
    got = run(graph, x)
    for i, window in enumerate(x):
        count, confidence = count_forward(window, tensors)
        np.testing.assert_allclose(got["count_logits"][i], count, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(got["conf_logits"][i], confidence, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_count_network_agrees_with_a_slow_forward_pass(weights, write, run):
    tensors = weights.count()
    model = load_model(write("count.safetensors", tensors))
    assert [o.name for o in model.outputs] == ["count_logits", "conf_logits"]
    assert_count_agrees(model.graph, tensors, windows(6, 20), run)


@pytest.mark.parametrize("name", ["count_v1", "count_v0.0.1"])
def test_the_trained_count_networks_agree_with_a_slow_forward_pass(name, shared, run):
    path = shared / f"real/ruview/{name}.safetensors"
    assert_count_agrees(load_model(path).graph, load_file(path), windows(56, 20, 1), run)


def test_every_internal_value_of_the_count_network_has_its_name(weights, write):
    model = load_model(write("count.safetensors", weights.count()))
    values = {output.name for node in model.graph.graph for output in node.outputs}
    assert values == {
        *("c1", "h1", "c2", "h2", "c3", "h3", "pooled"),
        *("count_z", "count_h", "count_logits", "conf_z", "conf_h", "conf_logits"),
    }


def test_the_pose_network_agrees_with_a_slow_forward_pass(weights, write, run):
    tensors = weights.pose()
    x = windows(6, 20)
    got = run(load_model(write("pose.safetensors", tensors)).graph, x)["keypoints"]
    want = [pose_forward(window, tensors) for window in x]
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_merged_adapter_computes_what_a_separate_one_would(weights, write, run):
    tensors, adapter = weights.pose(), weights.adapter()
    x = windows(6, 20)
    model = load_model(write("pose.safetensors", tensors), adapter=write("room.safetensors", adapter))
    got = run(model.graph, x)["keypoints"]
    want = [pose_forward(window, tensors, adapter) for window in x]
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)
    assert np.abs(want[0] - pose_forward(x[0], tensors)).max() > 0.01, "the adapter must change something"


@pytest.mark.parametrize("with_adapter", [False, True])
def test_the_trained_pose_network_agrees_with_a_slow_forward_pass(with_adapter, shared, run):
    folder = shared / "real/ruview"
    room = folder / "sample_room.adapter.safetensors" if with_adapter else None
    x = windows(56, 20, 1)
    got = run(load_model(folder / "pose_v1.safetensors", adapter=room).graph, x)["keypoints"][0]
    want = pose_forward(x[0], load_file(folder / "pose_v1.safetensors"), load_file(room) if room else None)
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("case", "output", "adapter"),
    [("A_count", "count_logits", ""), ("B_pose", "keypoints", ""), ("B_pose_adapter", "keypoints", "adapter")],
)
def test_forward_values_agree_with_the_golden_vectors(case, output, adapter, shared, run):
    folder = shared / "golden"
    weights_case = "B_pose" if case.startswith("B") else case
    room = folder / case / "adapter.safetensors" if adapter else None
    golden = np.load(folder / case / "golden.npz")
    got = run(load_model(folder / weights_case / "model.safetensors", adapter=room).graph, golden["x"])[output]
    np.testing.assert_allclose(got, golden[f"forward.{output}"], rtol=1e-4, atol=3e-6)


def test_the_number_of_frames_is_the_manifests(weights, write):
    path = write("count.safetensors", weights.count())
    path.with_name("model.toml").write_text('model.weights = "count.safetensors"\nwindow.frames = 33\n')
    model = load_model(path)
    assert model.input.shape == (-1, 6, 33)
    assert not any("window.frames" in warning for warning in model.warnings)


def test_a_missing_tensor_is_named(weights):
    tensors = weights.count()
    del tensors["enc.c3.bias"]
    with pytest.raises(TensorMismatchError, match=r"csi_count_net: missing enc\.c3\.bias$"):
        CountNet().build(tensors)


def test_an_extra_tensor_is_named(weights):
    with pytest.raises(TensorMismatchError, match=r"csi_pose_net: extra enc\.c4\.bias \(4\)$"):
        PoseNet().build(weights.pose() | {"enc.c4.bias": weights.tensor(4)})


def test_a_misshaped_tensor_is_named_with_both_shapes(weights):
    tensors = weights.count() | {"enc.c2.weight": weights.tensor(7, 6, 3)}
    with pytest.raises(TensorMismatchError, match=r"enc\.c2\.weight: expected \(c2, 5, 3\), got \(7, 6, 3\)"):
        CountNet().build(tensors)


def test_an_even_kernel_is_refused(weights):
    tensors = {k: v[..., :2] if v.ndim == 3 else v for k, v in weights.count().items()}
    with pytest.raises(TensorMismatchError, match="expected an odd kernel, got 2"):
        CountNet().build(tensors)


def test_a_weight_that_is_not_finite_is_named(weights):
    tensors = weights.count()
    tensors["conf_head.fc1.bias"][3] = np.nan
    with pytest.raises(CorruptWeightsError, match=r"conf_head\.fc1\.bias holds NaN or infinity"):
        CountNet().build(tensors)


def test_an_adapter_of_another_rank_or_width_is_refused_by_name(weights):
    adapter = weights.adapter() | {"fc2.b": weights.tensor(2, 6)}
    with pytest.raises(TensorMismatchError, match=r"adapter: fc2\.b: expected \(3, 6\), got \(2, 6\)"):
        PoseNet().build(weights.pose(), adapter)


def test_the_count_network_takes_no_adapter(weights):
    with pytest.raises(TensorMismatchError, match="csi_count_net: takes no adapter"):
        CountNet().build(weights.count(), weights.adapter())


def test_an_adapter_is_told_from_a_model(weights):
    pose = PoseNet()
    assert pose.matches_adapter(weights.adapter())
    assert not pose.matches(weights.adapter())
    assert not pose.matches_adapter(weights.pose())
    assert not pose.matches_adapter(weights.adapter() | {"other": weights.tensor(1)})
    assert pose.matches(weights.pose())
    assert not pose.matches(weights.count())
    assert not CountNet().matches(weights.pose())
