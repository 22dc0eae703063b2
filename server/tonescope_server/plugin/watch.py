"""Whose code a thread is in, and since when: what tells a plugin that hangs from a model that takes its time.

A thread is watched where somebody asked for it (``begin``): the daemon's workers are, a notebook is not. Who watches
it, and what comes of it, is ``live.workers``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from threading import Lock, get_ident, local
from time import monotonic
from typing import TypeVar

_Item = TypeVar("_Item")


class Abandoned(BaseException):
    """Ends a thread that was given up: no error, and so nothing that a plugin's own ``except Exception`` swallows."""


class Watch:
    """What one thread does.

    Attributes:
        method: the method whose code it is in.
    """

    __slots__ = ("_given_up", "_lock", "_since", "_thread", "method")

    def __init__(self) -> None:
        self.method = ""
        self._since: float | None = None
        self._lock = Lock()
        self._given_up = False
        self._thread = get_ident()

    def enter(self, method: str) -> None:
        """Note that the thread goes into a plugin's code, or back to it."""
        with self._lock:
            self.method = method
            self._since = monotonic()

    def leave(self) -> bool:
        """Note that it is back; say whether it had been in a plugin's code.

        Raises:
            Abandoned: too late: the thread was given up meanwhile.
        """
        with self._lock:
            was, self._since = self._since is not None, None
            if self._given_up:
                _raise_in(self._thread, None)  # what may be under way already; this takes its place
                raise Abandoned
        return was

    def give_up(self, limit_s: float) -> bool:
        """Give the thread up where it has been in a plugin's code for longer; say whether it was."""
        with self._lock:
            if self._since is None or monotonic() - self._since <= limit_s:
                return False
            self._given_up = True
        self.end()
        return True

    def end(self) -> None:
        """End what a thread that was given up still does, if Python does it: what waits in C goes on until it is back.

        A loop left alone would take the interpreter's lock from every other thread, for good.
        """
        with self._lock:
            if self._given_up and self._since is not None:
                _raise_in(self._thread, Abandoned)


_threads = local()


def begin() -> Watch:
    """Have this thread watched from now on."""
    watch: Watch = Watch()
    _threads.watch = watch
    return watch


class in_plugin:  # noqa: N801  it reads as what it is: ``with in_plugin(name)``
    """A stretch of a plugin's code; on a thread that nobody watches it does nothing."""

    __slots__ = ("_method", "_watch")

    def __init__(self, method: str) -> None:
        self._method = method

    def __enter__(self) -> None:
        watch: Watch | None = getattr(_threads, "watch", None)
        self._watch = watch
        if watch is not None:
            watch.enter(self._method)

    def __exit__(self, *raised: object) -> None:
        if self._watch is not None:
            self._watch.leave()


class in_host:  # noqa: N801  as above
    """A stretch of our own code within a plugin's: a model evaluation. Afterwards the plugin's time begins anew."""

    __slots__ = ("_watch",)

    def __enter__(self) -> None:
        watch: Watch | None = getattr(_threads, "watch", None)
        self._watch = watch if watch is not None and watch.leave() else None

    def __exit__(self, *raised: object) -> None:
        if self._watch is not None:
            self._watch.enter(self._watch.method)


def steps_of(method: str, items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield what a plugin's generator does; only the time inside it is the plugin's, whichever thread asks for it."""
    while True:
        with in_plugin(method):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def _raise_in(thread: int, what: type[BaseException] | None) -> None:
    """Have an exception raised in another thread, before its next instruction of Python; None takes it back."""
    raised = None if what is None else ctypes.py_object(what)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
