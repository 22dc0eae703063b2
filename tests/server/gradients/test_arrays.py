"""NumPy code on arrays that are not known yet, against the same code on arrays that are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from tonescope_server.gradients.arrays import NotTraceableError, TracedArray, tracer_for
from tonescope_server.gradients.context import Context

SHAPE = (4, 6)
KNOWN = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
MATRIX = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)

PROGRAMS = {
    "arithmetic": lambda x: (2.0 * x - x / 3 + KNOWN) * -x,
    "a reflected quotient": lambda x: 1.0 / (abs(x) + 1),
    "powers": lambda x: x**2 + np.square(x) + abs(x) ** 1.5,
    "float64 sums": lambda x: x.reshape(len(x), -1).sum(axis=1, dtype=np.float64),
    "float64 from a known array": lambda x: x * np.float64(3) * KNOWN.astype(np.float64),
    "sums of truths": lambda x: (x > 0).sum(axis=(1, 2)),
    "means, keeping axes": lambda x: x - x.mean(axis=2, keepdims=True),
    "variances": lambda x: x.var(axis=(1, 2), ddof=1) + np.std(x, axis=(1, 2)),
    "extremes": lambda x: x.max(axis=(1, 2)) - np.min(x, axis=(1, 2)),
    "reductions by ufuncs": lambda x: np.add.reduce(x, axis=1) + np.maximum.reduce(x, axis=1),
    "clipping": lambda x: np.clip(x, -0.5, 0.5) + np.maximum(x, 0) + np.minimum(KNOWN, x),
    "choice": lambda x: np.where(x > KNOWN, x, 0.0),
    "choice by a truth per window": lambda x: np.where((x[:, :1, :1] > 0) | (x[:, 1:2, :1] < 0), x, KNOWN),
    "truths": lambda x: ~np.isnan(x / x).any(axis=(1, 2)) & np.isfinite(x).all(axis=(1, 2)),
    "not equal": lambda x: (x != 0) & (x >= -1) & (x <= 1),
    "products of matrices": lambda x: x @ MATRIX,
    "a known matrix first": lambda x: MATRIX.T @ x.transpose(0, 2, 1),
    "slices": lambda x: x[:, 1:3, ::2] + x[:, :2, -5:-2],
    "backwards": lambda x: x[:, ::-1, 4:0:-2],
    "picks": lambda x: x[:, 2] + x[..., -1:][:, 0],
    "lists of places": lambda x: x[:, [3, 0, -2]][:, :, np.array([5, 1])],
    "new axes": lambda x: x[:, None, :, 0, None] + np.expand_dims(x[..., 0], 1)[..., None],
    "reshapes": lambda x: x.reshape(-1, 3).reshape(len(x), 2, -1).swapaxes(1, 2).reshape(-1),
    "orders of axes": lambda x: np.transpose(x, (0, 2, 1)).ravel(),
    "concatenation": lambda x: np.concatenate([np.zeros((len(x), 4, 2)), x, x[:, :, :1]], axis=2),
    "stacking": lambda x: np.stack([x, np.ones_like(x), 2 * x], axis=1),
    "broadcasting": lambda x: np.broadcast_to(x[:, 0, :1], (len(x), 7)) + np.zeros_like(x[:, 0, :1]),
    "casts": lambda x: (x * 3).astype(np.int64).astype(np.float64) / 2,
    "functions of elements": lambda x: np.exp(x) + np.log(abs(x) + 1) + np.sqrt(abs(x)) + np.tanh(x) + np.sign(x),
    "rows that are the same for all windows": lambda x: x + np.ones((len(x), 1, 6)) * np.arange(6),
    "sizes": lambda x: x * (x.ndim + np.ndim(x) + x.shape[1] + np.shape(x)[2] + x.size / len(x)),
}
REFUSED = {
    "a branch": lambda x: x if x.sum() > 0 else -x,
    "a branch on one window": lambda x: -x if (x > 0).any(axis=(1, 2)) else x,
    "a loop over windows": lambda x: list(x),
    "one window": lambda x: x[0],
    "some windows": lambda x: x[1:],
    "a sum over windows": lambda x: x - x.sum(axis=0),
    "windows end to end": lambda x: np.concatenate([x, x]),
    "elements by their values": lambda x: x[x > 0],
    "elements changed in place": lambda x: x.__setitem__((0, 0, 0), 1.0),
    "an operator in place": lambda x: np.add(x, 1, out=x),
    "a function that no graph has": lambda x: np.linalg.svd(x),
    "a function of elements that no graph has": lambda x: np.arctan2(x, 1),
    "elements as numbers": lambda x: float(x.sum(axis=(1, 2))),
    "elements as an array": lambda x: np.asarray(x),
    "what differs by window": lambda x: x + np.arange(len(x)).reshape(-1, 1, 1),
}


def traced(program):
    """Return the model that a program writes down, and what it says its result's shape and type are."""
    x = ir.Value(name="x", shape=ir.Shape(["batch", *SHAPE]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="traced")
    tracer = tracer_for(Context(graph), x, SHAPE)
    found = program(tracer.array(x, (tracer.batch, *SHAPE), np.float32))
    assert isinstance(found, TracedArray)
    found.value.type = ir.TensorType(ir.DataType.from_numpy(found.dtype))
    graph.outputs.append(found.value)
    return ir.to_proto(ir.Model(graph, ir_version=9)), found


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_written_down_does_what_it_does(name):
    program = PROGRAMS[name]
    model, found = traced(program)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, *SHAPE)).astype(np.float32)
        want, got = program(x), session.run(None, {"x": x})[0]
        assert got.dtype == want.dtype == found.dtype
        assert got.shape == want.shape
        assert [n for n, m in zip(found.shape, want.shape, strict=True) if n % found.tracer.batch] == [
            m for n, m in zip(found.shape, want.shape, strict=True) if n % found.tracer.batch
        ]
        # Functions of elements differ in the last places between NumPy and ONNX Runtime.
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_say_is_refused(name):
    with pytest.raises(NotTraceableError, match=r"\w+ \w+"):
        traced(REFUSED[name])


def test_the_number_for_the_batch_is_that_of_no_other_size():
    x = ir.Value(name="x")
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="traced")
    taken = [311, 2 * 313, 7]
    tracer = tracer_for(Context(graph), x, taken)
    assert all(size % tracer.batch for size in taken)
    assert tracer.is_open(3 * tracer.batch)
    assert not tracer.is_open(0)
