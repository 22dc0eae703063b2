"""The daemon's answers without a daemon: what a client would have received, byte for byte, for commands and notebooks.

The engine computes, the same writer fills in the message, and the client's own reader reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import tonescope
from tonescope import decode, progressive
from tonescope.results import Explanation, ToneTable
from tonescope.v1 import attribution_pb2
from tonescope.v1 import attribution_service_pb2 as service_pb2
from tonescope_server.csi import tones
from tonescope_server.engine.explainer import Explainer
from tonescope_server.engine.progress import Stop, refine
from tonescope_server.engine.targets import TargetLike
from tonescope_server.errors import TonescopeError
from tonescope_server.live.messages import Answer, Job, Wanted
from tonescope_server.live.progressive import Standing
from tonescope_server.services.convert import row_table_of, tone_table_of
from tonescope_server.services.explanations import ExplanationWriter
from tonescope_server.services.progressive import write_update


class InProcess:
    """One request on one model, ready for any number of windows.

    Raises:
        TonescopeError: what is wrong with the method, the target or a parameter.
    """

    def __init__(
        self,
        explainer: Explainer,
        method: str,
        target: TargetLike,
        parameters: Mapping[str, Any],
        want: Wanted = Wanted(8),  # noqa: B008  it is frozen
    ) -> None:
        self._prepared = explainer.prepare(method, target, parameters)
        self._writer = ExplanationWriter(explainer.model, self._prepared, want)
        self.table = decode.tone_table(row_table_of(explainer.model))

    def explain(self, jobs: Sequence[Job]) -> list[Explanation]:
        """Explain a batch of windows.

        Raises:
            TonescopeError: a window that cannot be explained.
        """
        found = self._prepared.run(np.concatenate([_cells(job) for job in jobs]))
        explained = []
        for row, job in enumerate(jobs):
            message = attribution_pb2.Explanation()
            self._writer.write(Answer(job, found, row, 0.0, found.compute_s / len(jobs)), message)
            explained.append(decode.explanation(message, self.table))
        return explained

    def explain_progressively(self, job: Job, stop: tonescope.Stop) -> Iterator[tonescope.Update]:
        """Explain one window, and yield what is found as it gets better; as ``client.explain_progressively``.

        Raises:
            TonescopeError: a condition that cannot be, or a window that cannot be explained.
        """
        until = Stop(stop.tolerance, stop.budget, stop.time_limit_s)
        for update in refine(self._prepared, _cells(job), until):
            message = service_pb2.ExplainProgressivelyResponse()
            write_update(Standing(job, update, 0.0, update.attribution.compute_s), self._writer, message)
            yield progressive.update(message, decode.explanation(message.explanation, self.table))


def client_table(table: tones.ToneTable) -> ToneTable:
    """Return a tone table as the client has it."""
    return decode.tone_table(tone_table_of(table))


def _cells(job: Job) -> npt.NDArray[Any]:
    if isinstance(job.cells, TonescopeError):
        raise type(job.cells)(f"window {job.index}: {job.cells}")
    return job.cells
