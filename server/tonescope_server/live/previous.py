"""The window before each, for methods that say what changed since: one kept for each node, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.errors import TonescopeError
from tonescope_server.live.messages import Job

MOST_NODES = 256  # a sender that invents nodes does not fill the memory


class PreviousWindows:
    """The last window of each node, transmitter and link that was taken up to be explained.

    Windows that were dropped, or could not be read, are passed over: what changed adds up over the answers.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, str, int | None], npt.NDArray[Any]] = {}

    def give_to(self, jobs: Iterable[Job]) -> None:
        """Give each job the window before it, and keep its own for the next."""
        for job in jobs:
            if isinstance(job.cells, TonescopeError):
                continue
            key = (job.node_id, job.transmitter, job.link)
            job.previous = self._last.pop(key, None)
            self._last[key] = job.cells
            if len(self._last) > MOST_NODES:
                del self._last[next(iter(self._last))]  # the one that has been silent for longest


def together(jobs: Sequence[Job]) -> npt.NDArray[Any]:
    """Return the windows before several jobs, ``(jobs, *input shape)``: NaN where there is none."""
    known = [np.full_like(job.cells, np.nan) if job.previous is None else job.previous for job in jobs]
    return known[0] if len(known) == 1 else np.concatenate(known)
