"""What a method asks of the windows that it is shown, and what the answer is where they are not known yet.

An exported graph is made by running a method's own NumPy on windows that are not known. It cannot warn, and it cannot
end early; what a method says or leaves off for single windows goes through the functions here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.gradients.arrays import TracedArray


def windows_where(condition: npt.NDArray[Any] | np.bool_) -> list[int]:
    """List the windows that a warning is about: none in an exported graph.

    Args:
        condition: ``(batch,)``.
    """
    return [] if isinstance(condition, TracedArray) else np.flatnonzero(condition).tolist()


def is_over(done: npt.NDArray[Any]) -> bool:
    """Say whether all windows are done, so that no further run is asked for: an exported graph has all runs there are.

    Args:
        done: ``(batch,)``.
    """
    return not isinstance(done, TracedArray) and bool(done.all())
