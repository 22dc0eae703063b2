"""Arrays survive the wire as they are, or are refused in one line."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope.errors import ByteLengthError, DtypeError
from tonescope.tensors import to_array, to_tensor
from tonescope.v1 import tensor_pb2


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_an_array_comes_back_as_it_went(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape), dtype="f8").reshape(shape) - 3.5).astype(dtype)
    back = to_array(to_tensor(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


def test_big_endian_and_strided_arrays_travel_little_endian_and_row_major() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    tensor = to_tensor(array)
    assert tensor.data == np.ascontiguousarray(array).astype("<f4").tobytes()
    np.testing.assert_array_equal(to_array(tensor), array)


@pytest.mark.parametrize("dtype", ["i4", "u1", "?"])
def test_other_integers_travel_as_int64(dtype: str) -> None:
    assert to_tensor(np.ones(3, dtype=dtype)).dtype == tensor_pb2.DATA_TYPE_INT64


@pytest.mark.parametrize("array", [np.ones(2, dtype=complex), np.array(["a"]), np.array([None])])
def test_what_is_no_number_is_refused(array: np.ndarray) -> None:
    with pytest.raises(DtypeError, match=r"^tensor: expected .* got "):
        to_tensor(array)


def test_a_wrong_byte_length_says_both_lengths() -> None:
    tensor = to_tensor(np.zeros((2, 3), dtype="f4"))
    tensor.data = tensor.data[:-1]
    with pytest.raises(ByteLengthError, match=r"expected 24 bytes for float32 of shape \(2, 3\), got 23"):
        to_array(tensor)


def test_negative_sizes_are_refused_even_where_their_product_fits() -> None:
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[-1, -1], data=bytes(4))
    with pytest.raises(ByteLengthError):
        to_array(tensor)


def test_an_unstated_dtype_is_refused() -> None:
    with pytest.raises(DtypeError, match="got 0"):
        to_array(tensor_pb2.Tensor(shape=[1], data=bytes(4)))
