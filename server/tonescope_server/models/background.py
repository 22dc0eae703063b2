"""Background windows: the file beside a manifest that says what windows of the training data look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.cells import CellMap
from tonescope_server.errors import ManifestError
from tonescope_server.models.model import TensorSpec
from tonescope_server.types import FloatArray

MOST_BYTES = 256 * 1024 * 1024


def read_background(path: Path, explained: TensorSpec, cells: CellMap) -> FloatArray:
    """Read windows to compare with, as the model sees them: after normalisation.

    Shapes:
        The file holds (n, *input shape), or (n, tones) for windows that stay the same over all frames; the result is
        (n, *input shape), of the input's element type.

    Raises:
        ManifestError: not a ``.npy`` file of finite numbers of such a shape, or too large a one.
    """
    shape, tones = explained.shape[1:], cells.n_tones
    array = _array(path)
    per_tone = array.ndim == 2 and array.shape[1] == tones and array.shape[1:] != shape
    if len(array) == 0 or not (per_tone or array.shape[1:] == shape):
        expected = f"(n, {', '.join(map(str, shape))}) or (n, {tones}), n at least 1"
        raise ManifestError(f"baseline.background: {path.name}: expected windows {expected}, got {array.shape}")
    if per_tone:
        array = array[:, cells.tone_of_cell].reshape(-1, *shape)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused below
        windows = np.ascontiguousarray(array, np.dtype(explained.dtype))
    if not np.isfinite(windows).all():
        raise ManifestError(f"baseline.background: {path.name}: expected finite numbers, got NaN or infinity")
    windows.flags.writeable = False  # every request shares them
    return windows


def _array(path: Path) -> npt.NDArray[Any]:
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ManifestError(f"baseline.background: {path.name}: expected at most {MOST_BYTES} bytes, got {size}")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"baseline.background: {path.name}: not a .npy file: {reason}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim == 0:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise ManifestError(f"baseline.background: {path.name}: expected an array of real numbers, got {got}")
    return array
