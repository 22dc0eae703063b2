"""Maps brought to the input's size: each cell compared with the interpolation that it should have."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.errors import MethodNotApplicableError
from tonescope_server.gradients import STANDARD
from tonescope_server.gradients.axes import Axis, Part
from tonescope_server.gradients.grids import interpolated, on_grid, onto_input
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.seed import Term
from tonescope_server.gradients.tape import Tape

SHAPE = (2, 6, 10)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}  # one float32 interpolation per axis


def brought(found, shape, *, kind=TensorProto.FLOAT):
    """Run what ``found(tape, map)`` describes on a drawn map, ``(batch, *shape)``; return the map and what came out."""
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Flatten", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, ["batch", *SHAPE])],
            [helper.make_tensor_value_info("y", kind, ["batch", int(np.prod(SHAPE))])],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    model = infer_shapes(ir.from_proto(proto))
    tape = Tape(model, "x", (Term("y", predicted=True),), lambda _: STANDARD, np.zeros(120, np.int64), 1)
    result = found(tape, tape.feed_var("map", shape))
    tape.predict()
    tape.result("cells", result)
    session = ort.InferenceSession(ir.to_proto(tape.finish()).SerializeToString())
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    drawn = np.random.default_rng(0).standard_normal((3, *shape)).astype(dtype)
    feeds = {"x": np.zeros((3, *SHAPE), dtype), "map": drawn}
    feeds = {i.name: feeds[i.name] for i in session.get_inputs()}
    return drawn, session.run(["cells"], feeds)[0]


def stretched(array, axis, size):
    """Linear interpolation between the centres of places, which stays level beyond the outermost two."""
    old = array.shape[axis]
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    return np.apply_along_axis(lambda row: np.interp(centres, np.arange(old), row), axis, array.astype(np.float64))


def axis(*parts, before=0, after=0):
    return Axis(tuple(Part(along, size) for along, size in parts), before, after)


def over_the_rest(image, along):
    shape = [3, *(size if i in along else 1 for i, size in enumerate(SHAPE, start=1))]
    return np.broadcast_to(image.reshape(shape), (3, *SHAPE))


CASES = {
    "a row": ((4,), [axis((3, 4))], lambda m: over_the_rest(stretched(m, 1, 10), [3])),
    "a row along the channels": ((2,), [axis((1, 2))], lambda m: over_the_rest(m, [1])),
    "a row that is longer": ((14,), [axis((2, 14))], lambda m: over_the_rest(stretched(m, 1, 6), [2])),
    "one place": ((1,), [axis((3, 1))], lambda m: over_the_rest(stretched(m, 1, 10), [3])),
    "an image": (
        (3, 4),
        [axis((2, 3)), axis((3, 4))],
        lambda m: over_the_rest(stretched(stretched(m, 1, 6), 2, 10), [2, 3]),
    ),
    "an image that is turned": (
        (4, 3),
        [axis((3, 4)), axis((2, 3))],
        lambda m: over_the_rest(stretched(stretched(np.swapaxes(m, 1, 2), 1, 6), 2, 10), [2, 3]),
    ),
    "tokens": (
        (12,),
        [axis((2, 3), (3, 4))],
        lambda m: over_the_rest(stretched(stretched(m.reshape(3, 3, 4), 1, 6), 2, 10), [2, 3]),
    ),
    "tokens in columns": (
        (12,),
        [axis((3, 4), (2, 3))],
        lambda m: over_the_rest(stretched(stretched(np.swapaxes(m.reshape(3, 4, 3), 1, 2), 1, 6), 2, 10), [2, 3]),
    ),
    "tokens with others around them": (
        (9,),
        [axis((3, 6), before=2, after=1)],
        lambda m: over_the_rest(stretched(m[:, 2:8], 1, 10), [3]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_map_is_interpolated_along_its_axes_and_held_along_the_others(name):
    shape, axes, expected = CASES[name]
    drawn, got = brought(lambda tape, found: onto_input(tape, found, axes), shape)
    np.testing.assert_allclose(got, expected(drawn), **CLOSE)


def test_a_map_in_float64_is_interpolated_to_float32s_precision():
    drawn, got = brought(lambda tape, found: onto_input(tape, found, [axis((3, 4))]), (4,), kind=TensorProto.DOUBLE)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, over_the_rest(stretched(drawn, 1, 10), [3]), **CLOSE)


@pytest.mark.parametrize(
    "axes",
    [
        [axis((None, 4))],
        [axis((2, 2), (None, 2))],
        [axis((2, 2)), axis((2, 2))],
        [axis((1, 2)), axis((2, 2)), axis((3, 2))],
    ],
)
def test_a_map_along_nothing_or_along_too_much_is_refused(axes):
    shape = tuple(each.size for each in axes)
    with pytest.raises(MethodNotApplicableError, match="lies along no one or two axes of the input"):
        brought(lambda tape, found: onto_input(tape, found, axes), shape)


def test_stated_rows_and_patches_are_interpolated_too():
    drawn, got = brought(lambda tape, found: interpolated(tape, found, 11), (4,))
    np.testing.assert_allclose(got, stretched(drawn, 1, 11), **CLOSE)
    drawn, got = brought(lambda tape, found: interpolated(tape, found, 4), (4,))
    np.testing.assert_array_equal(got, drawn)
    drawn, got = brought(lambda tape, found: on_grid(tape, found, (3, 2), 2), (6,))
    expected = over_the_rest(stretched(stretched(drawn.reshape(3, 3, 2), 1, 6), 2, 10), [2, 3])
    np.testing.assert_allclose(got, expected, **CLOSE)
