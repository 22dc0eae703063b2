"""The residual MLP against a forward pass written out slowly."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from tonescope_server.errors import TensorMismatchError
from tonescope_server.models.architectures.residual_mlp import ResidualMlp
from tonescope_server.models.loading import load_model

# Float32 against float64 through two blocks of sums of at most 48 products.
TOLERANCE = 1e-5


def linear(x, tensors, prefix):
    return tensors[f"{prefix}.weight"].astype(np.float64) @ x + tensors[f"{prefix}.bias"]


def layer_norm(x, tensors, prefix):
    centred = x - x.mean()
    normed = centred / math.sqrt((centred**2).mean() + 1e-5)
    return normed * tensors[f"{prefix}.weight"] + tensors[f"{prefix}.bias"]


def gelu(x):
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def forward(x, tensors, blocks):
    """Return the states h0 … hK and the logits of one feature vector."""
    states = [linear(x.astype(np.float64), tensors, "fin")]
    for k in range(blocks):
        inner = gelu(linear(layer_norm(states[-1], tensors, f"blocks.{k}.n"), tensors, f"blocks.{k}.f1"))
        states.append(states[-1] + linear(inner, tensors, f"blocks.{k}.f2"))
    return states, linear(layer_norm(states[-1], tensors, "norm"), tensors, "head")


def test_it_agrees_with_a_slow_forward_pass(weights, write, run):
    tensors = weights.residual()
    x = np.random.default_rng(1).standard_normal((3, 10)).astype(np.float32)
    got = run(load_model(write("mlp.safetensors", tensors)).graph, x)["logits"]
    want = [forward(row, tensors, 2)[1] for row in x]
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_its_hidden_states_go_by_their_names(weights, write, run):
    tensors = weights.residual()
    x = np.random.default_rng(1).standard_normal((1, 10)).astype(np.float32)
    graph = load_model(write("mlp.safetensors", tensors)).graph.clone()
    values = {output.name: output for node in graph.graph for output in node.outputs}
    graph.graph.outputs.extend(values[f"h{k}"] for k in range(3))
    got = run(graph, x)
    for k, want in enumerate(forward(x[0], tensors, 2)[0]):
        np.testing.assert_allclose(got[f"h{k}"][0], want, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_golden_residual_mlp_can_be_rebuilt_from_its_tensors(shared, write, run):
    folder = shared / "golden/I_residual_mlp"
    proto = onnx.load(folder / "model.onnx")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.dims}
    norm = {k: held.pop(f"blocks.0.n.{k}") for k in ("weight", "bias")}  # one copy serves every equal norm
    tensors = held | {f"blocks.{k}.n.{part}": array for k in range(4) for part, array in norm.items()}
    tensors |= {f"norm.{part}": array for part, array in norm.items()}
    golden = np.load(folder / "golden.npz")
    model = load_model(write("mlp.safetensors", {k: np.array(v) for k, v in tensors.items()}))
    got = run(model.graph, golden["x"])["logits"]
    np.testing.assert_allclose(got, golden["forward.logits"], rtol=1e-4, atol=8.4e-6)


def test_its_features_are_rows_without_frames(weights, write):
    model = load_model(write("mlp.safetensors", weights.residual()))
    assert (model.cells.cell_order, model.cells.n_tones, model.cells.n_frames) == ("feature", 10, 1)
    assert model.table.id == "unknown_10"


def test_a_gap_in_the_blocks_is_a_missing_tensor(weights):
    tensors = {k.replace("blocks.1.", "blocks.2."): v for k, v in weights.residual().items()}
    with pytest.raises(TensorMismatchError, match=r"residual_mlp: missing blocks\.1\.n\.weight"):
        ResidualMlp().build(tensors)


def test_a_long_list_of_faults_is_cut(weights):
    tensors = {k.replace("blocks.1.", "blocks.999."): v for k, v in weights.residual().items()}
    with pytest.raises(TensorMismatchError, match=r"and \d+ more$") as raised:
        ResidualMlp().build(tensors)
    assert len(str(raised.value)) < 600
