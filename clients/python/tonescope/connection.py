"""What a live stream tells of its connection while it runs: that it has none, and that it has one again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tonescope.errors import TonescopeError


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream has no daemon any more, and tries to reach it again. Told once, however many attempts follow.

    Attributes:
        address: the daemon's.
        error: why; its message names the address.
        give_up_after_s: seconds for which the stream goes on trying.
    """

    address: str
    error: TonescopeError
    give_up_after_s: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The daemon answers again, and the stream goes on. Told after every ``Disconnected``, unless the stream gave up.

    Attributes:
        address: the daemon's.
        away_s: seconds from the loss to the daemon's answer.
        attempts: how often it was tried, the attempt that succeeded included.
    """

    address: str
    away_s: float
    attempts: int


ConnectionEvent = Disconnected | Reconnected
OnConnection = Callable[[ConnectionEvent], object]
