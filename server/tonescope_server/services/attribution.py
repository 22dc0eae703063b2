"""``AttributionService``: one batch of windows, or a live stream.

Here messages become plain values, calls get their model and their plan, and results become messages. What a stream
does between the two is ``live``'s.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import structlog

from tonescope.v1 import attribution_service_pb2 as service_pb2
from tonescope.v1 import attribution_service_pb2_grpc as service_grpc
from tonescope.v1 import live_pb2
from tonescope_server.engine.prepared import Prepared
from tonescope_server.errors import InvalidInputError, OverloadedError, TonescopeError, UnavailableError
from tonescope_server.live.batch import Patience, Runner, Sharing, explain_all
from tonescope_server.live.buffer import WindowBuffer
from tonescope_server.live.checker import StreamChecker
from tonescope_server.live.intake import Intake
from tonescope_server.live.messages import Answer, Job, Notice, Options
from tonescope_server.live.progressive import Progressive
from tonescope_server.live.protocol import Agreement, Conversation, Said, negotiate
from tonescope_server.live.session import Checking, Drain, Session, Totals
from tonescope_server.services.convert import (
    check_size,
    decoder_of,
    frame_of,
    normalisation_code,
    options_of,
    overload_code,
    row_table_of,
    window_of,
)
from tonescope_server.services.explainers import Explainers, ModelInUse
from tonescope_server.services.explanations import ExplanationWriter, method_call
from tonescope_server.services.notices import message_of_notice
from tonescope_server.services.progressive import conditions_of, sender
from tonescope_server.services.status import message_of

_END = vars(grpc.aio)["EOF"]  # the stubs leave it out
# Parameters that are larger are read, and written back, where nobody waits for it: a tenth of a millisecond a kilobyte.
READ_INLINE_BYTES = 16 << 10
log = structlog.get_logger("tonescope.services")
_SAID = {"open": Said.OPEN, "frames": Said.FRAMES, "windows": Said.WINDOWS, None: Said.NOTHING}

_T = TypeVar("_T")


class AttributionService(service_grpc.AttributionServiceServicer):
    """Explains predictions.

    Args:
        explainers: the models in use.
        computing: where dear plans run.
        drain: the daemon's word that it is going away.
        totals: counts over all streams.
        max_streams: the most live streams at once.
        queue_windows: the most windows that wait in one of them.
        checking: where the checks of live streams run; None means that there are none.
    """

    def __init__(
        self,
        explainers: Explainers,
        computing: Executor,
        drain: Drain,
        totals: Totals,
        max_streams: int,
        queue_windows: int,
        checking: Executor | None = None,
    ) -> None:
        self._explainers = explainers
        self._computing = computing
        self._drain = drain
        self._totals = totals
        self._max_streams = max_streams
        self._queue_windows = queue_windows
        self._checks = checking
        self._shared: dict[Prepared, Sharing] = {}

    async def Explain(  # noqa: N802  the contract's name
        self, request: service_pb2.ExplainRequest, context: Any
    ) -> service_pb2.ExplainResponse:
        """Explain a batch of windows; one that cannot be explained is answered with its own problem."""
        opening = _opening(request)
        options, model, prepared = await self._prepare(opening)
        agreement = negotiate(options, model.model, len(request.windows))
        normalisers, first = self._explainers.host.normalisers, request.first_window_index
        intake = Intake(options, agreement, model.model, normalisers, first)
        jobs = intake.take(map(window_of, request.windows), time.perf_counter())
        patience = Patience(context.time_remaining())
        try:
            answers = await explain_all(jobs, self._runner(prepared, patience))
        finally:
            patience.give_up()
        response = service_pb2.ExplainResponse(tone_table=row_table_of(model.model))
        writer = await self._apart(opening, ExplanationWriter, model.model, prepared, agreement.want)
        for answer in answers:
            writer.write(answer, response.explanations.add())
        return response

    async def ExplainProgressively(  # type: ignore[override]  # noqa: N802
        self, request: service_pb2.ExplainProgressivelyRequest, context: Any
    ) -> None:
        """Explain a few windows by a method that gets better with time, and answer as it does."""
        if self._drain.begun.is_set():
            raise UnavailableError("the daemon is draining: connect elsewhere, or later")
        totals = self._totals.progressive
        totals.calls += 1
        totals.open_calls += 1
        try:
            await self._explain_progressively(request, context)
        finally:
            totals.open_calls -= 1

    async def _explain_progressively(self, request: service_pb2.ExplainProgressivelyRequest, context: Any) -> None:
        arrived = time.perf_counter()
        stop, interval_s = conditions_of(request)
        opening = _opening(request)
        options, model, prepared = await self._prepare(opening, timed=False)
        agreement = negotiate(options, model.model, len(request.windows))
        jobs = Intake(options, agreement, model.model, self._explainers.host.normalisers).take(
            map(window_of, request.windows), arrived
        )
        progressive = Progressive(
            prepared,
            jobs,
            stop,
            interval_s,
            self._computing,
            Patience(context.time_remaining()),
            self._totals.progressive,
            self._drain.begun.is_set,
        )
        writer = await self._apart(opening, ExplanationWriter, model.model, prepared, agreement.want)
        await progressive.run(sender(context, writer, row_table_of(model.model)))

    async def Live(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Explain a live stream of frames or windows as they come."""
        if self._drain.begun.is_set():
            raise UnavailableError("the daemon is draining: connect elsewhere, or later")
        if self._totals.open_streams >= self._max_streams:
            raise OverloadedError(f"live streams: expected at most {self._max_streams}, got one more")
        self._totals.streams += 1
        self._totals.open_streams += 1
        try:
            await self._live(context)
        finally:
            self._totals.open_streams -= 1

    async def _live(self, context: Any) -> None:
        conversation = Conversation()
        first = await context.read()
        conversation.hear(said_of(first))
        if first.open.default_format:
            decoder_of(self._explainers.host.decoders, first.open.default_format)
        opening = first.open
        check_size(opening.options.method.parameters)
        options, model, prepared = await self._prepare(opening)
        agreement = negotiate(options, model.model, self._queue_windows)
        checking = self._checking(model, agreement, prepared)
        samples = checking.checker.samples if checking is not None else None
        intake = Intake(options, agreement, model.model, self._explainers.host.normalisers, samples=samples)
        patience = Patience(context.time_remaining())
        buffer = WindowBuffer(agreement.queue_windows, agreement.overload, agreement.latency_budget_s)
        sharing = self._join(prepared)
        try:
            runner = self._runner(prepared, patience, sharing)
            opened = await self._apart(opening, opened_of, options, agreement, model, prepared, runner.inline)
            log.info("stream opened", stream=opened.stream_id, source=options.source_id, peer=context.peer())
            await context.write(live_pb2.LiveResponse(opened=opened))
            intake.notices.extend(agreement.warnings)
            writer = await self._apart(opening, ExplanationWriter, model.model, prepared, agreement.want)
            receive = self._receiver(context, conversation, intake, options.default_format)
            session = Session(intake, buffer, runner, self._totals, checking)
            with _end_logged(opened.stream_id, session, self._drain):
                await session.run(receive, _sender(context, writer), self._drain)
        finally:
            patience.give_up()
            self._leave(prepared, sharing)

    async def _prepare(self, opening: live_pb2.Open, timed: bool = True) -> tuple[Options, ModelInUse, Prepared]:
        options = await self._apart(opening, options_of, opening)
        model = await self._explainers.get(options.model, options.version, options.tone_layout)
        prepared = await self._explainers.prepare(model, options.method, options.target, options.parameters, timed)
        return options, model, prepared

    async def _apart(self, opening: live_pb2.Open, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do what goes through all parameters: many of them on the executor, so that nobody else waits for it."""
        if opening.options.method.parameters.ByteSize() < READ_INLINE_BYTES:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._explainers.executor, work, *arguments)

    def _runner(self, prepared: Prepared, patience: Patience, sharing: Sharing | None = None) -> Runner:
        uses = prepared.uses_previous
        return Runner(
            prepared, self._computing, patience, bounded=prepared.is_bounded, sharing=sharing, uses_previous=uses
        )

    def _checking(self, model: ModelInUse, agreement: Agreement, prepared: Prepared) -> Checking | None:
        if self._checks is None:
            return None
        method = prepared.method
        checker = StreamChecker(model.model, agreement, method.name, resolves_tones=method.resolves_tones)
        return Checking(checker, self._checks)

    def _join(self, prepared: Prepared) -> Sharing:
        """Return what runs this request for every stream that makes it."""
        sharing = self._shared.setdefault(prepared, Sharing(prepared))
        sharing.streams += 1
        return sharing

    def _leave(self, prepared: Prepared, sharing: Sharing) -> None:
        sharing.streams -= 1
        if not sharing.streams:
            del self._shared[prepared]

    def _receiver(
        self, context: Any, conversation: Conversation, intake: Intake, default_format: str
    ) -> Callable[[], Any]:
        """Return what waits for a message and turns it into windows."""
        decoders = self._explainers.host.decoders

        async def receive() -> list[Job] | None:
            message = await context.read()
            if message is _END:
                return None
            now = time.perf_counter()
            said = said_of(message)
            conversation.hear(said)
            if said is Said.WINDOWS:
                return intake.take(map(window_of, message.windows.windows), now)
            frames = message.frames.frames
            return intake.frames([frame_of(frame, decoders, default_format) for frame in frames], now)

        return receive


@contextmanager
def _end_logged(stream_id: str, session: Session, drain: Drain) -> Iterator[None]:
    """Log how a stream ended and what became of it, also where it broke: then nobody else has its counts."""
    cause: dict[str, str] = {}
    try:
        yield
        cause["cause"] = "drained" if drain.begun.is_set() else "closed"
    except asyncio.CancelledError:
        cause["cause"] = "cancelled"
        raise
    except TonescopeError as error:
        cause.update(cause=error.reason, error=message_of(error))
        raise
    except Exception as error:
        cause.update(cause=type(error).__name__)  # what it says, the interceptor logs
        raise
    finally:
        counts = session.summary()
        log.info(
            "stream ended",
            stream=stream_id,
            **cause,
            frames=counts.frames_received,
            frames_used=counts.frames_used,
            windows=counts.windows,
            explained=counts.explained,
            dropped=counts.dropped,
            failed=counts.failed,
        )


def said_of(message: Any) -> Said:
    """Say what a message from the client is."""
    if message is _END:
        return Said.END
    return _SAID[message.WhichOneof("message")]


def _sender(context: Any, writer: ExplanationWriter) -> Callable[[Sequence[Answer] | Notice], Any]:
    """Return what turns results into messages and writes them."""

    async def send(what: Sequence[Answer] | Notice) -> None:
        if isinstance(what, list | tuple):
            response = live_pb2.LiveResponse()
            explanations = response.explanations.explanations
            for answer in what:
                writer.write(answer, explanations.add())
        else:
            response = message_of_notice(what)  # type: ignore[arg-type]
        await context.write(response)

    return send


def _opening(request: service_pb2.ExplainRequest | service_pb2.ExplainProgressivelyRequest) -> live_pb2.Open:
    """Return what a single call has in common with the opening of a stream."""
    check_size(request.options.method.parameters)  # before it is copied
    if not request.windows:
        raise InvalidInputError("windows: expected at least one, got none")
    return live_pb2.Open(options=request.options, normalisation=request.normalisation, statistics=request.statistics)


def opened_of(
    options: Options, agreement: Agreement, model: ModelInUse, prepared: Prepared, inline: bool
) -> live_pb2.Opened:
    """Return what was negotiated, as the wire has it."""
    known = model.model
    opened = live_pb2.Opened(
        stream_id=f"{options.source_id or 'stream'}-{uuid.uuid4().hex[:12]}",
        model=known.name,
        model_version=known.version,
        model_digest=known.digest,
        tone_table=row_table_of(known),
        normalisation=normalisation_code(agreement.normalisation),
        method=method_call(prepared),
        queue_windows=agreement.queue_windows,
        overload_policy=overload_code(agreement.overload),
        inline=inline,
        window_shape=known.cells.shape,
        frame_lengths=agreement.frame_lengths,
    )
    opened.windowing.window_frames = agreement.window_frames
    opened.windowing.hop_frames = agreement.hop_frames
    return opened
