"""The daemon as commands see it: a client whose errors are the command line's own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

import tonescope
from tonescope.results import ModelInfo
from tonescope_server import errors

_OURS = {
    each.reason: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.TonescopeError)
}


@contextmanager
def daemon(address: str, timeout_s: float = 60.0) -> Iterator[tonescope.Client]:
    """Connect for the length of the block.

    Raises:
        TonescopeError: of the daemon's tree, whatever the client raised.
    """
    with our_errors(), tonescope.connect(address, timeout=timeout_s) as client:
        yield client


@contextmanager
def our_errors() -> Iterator[None]:
    """Turn the client's errors into the command line's own.

    Raises:
        TonescopeError: of the daemon's tree, whatever the client raised.
    """
    try:
        yield
    except tonescope.TonescopeError as error:
        raise _OURS.get(error.reason, errors.TonescopeError)(str(error)) from error


def say_connection(event: tonescope.ConnectionEvent, console: Console) -> None:
    """Say in one line that the daemon is gone, or back."""
    if isinstance(event, tonescope.Disconnected):
        said = f"connection lost: {event.error}; trying again{_for(event.give_up_after_s)}"
    else:
        said = f"connected to {event.address} again, after {event.away_s:.1f} s"
    console.print(said, soft_wrap=True)


def wait_for(client: tonescope.Client, seconds: float, console: Console) -> None:
    """Wait for a daemon that is not there yet; say so where it is not there at once.

    Raises:
        UnavailableError: it did not come within that time.
    """
    try:
        client.models()
    except tonescope.errors.UnavailableError as error:
        if seconds <= 0:
            raise
        began = time.monotonic()
        console.print(f"{error}; trying again{_for(seconds)}", soft_wrap=True)
        client.wait_until_ready(min(seconds, threading.TIMEOUT_MAX))
        console.print(f"connected to {client.address}, after {time.monotonic() - began:.1f} s", soft_wrap=True)


def _for(seconds: float) -> str:
    return f" for {seconds:g} s" if math.isfinite(seconds) else ""


@dataclass
class Ended:
    """How a stream ended.

    Attributes:
        early: what ended it before its time; None where it came to its end.
    """

    early: BaseException | None = None

    @property
    def section(self) -> dict[str, str] | None:
        """The section ``error`` of a report: reason and message; None where the stream came to its end."""
        if self.early is None:
            return None
        reason = getattr(self.early, "reason", "INTERRUPTED")
        return {"reason": reason, "message": str(self.early) or "interrupted"}

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C: then the last connection was not lost, but left."""
        return isinstance(self.early, KeyboardInterrupt)

    def again(self) -> None:
        """Raise what ended the stream early, now that what it gave has been told."""
        if self.early is not None:
            raise self.early


@contextmanager
def until_it_ends(stream: tonescope.LiveStream) -> Iterator[Ended]:
    """Hold a stream open for the length of the block, and keep what breaks it off, by the daemon or by Ctrl-C.

    What the stream gave until then can so be told; what never was opened gave nothing, and its error is raised.
    """
    ended = Ended()
    try:
        with stream:
            yield ended
    except (tonescope.TonescopeError, KeyboardInterrupt) as error:
        if stream.opened is None:
            raise
        ended.early = error


def model_name(client: tonescope.Client, asked: str) -> str:
    """Return the model that was asked for; where none was, the daemon's only one.

    Raises:
        UnknownModelError: none was named, and the daemon has none or several.
    """
    return asked or only_model(client.models(), client.address)


def only_model(models: Iterable[ModelInfo], address: str) -> str:
    """Return the name of the only model there is.

    Raises:
        UnknownModelError: there is none, or several.
    """
    names = sorted({model.name for model in models if model.state != "failed"})
    if len(names) == 1:
        return names[0]
    found = f"several: {', '.join(names)}" if names else "none"
    raise errors.UnknownModelError(f"--model: expected a name, as the daemon at {address} has {found}")
