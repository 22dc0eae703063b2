"""NumPy arrays on the wire: dtype, shape, little-endian row-major bytes. What an array means is said elsewhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope.errors import ByteLengthError, DtypeError
from tonescope.v1 import tensor_pb2

_DTYPES: dict[tensor_pb2.DataType.ValueType, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DATA_TYPE_INT8: np.dtype("i1"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def to_tensor(array: npt.ArrayLike) -> tensor_pb2.Tensor:
    """Encode an array. Other integers and booleans travel as int64.

    Raises:
        DtypeError: the array is neither of floats nor of integers.
    """
    values = np.asarray(array)
    dtype = values.dtype.newbyteorder("<")
    if dtype not in _CODES:
        if values.dtype.kind not in "iub":
            raise DtypeError(f"tensor: expected float16, float32, float64 or integers, got {values.dtype}")
        dtype = np.dtype("<i8")
    values = np.ascontiguousarray(values, dtype=dtype).reshape(values.shape)
    return tensor_pb2.Tensor(dtype=_CODES[dtype], shape=values.shape, data=values.tobytes())


def to_array(tensor: tensor_pb2.Tensor) -> npt.NDArray[Any]:
    """Decode a tensor into a read-only array over its own bytes.

    Raises:
        DtypeError: the element type is not stated or not known.
        ByteLengthError: the bytes are not product(shape) × size(dtype).
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise DtypeError(f"tensor: expected an element type in 1–{max(_DTYPES)}, got {int(tensor.dtype)}")
    shape = tuple(tensor.shape)
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(tensor.data) != expected:
        raise ByteLengthError(
            f"tensor: expected {expected} bytes for {dtype.name} of shape {shape}, got {len(tensor.data)}"
        )
    return np.frombuffer(tensor.data, dtype=dtype).reshape(shape)
