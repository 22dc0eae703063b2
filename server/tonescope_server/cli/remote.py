"""The daemon as commands see it: a client whose errors are the command line's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
        limit = f" for {event.give_up_after_s:g} s" if math.isfinite(event.give_up_after_s) else ""
        said = f"connection lost: {event.error}; trying again{limit}"
    else:
        said = f"connected to {event.address} again, after {event.away_s:.1f} s"
    console.print(said, soft_wrap=True)


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
