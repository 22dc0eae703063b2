"""The rules of a live conversation: what may be said when, and what is agreed on at its opening.

No I/O, no clock, no computing: messages in, decisions out. What becomes of frames is in ``intake``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from tonescope_server.csi.windows import accepted_lengths
from tonescope_server.errors import ParameterError, ProtocolError, ShapeError
from tonescope_server.live.messages import Options, Overload, Wanted, Warned
from tonescope_server.models.model import Model

TOP_K = 8
MAX_HOP_FRAMES = 1 << 20


class Said(StrEnum):
    """What a message from the client is."""

    OPEN = "open"
    FRAMES = "frames"
    WINDOWS = "windows"
    NOTHING = "a message with nothing in it"
    END = "the end of the stream"


class Conversation:
    """Open comes first, and only first."""

    def __init__(self) -> None:
        self._is_open = False

    def hear(self, said: Said) -> None:
        """Take note of a message.

        Raises:
            ProtocolError: it may not come now.
        """
        if not self._is_open:
            if said is not Said.OPEN:
                raise ProtocolError(f"live stream: expected open as the first message, got {said}")
            self._is_open = True
        elif said is Said.OPEN or said is Said.NOTHING:
            raise ProtocolError(f"live stream: expected frames or windows after the first message, got {said}")


@dataclass(frozen=True)
class Agreement:
    """What was negotiated.

    Attributes:
        frame_lengths: the lengths that a frame may have.
        normalisation: how the frames' windows are normalised.
        want: what explanations carry; ``top_k`` is resolved.
        window_normalisation: how windows that come as such are: "none" unless the client asked for more.
        warnings: what the client should know from the start.
    """

    window_frames: int
    hop_frames: int
    frame_lengths: tuple[int, ...]
    normalisation: str
    window_normalisation: str
    queue_windows: int
    overload: Overload
    latency_budget_s: float
    want: Wanted
    warnings: tuple[Warned, ...] = ()


def negotiate(options: Options, model: Model, most_windows: int) -> Agreement:
    """Settle what the client left open, and refuse what cannot be.

    Args:
        options: what the client asked for.
        model: the model that explains.
        most_windows: the daemon's bound on the windows that wait.

    Raises:
        ShapeError: windows of another length than the model takes.
        ParameterError: a hop or normalisation that cannot be.
    """
    window = model.manifest.window
    normalisation, warnings = _normalisation(options, model)
    if options.queue_windows > most_windows:
        text = f"queue_windows: {options.queue_windows} were asked for; this daemon holds at most {most_windows}"
        warnings = (*warnings, Warned("QUEUE_WINDOWS", text))
    return Agreement(
        window_frames=_window_frames(options, model),
        hop_frames=_hop_frames(options.hop_frames or window.hop or model.cells.n_frames),
        frame_lengths=tuple(window.frame_lengths) or accepted_lengths(model.table),
        normalisation=normalisation,
        window_normalisation="none" if options.normalisation is None else normalisation,
        queue_windows=min(options.queue_windows or most_windows, most_windows),
        overload=options.overload,
        latency_budget_s=options.latency_budget_s,
        want=replace(options.want, top_k=min(options.want.top_k or TOP_K, model.cells.n_tones)),
        warnings=(*warnings, *(Warned("MODEL", text) for text in model.warnings_for(options.normalisation))),
    )


def _window_frames(options: Options, model: Model) -> int:
    takes = model.cells.n_frames
    if options.window_frames not in (0, takes):
        raise ShapeError(
            f"window_frames: model '{model.name}' expected {takes} (0 means the same), got {options.window_frames}"
        )
    return takes


def _hop_frames(hop: int) -> int:
    if hop > MAX_HOP_FRAMES:
        raise ParameterError(f"hop_frames: expected at most {MAX_HOP_FRAMES}, got {hop}")
    return hop


def _normalisation(options: Options, model: Model) -> tuple[str, tuple[Warned, ...]]:
    asked = options.normalisation
    if asked == "recording" and not options.statistics:
        raise ParameterError("normalisation: 'recording' expected the recording's statistics beside it, got none")
    if asked is not None:
        return asked, ()
    stated = model.manifest.normalisation.kind
    if stated == "recording" and not options.statistics:
        text = (
            f"model '{model.name}' is normalised with the statistics of a recording; a stream has none to give, "
            "so those of the stream so far are used: send statistics for the former"
        )
        return "running", (Warned("NORMALISATION_RUNNING", text),)
    return stated, ()
