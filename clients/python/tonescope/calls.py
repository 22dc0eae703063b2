"""Whole requests, and whole answers put together: what the blocking and the asyncio client have in common."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope import decode
from tonescope.errors import InvalidInputError, ParameterError, ShapeError, TonescopeError, make_error
from tonescope.fields import built
from tonescope.request import (
    Statistics,
    TargetLike,
    WindowLike,
    method_parameters,
    normalisation,
    options,
    statistics_messages,
    window_message,
)
from tonescope.results import Explanation, Explanations
from tonescope.v1 import attribution_service_pb2, csi_pb2, live_pb2

Windows = npt.NDArray[Any] | Sequence[WindowLike]
_REQUEST_BYTES = 1 << 20
OVERLOAD = {
    "drop_oldest": live_pb2.OVERLOAD_POLICY_DROP_OLDEST,
    "back_pressure": live_pb2.OVERLOAD_POLICY_BACK_PRESSURE,
}


def explain_requests(
    windows: Windows,
    *,
    model: str,
    version: str,
    method: str,
    target: TargetLike,
    parameters: Mapping[str, Any],
    top_k: int,
    cells: bool,
    declared_rows: bool = False,
    parts: bool = False,
    maps: bool = False,
    units: bool = False,
    normalise: str,
    statistics: Sequence[Statistics],
) -> Iterator[attribution_service_pb2.ExplainRequest]:
    """Build the requests for a batch: several where one would be too long. Answers do not depend on the cut.

    Raises:
        ShapeError: no batch axis, or no window at all.
    """
    request = attribution_service_pb2.ExplainRequest(
        options=options(model, version, target, method, parameters, top_k, cells, declared_rows, parts, maps, units),
        normalisation=normalisation(normalise),
        statistics=statistics_messages(statistics),
    )
    size = 0
    for message in window_messages(windows):
        if size and size + len(message.values.data) > _REQUEST_BYTES:
            yield request
            request = attribution_service_pb2.ExplainRequest(
                options=request.options,
                normalisation=request.normalisation,
                statistics=request.statistics,
                first_window_index=request.first_window_index + len(request.windows),
            )
            size = 0
        request.windows.append(message)
        size += len(message.values.data)
    if not request.windows:
        raise ShapeError("windows: expected at least one, got none")
    yield request


def window_messages(windows: Windows) -> Iterator[csi_pb2.Window]:
    """Build the message of each window.

    Raises:
        ShapeError: no batch axis.
    """
    if not isinstance(windows, np.ndarray | Sequence):
        got = type(windows).__name__
        raise ShapeError(f"windows: expected an array with a batch axis or a list of windows, got one {got}")
    if isinstance(windows, np.ndarray) and windows.ndim < 2:
        raise ShapeError(f"windows: expected a batch axis and the input's shape, got {windows.shape}")
    for window in windows:
        yield window_message(window)


def explanations(
    responses: Iterable[attribution_service_pb2.ExplainResponse], windows: Windows, raise_problems: bool
) -> Explanations:
    """Put the answers of one batch of windows together.

    Raises:
        TonescopeError: the first window's problem, where ``raise_problems``.
    """
    found: list[Explanation] = []
    table = None
    for response in responses:
        table = table or decode.tone_table(response.tone_table)
        found.extend(decode.explanation(each, table) for each in response.explanations)
    for each in found:
        if raise_problems and each.problem is not None:
            raise of_a_batch(each.problem, windows)
    return Explanations(found, table or decode.tone_table(csi_pb2.ToneTable()))


def of_a_batch(problem: TonescopeError, windows: Windows) -> TonescopeError:
    """Add what an array's first axis was taken for, as one window without a batch axis has the wrong shape, too."""
    if not isinstance(problem, ShapeError) or not isinstance(windows, np.ndarray):
        return problem
    shape = windows.shape
    taken = f"the array {shape} is taken for {shape[0]} windows of {shape[1:]}"
    return make_error(problem.reason, f"{problem}; {taken}", problem.code)


def opening(
    *,
    model: str,
    version: str = "",
    method: str = "",
    target: TargetLike = None,
    parameters: Mapping[str, Any] | None = None,
    top_k: int = 0,
    cells: bool = False,
    declared_rows: bool = False,
    parts: bool = False,
    maps: bool = False,
    units: bool = False,
    window_frames: int = 0,
    hop_frames: int = 0,
    normalise: str = "",
    statistics: Sequence[Statistics] = (),
    tone_layout: str = "",
    source_id: str = "",
    latency_budget_ms: float = 0.0,
    overload: str = "drop_oldest",
    queue_windows: int = 0,
    default_format: str = "",
    **named: Any,
) -> live_pb2.Open:
    """Build the message that opens a stream. Zero and empty mean the manifest's or the daemon's own.

    What is no option here is a parameter of the method, as in ``explain``: which ones there are, the daemon knows.

    Raises:
        ParameterError: an option of the wrong type or out of range, or a parameter that cannot travel.
        InvalidInputError: an overload policy or a normalisation that there is not.
    """
    if overload not in OVERLOAD:
        raise InvalidInputError(f"overload: expected one of {', '.join(OVERLOAD)}, got {overload!r}")
    windowing = built(csi_pb2.Windowing, ParameterError, window_frames=window_frames, hop_frames=hop_frames)
    return built(
        live_pb2.Open,
        ParameterError,
        options=options(
            model,
            version,
            target,
            method,
            method_parameters(parameters, named),
            top_k,
            cells,
            declared_rows,
            parts,
            maps,
            units,
        ),
        windowing=windowing,
        normalisation=normalisation(normalise),
        statistics=statistics_messages(statistics),
        tone_layout=tone_layout,
        source_id=source_id or f"python-{uuid.uuid4().hex}",
        latency_budget_ms=latency_budget_ms,
        overload_policy=OVERLOAD[overload],
        queue_windows=queue_windows,
        default_format=default_format,
    )


def one_source(frames: object, windows: object) -> None:
    """Refuse frames and windows together, and what gives none of either."""
    if frames is not None and windows is not None:
        raise InvalidInputError("live stream: expected frames or windows, got both")
    for name, source in {"frames": frames, "windows": windows}.items():
        if source is not None and not isinstance(source, Iterable | AsyncIterable):
            raise InvalidInputError(f"live stream: {name}: expected an iterable, got {type(source).__name__}")
