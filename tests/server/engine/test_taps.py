"""Taps in recurrent networks, whose values do not all have the batch in front, and modules of several outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer
from tonescope_server.engine.jacobian import FOLDED_WINDOWS, ROWS_PER_RUN, TARGETS_PER_GRAPH

STEPS, CELLS, HIDDEN = 6, 4, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(path, op_type="LSTM", *, names=("node_steps", "node_state"), batch_first=True):
    """Save and load a recurrent network as torch exports it: its steps are made first, its last state after them."""
    inside = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2], name="node_turned"),
        helper.make_node(op_type, ["turned", "w", "r"], ["Y", "Y_h"], hidden_size=HIDDEN, name="node_layer"),
        helper.make_node("Squeeze", ["Y", "one"], ["rows"], name="node_rows"),
        helper.make_node("Transpose", ["rows"], ["steps"], perm=[1, 0, 2] if batch_first else [0, 1, 2], name=names[0]),
        helper.make_node("Mul", ["Y_h", "two"], ["state"], name=names[1]),
    ]
    for node in inside:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(["", "body", "body.l", "lstm"]))
    outside = [
        helper.make_node("ReduceMean", ["steps", "one" if batch_first else "zero"], ["mean"], keepdims=0),
        helper.make_node("Squeeze", ["state", "zero"], ["last"]),
        helper.make_node("Tanh", ["last"], ["bent"]),
        helper.make_node("Mul", ["mean", "bent"], ["y"]),
    ]
    generator = np.random.default_rng(0)
    sizes = {"w": (1, GATES[op_type] * HIDDEN, CELLS), "r": (1, GATES[op_type] * HIDDEN, HIDDEN)}
    weights = {k: generator.standard_normal(v).astype(np.float32) / 2 for k, v in sizes.items()}
    weights |= {"zero": np.array([0]), "one": np.array([1]), "two": np.float32(2)}
    graph = helper.make_graph(
        [*inside, *outside],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", STEPS, CELLS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", HIDDEN])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path / "m.onnx")
    return Explainer.load(path / "m.onnx")


def windows(count):
    return np.random.default_rng(1).standard_normal((count, STEPS, CELLS)).astype(np.float32)


@pytest.mark.parametrize("op_type", sorted(GATES))
def test_values_whose_batch_is_not_in_front_are_listed_and_differentiated_by(tmp_path, op_type):
    explainer, x = recurrent(tmp_path, op_type), windows(3)
    layers = {layer.name: layer for layer in explainer.layers()}
    assert layers["Y"].shape == (STEPS, 1, -1, HIDDEN)
    assert layers["Y_h"].shape == (1, -1, HIDDEN)
    assert list(layers) == ["turned", "Y", "Y_h", "rows", "steps", "state", "mean", "last", "bent", "y"]
    assert layers["Y"].module == "body.l"
    for name, layer in layers.items():
        axis = layer.shape.index(-1)
        whole = explainer.gradient(x, 0, at=name)
        assert whole.shape == (*layer.shape[:axis], 3, *layer.shape[axis + 1 :])
        assert whole.any()
        each = [explainer.gradient(x[k : k + 1], 0, at=name) for k in range(3)]
        np.testing.assert_allclose(whole, np.concatenate(each, axis), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [1, FOLDED_WINDOWS, STEPS, ROWS_PER_RUN + 3])
def test_a_jacobian_by_them_is_that_of_gradients_however_it_is_cut_up(tmp_path, count):
    explainer, x = recurrent(tmp_path), windows(count)
    targets = [k % HIDDEN for k in range(TARGETS_PER_GRAPH + 2)]
    found = explainer.jacobian(x, targets, at=["Y", "input", "state"])
    for at, got in found.items():
        want = np.stack([explainer.gradient(x, target, at=at) for target in targets])
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize(
    ("names", "batch_first", "expected"),
    [
        (("node_steps", "node_state"), True, "steps"),  # the state is made after them, without the batch in front
        (("node_lstm__0", "node_lstm__1"), False, "steps"),  # neither has it in front: torch's number tells
        (("node_lstm__1", "node_lstm__0"), True, "state"),  # the number counts more
    ],
)
def test_a_modules_value_is_the_first_that_it_returns(tmp_path, names, batch_first, expected):
    explainer, x = recurrent(tmp_path, names=names, batch_first=batch_first), windows(2)
    for name in ("body.l", "body"):
        np.testing.assert_array_equal(explainer.activation(x, name), explainer.activation(x, expected))
    np.testing.assert_array_equal(explainer.activation(x, "node_layer"), explainer.activation(x, "Y"))
