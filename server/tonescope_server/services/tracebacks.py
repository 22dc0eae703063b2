"""What the log says of an unexpected exception: where it came from, in a bounded length, never what was explained.

Local variables are whole requests: to render them takes seconds, during which no stream is served, and leaves the
values of somebody's windows in a log. So an exception is its type, its message cut short and the lines that led to it.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any

MAX_FRAMES = 16
MAX_CAUSES = 4
MAX_MESSAGE = 300
# A message is cut to this before it is searched: some carry a whole request.
_MAX_SEARCHED = 10_000
# Numbers in square brackets are the values of an array or list; shapes stand in round ones.
_ARRAY = re.compile(r"\[[\s\[]*[-+]?(?:nan|inf|\d)[-+\d.einaf,\s\[\]]*")


def bounded_traceback(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace ``exc_info`` by the text ``exception``: a processor of structlog."""
    info = event.pop("exc_info", None)
    if info:
        error = info if isinstance(info, BaseException) else (info[1] if isinstance(info, tuple) else sys.exc_info()[1])
        if error is not None:
            event["exception"] = described(error)
    return event


def described(error: BaseException) -> str:
    """Describe an exception and what caused it, the first cause first, in at most some ten thousand characters."""
    return "\ncaused\n".join(_one(each) for each in reversed(list(_chain(error))))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(MAX_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ if error.__suppress_context__ else error.__cause__ or error.__context__


def _one(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-MAX_FRAMES)  # the last ones: where it was raised
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}: {(frame.line or '')[:160]}" for frame in frames]
    return "\n".join([*lines, f"{type(error).__name__}: {_message(error)}"])


def _message(error: BaseException) -> str:
    text = _ARRAY.sub("[…] ", " ".join(str(error)[:_MAX_SEARCHED].split()))
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"
