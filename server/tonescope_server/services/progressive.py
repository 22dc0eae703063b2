"""``ExplainProgressively`` on the wire: its conditions as plain values, and each update as a message."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from tonescope.v1 import attribution_service_pb2 as service_pb2
from tonescope.v1 import csi_pb2
from tonescope_server.engine.progress import Reason, Stop, Update
from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.live.messages import Answer
from tonescope_server.live.progressive import Standing
from tonescope_server.services.convert import tensor_of
from tonescope_server.services.explanations import ExplanationWriter

MOST_WINDOWS = 32
# The smallest time between two updates of a window, where the request does not say.
INTERVAL_S = 0.05
_REASONS: dict[Reason | None, service_pb2.StopReason.ValueType] = {
    None: service_pb2.STOP_REASON_UNSPECIFIED,
    Reason.CONVERGED: service_pb2.STOP_REASON_CONVERGED,
    Reason.BUDGET: service_pb2.STOP_REASON_BUDGET,
    Reason.TIME_LIMIT: service_pb2.STOP_REASON_TIME_LIMIT,
    Reason.EXHAUSTED: service_pb2.STOP_REASON_EXHAUSTED,
}


def conditions_of(request: service_pb2.ExplainProgressivelyRequest) -> tuple[Stop, float]:
    """Read when to stop, and the smallest time between two updates, in seconds.

    Raises:
        ShapeError: no window, or too many.
        ParameterError: a condition that is negative, or no number.
    """
    if not 1 <= len(request.windows) <= MOST_WINDOWS:
        raise ShapeError(f"windows: expected 1 to {MOST_WINDOWS}, got {len(request.windows)}")
    for name in ("time_limit_ms", "min_interval_ms"):
        value = getattr(request, name)
        if not (math.isfinite(value) and value >= 0):
            raise ParameterError(f"{name}: expected a finite number of at least 0, got {value}")
    interval_s = request.min_interval_ms / 1e3 if request.HasField("min_interval_ms") else INTERVAL_S
    return Stop(request.tolerance, request.budget, request.time_limit_ms / 1e3), interval_s


def write_update(
    standing: Standing, writer: ExplanationWriter, into: service_pb2.ExplainProgressivelyResponse
) -> service_pb2.ExplainProgressivelyResponse:
    """Fill in how one window stands, and return the message."""
    outcome, into.final = standing.outcome, bool(standing.ended)
    found = outcome.attribution if isinstance(outcome, Update) else outcome
    answer = Answer(standing.job, found, 0, standing.queue_s, standing.compute_s)
    writer.write(answer, into.explanation)
    if isinstance(outcome, Update):
        into.update = outcome.number
        into.stop_reason = _REASONS[outcome.reason]
        if outcome.half_width is not None:
            into.interval_half_width.CopyFrom(tensor_of(outcome.half_width))
        if outcome.relative_error is not None:
            into.relative_error = outcome.relative_error
    return into


def sender(context: Any, writer: ExplanationWriter, table: csi_pb2.ToneTable) -> Callable[[Standing], Awaitable[None]]:
    """Return what writes one update; the first carries the tone table."""
    rest: list[csi_pb2.ToneTable] = [table]

    async def send(standing: Standing) -> None:
        response = service_pb2.ExplainProgressivelyResponse(tone_table=rest.pop() if rest else None)
        await context.write(write_update(standing, writer, response))

    return send
