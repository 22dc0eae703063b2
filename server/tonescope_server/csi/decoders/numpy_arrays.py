"""NumPy files of frames: ``.npy`` with the values alone, ``.npz`` with arrays of what else is known beside them.

Windows in NumPy files are another thing, and are not read here: a file is recognised only where an array of a
``.npz`` file is called ``csi`` or ``frames``; any other is read where the format is named.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._columns import as_values, frames, named
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, RecordingError
from tonescope_server.marker import hookimpl

NAME = "numpy"
VALUES = ("csi", "frames")
_ONLY_VALUE = "arr_0"  # as numpy calls an array that was given no name
_ZIP_MAGIC = b"PK\x03\x04"
# What numpy, zipfile, zlib and the reader of array headers raise on damaged files; OSError is for impossible offsets.
_DAMAGED = (
    OSError,
    *(ValueError, EOFError, KeyError, SyntaxError, TypeError, OverflowError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, RuntimeError),
)
_MOST_BYTES = 4 << 30  # of an array once unpacked


class NumpyDecoder:
    """``.npy`` and ``.npz`` files: one array of frames.

    The values are complex or amplitudes, ``[n_frames, n_tones]`` or ``[n_frames, n_rx, n_tones]``. Beside them a
    ``.npz`` file may have ``time_s`` or ``time_ns``, ``node``, ``transmitter``, ``sequence``, ``rssi_dbm``,
    ``noise_floor_dbm`` and ``agc_gain``, each ``[n_frames]``, or one value for all.
    """

    name = NAME
    summary = "NumPy files of frames (.npy, .npz)"

    def decode(self, data: bytes) -> Frame:
        """Refuse: a file holds many frames.

        Raises:
            FrameError: always.
        """
        raise FrameError("numpy: expected a file of frames, got one frame")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether it is a ``.npz`` file with an array called ``csi`` or ``frames``."""
        if not head.startswith(_ZIP_MAGIC):
            return False
        try:
            with zipfile.ZipFile(path) as archive:
                return any(f"{name}.npy" in archive.namelist() for name in VALUES)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
            return False

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read the frames of a file.

        Raises:
            RecordingError: it cannot be read, or its arrays do not belong together.
        """
        arrays = _loaded(path)
        name = next((each for each in (*VALUES, _ONLY_VALUE) if each in arrays), None)
        if name is None:
            raise RecordingError(
                f"recording {path.name!r}: expected an array {' or '.join(VALUES)}, got {', '.join(arrays) or 'none'}"
            )
        values = as_values(arrays.pop(name), name, path.name)
        columns = {column: _column(array, len(values), column, path) for column, array in named(arrays).items()}
        yield from frames(values, columns, NAME, path.name)


def _loaded(path: Path) -> dict[str, npt.NDArray[Any]]:
    with path.open("rb") as file:
        try:
            _check_size(file, path.name)
            loaded: Any = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {_ONLY_VALUE: loaded}
            with loaded:
                return {name: loaded[name] for name in loaded.files}
        except _DAMAGED as error:
            raise RecordingError(
                f"recording {path.name!r}: expected a NumPy file, got a damaged or another one"
            ) from error


def _check_size(file: BinaryIO, name: str) -> None:
    """Refuse an archive that would unpack to more than memory is meant to hold."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_BYTES:
            raise RecordingError(f"recording {name!r}: expected at most {_MOST_BYTES} bytes of arrays, got {size}")
    file.seek(0)


def _column(array: npt.NDArray[Any], n: int, name: str, path: Path) -> npt.NDArray[Any]:
    if array.shape not in ((), (1,), (n,)) or array.dtype.kind not in "iufUS":
        raise RecordingError(
            f"recording {path.name!r}: {name}: expected {n} numbers or names, got {array.dtype} {array.shape}"
        )
    return np.broadcast_to(array, n)


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer NumPy files."""
    return [NumpyDecoder()]
