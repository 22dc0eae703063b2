"""Explanations that get better with time: what is asked, and what each update says. Sending is the clients' affair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tonescope import decode
from tonescope.calls import Windows, of_a_batch, window_messages
from tonescope.errors import ParameterError
from tonescope.fields import built
from tonescope.request import Statistics, TargetLike, normalisation, options, statistics_messages
from tonescope.results import Array, Explanation, ToneTable
from tonescope.tensors import to_array
from tonescope.v1 import attribution_service_pb2 as service_pb2


@dataclass(frozen=True)
class Stop:
    """When a window is good enough, or has cost enough; zero stands for no such condition.

    The first estimate is always worked out, whatever it costs.

    Attributes:
        tolerance: stop where ``Update.relative_error`` is at most this, such as 0.05.
        budget: stop before more model evaluations than this, per window.
        time_limit_s: stop this long after the daemon was asked.
    """

    tolerance: float = 0.0
    budget: int = 0
    time_limit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Update:
    """One window's explanation as it stands.

    Attributes:
        explanation: of the window that its ``window_index`` says, with the ``evaluations`` spent on it so far.
        half_width: half the width of each tone's 95 % interval, (n_tones,), in the attribution's own units; None where
            there is no standard error.
        relative_error: the largest half width relative to the largest |attribution| of a tone; along a path,
            |convergence delta| relative to |f(x) − f(baseline)|; None where neither is known.
        number: of this update among those of its window, from 0; those missing were passed over.
        final: whether it is the window's last.
        stop_reason: "converged", "budget", "time_limit" or "exhausted" (the method has nothing more to add); empty
            until the last, and where the window could not be explained.
    """

    explanation: Explanation
    half_width: Array | None
    relative_error: float | None
    number: int
    final: bool
    stop_reason: str


def progressive_request(
    windows: Windows,
    stop: Stop | None,
    min_interval_s: float | None,
    *,
    model: str,
    version: str,
    method: str,
    target: TargetLike,
    parameters: Mapping[str, Any],
    normalise: str,
    statistics: Sequence[Statistics],
    **wanted: Any,
) -> service_pb2.ExplainProgressivelyRequest:
    """Build the request.

    Raises:
        ShapeError: no batch axis.
        ParameterError: a condition of the wrong type.
    """
    asked = stop or Stop()
    if not isinstance(asked, Stop):
        raise ParameterError(f"stop: expected a Stop or None, got {type(stop).__name__}")
    message = built(
        service_pb2.ExplainProgressivelyRequest,
        ParameterError,
        options=options(model, version, target, method, parameters, **wanted),
        normalisation=normalisation(normalise),
        statistics=statistics_messages(statistics),
        tolerance=asked.tolerance,
        budget=asked.budget,
        time_limit_ms=_milliseconds("time_limit_s", asked.time_limit_s),
        min_interval_ms=None if min_interval_s is None else _milliseconds("min_interval_s", min_interval_s),
    )
    message.windows.extend(window_messages(windows))
    return message


def _milliseconds(name: str, seconds: Any) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ParameterError(f"{name}: expected a number of seconds, got {seconds!r}")
    return seconds * 1e3


def reader(windows: Windows, raise_problems: bool) -> Callable[[service_pb2.ExplainProgressivelyResponse], Update]:
    """Return what reads the responses of one call, in order: the first brings the table that all need."""
    table = ToneTable("")

    def read(response: service_pb2.ExplainProgressivelyResponse) -> Update:
        nonlocal table
        if response.HasField("tone_table"):
            table = decode.tone_table(response.tone_table)
        explanation = decode.explanation(response.explanation, table)
        if raise_problems and explanation.problem is not None:
            raise of_a_batch(explanation.problem, windows)
        return update(response, explanation)

    return read


def update(response: service_pb2.ExplainProgressivelyResponse, explanation: Explanation) -> Update:
    """Read what a response says of an explanation that has been read."""
    has = response.HasField
    return Update(
        explanation,
        to_array(response.interval_half_width) if has("interval_half_width") else None,
        response.relative_error if has("relative_error") else None,
        response.update,
        response.final,
        decode.word(service_pb2.StopReason.Name(response.stop_reason), "STOP_REASON_"),
    )
