"""Fourier transforms in the forms that drawn cases leave out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate
from tonescope_server.gradients.prepass import infer_shapes

WINDOW = np.hanning(8).astype(np.float32)


def spectrogram(make_case, shape):
    node = helper.make_node("STFT", ["x", "step", "window"], ["y"], name="the_node", onesided=1)
    constants = {"step": np.array(3), "window": WINDOW}
    model = make_case([node], shape, constants, dtype=TensorProto.FLOAT)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 5, 2]))
    return model


def test_a_signal_without_an_axis_for_its_parts_has_a_gradient(make_case):
    """As torch.stft is exported; ONNX's reference knows the other form only, ONNX Runtime both."""
    random = np.random.default_rng(1)
    x, cotangent = random.standard_normal((2, 16)), random.standard_normal((2, 3, 5, 2)).astype(np.float32)
    x = x.astype(np.float32)
    graph = differentiate(infer_shapes(ir.from_proto(spectrogram(make_case, (16,)))), ["x"])
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    y, got = session.run(["y", "gradient:x"], {"x": x, "cotangent:y": cotangent})
    assert y.shape == cotangent.shape
    want = np.zeros((2, 16))
    for frame in range(3):
        for bin_ in range(5):
            angle = -2j * np.pi * bin_ * np.arange(8) / 8
            wave = WINDOW * np.exp(angle)
            pulled = cotangent[:, frame, bin_, 0, None] * wave.real + cotangent[:, frame, bin_, 1, None] * wave.imag
            want[:, 3 * frame : 3 * frame + 8] += pulled
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_signal_of_another_shape_is_refused_by_name(make_case):
    model = spectrogram(make_case, (16, 3))
    with pytest.raises(UnsupportedOperatorError, match=r"STFT at node 'the_node'.*expected .batch, samples"):
        differentiate(ir.from_proto(model), ["x"])
