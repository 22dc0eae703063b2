"""Windows in NumPy files. How frames lie in files belongs to the decoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.errors import RecordingError

ARRAYS = (".npy", ".npz")
WINDOWS = ("windows", "x")


def read_arrays(path: Path) -> npt.NDArray[Any]:
    """Read windows from a ``.npy`` file, or from the array ``windows``, ``x`` or the only one of a ``.npz`` file.

    Raises:
        RecordingError: it cannot be read, or holds no such array.
    """
    return read_named(path)[0]


def read_named(path: Path) -> tuple[npt.NDArray[Any], Mapping[str, npt.NDArray[Any]]]:
    """Read the windows of a file, and whatever other arrays lie beside them, by name.

    Raises:
        RecordingError: as for ``read_arrays``.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, {}
        with loaded:
            name = next((each for each in WINDOWS if each in loaded.files), None)
            if name is None and len(loaded.files) == 1:
                name = loaded.files[0]
            if name is None:
                raise RecordingError(
                    f"{path.name}: expected an array 'windows' or 'x', got {', '.join(loaded.files) or 'none'}"
                )
            return np.asarray(loaded[name]), {other: loaded[other] for other in loaded.files if other != name}
    except OSError as error:
        raise RecordingError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, KeyError) as error:
        raise RecordingError(f"{path.name}: expected a NumPy file of numbers, got something else") from error
