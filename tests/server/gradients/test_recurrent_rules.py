from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 3, 4


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) * 0.5


def weights(op_type, directions):
    rows = GATES[op_type] * HIDDEN
    return {
        "w": random(directions, rows, INPUTS, seed=1),
        "r": random(directions, rows, HIDDEN, seed=2),
        "b": random(directions, 2 * rows, seed=3),
    }


def check(make_case, op_type, direction, outputs, attributes=None, *, fixed=True, states=False, tolerance=2e-3):
    """Compare with central differences on ONNX Runtime, whose recurrent operators are float32.

    With steps of 1/64 the differences err by some 1e-4 from the cubic term and 1e-5 from rounding.
    """
    directions = 2 if direction == "bidirectional" else 1
    constants = weights(op_type, directions)
    names = ["sequence", "w", "r", "b"]
    nodes = [helper.make_node("Transpose", ["x"], ["sequence"], perm=[1, 0, 2])]
    if states:
        nodes += [
            helper.make_node("ReduceMean", ["sequence", "last"], ["mean"], keepdims=1),
            helper.make_node("Gather", ["mean", "zero"], ["row"], axis=0),
            helper.make_node("Expand", ["row", "wide"], ["spread"]),
            helper.make_node("Concat", ["spread"] * directions, ["h0"], axis=0),
            helper.make_node("Sigmoid", ["h0"], ["c0"]),
        ]
        constants |= {"last": np.array([2]), "zero": np.array([0]), "wide": np.array([1, 1, HIDDEN])}
        names += ["", "h0", "c0"][: 3 if op_type == "LSTM" else 2]
    made = [o if o in outputs else "" for o in ("Y", "Yh", "Yc")][: 3 if op_type == "LSTM" else 2]
    nodes.append(
        helper.make_node(
            op_type, names, made, name="cell", hidden_size=HIDDEN, direction=direction, **(attributes or {})
        )
    )
    for name in outputs:
        order = [2, 0, 1, 3] if name == "Y" else [1, 0, 2]
        nodes.append(helper.make_node("Transpose", [name], [f"{name}_t"], perm=order))
        nodes.append(helper.make_node("Flatten", [f"{name}_t"], [f"{name}_f"], axis=1))
    nodes.append(helper.make_node("Concat", [f"{n}_f" for n in outputs], ["y"], axis=1))
    constants = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in constants.items()}
    model = make_case(nodes, (STEPS, INPUTS), constants, dtype=TensorProto.FLOAT, fixed=fixed)
    plain = ort.InferenceSession(model.SerializeToString())
    both = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    for x in random(BATCH, 1, STEPS, INPUTS, seed=4).astype(np.float32):
        y = plain.run(None, {"x": x})[0]
        cotangent = random(*y.shape, seed=5).astype(np.float32)
        got = both.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]
        steps = np.eye(x.size, dtype=np.float32).reshape(x.size, STEPS, INPUTS) / 64
        up, down = (plain.run(None, {"x": x + s})[0] for s in (steps, -steps))
        want = (up - down) * 32 @ cotangent.ravel()
        np.testing.assert_allclose(got.ravel(), want, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_recurrent_layer_agrees_in_every_direction(make_case, op_type, direction):
    check(make_case, op_type, direction, ["Y"])


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_the_last_states_and_the_initial_ones_get_their_share(make_case, op_type, direction):
    outputs = ["Y", "Yh", "Yc"] if op_type == "LSTM" else ["Y", "Yh"]
    check(make_case, op_type, direction, outputs, states=True)


@pytest.mark.parametrize("op_type", GATES)
def test_only_the_last_state_may_be_used(make_case, op_type):
    check(make_case, op_type, "forward", ["Yh"])


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_gru_agrees_with_the_reset_after_the_product(make_case, direction):
    check(make_case, "GRU", direction, ["Y", "Yh"], {"linear_before_reset": 1})


def test_rnn_agrees_with_relu(make_case):
    # A ReLU's kinks put a few differences off by the step; none may be far off.
    check(make_case, "RNN", "forward", ["Y"], {"activations": ["Relu"]}, tolerance=2e-2)


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_sequences_of_unknown_length_agree(make_case, op_type, direction):
    check(make_case, op_type, direction, ["Y"], fixed=False)


def test_sequence_lens_are_refused_by_name(make_case):
    constants = {k: v.astype(np.float32) for k, v in weights("LSTM", 1).items()} | {"n": np.array([5], np.int32)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["s"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["s", "w", "r", "b", "n"], ["y"], name="cell", hidden_size=HIDDEN),
    ]
    model = make_case(nodes, (STEPS, INPUTS), constants, dtype=TensorProto.FLOAT)
    with pytest.raises(UnsupportedOperatorError, match=r"LSTM at node 'cell'.*sequence_lens"):
        differentiate(ir.from_proto(model), ["x"])
