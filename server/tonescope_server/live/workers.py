"""The threads that run what is too dear for the event loop. One that a plugin does not give back is replaced.

A plugin's code may hang. The thread it holds is given up after a time limit, another takes its place, and whoever
waited gets an error that names the method. Model evaluations do not count (``plugin.watch``).
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import sleep
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from tonescope_server.plugin.watch import Abandoned, Watch, begin

_P = ParamSpec("_P")
_T = TypeVar("_T")
# A thread is looked at this often within the time limit, but no less often than once a second.
LOOKS = 10

OnHang = Callable[[str, float], Exception]


@dataclass
class _Task:
    future: Future[Any]
    call: Callable[[], Any]


class _Worker:
    """One thread, and what it is doing."""

    def __init__(self, queue: SimpleQueue[_Task | None], name: str) -> None:
        self._queue = queue
        self.task: _Task | None = None
        self.watch: Watch | None = None
        self.given_up = False
        # Not joined when the interpreter ends: a plugin that hangs would keep the process.
        self.thread = Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.watch = begin()
        try:
            while not self.given_up and (task := self._queue.get()) is not None:
                if task.future.set_running_or_notify_cancel():
                    self.task = task
                    self._do(task)
                    self.task = None
                del task  # an idle thread keeps nobody's arrays
        except Abandoned:
            return

    def _do(self, task: _Task) -> None:
        try:
            result = task.call()
        except Abandoned:
            raise
        except BaseException as error:  # noqa: BLE001  it belongs to those who wait
            task.future.set_exception(error)
        else:
            task.future.set_result(result)


class Workers(Executor):
    """A fixed number of threads.

    Args:
        count: how many.
        name: of the threads.
        limit_s: how long a plugin's code may keep a thread at a stretch; 0 means for ever.
        on_hang: is told the method and the limit, and returns the error that those who waited get.
    """

    def __init__(self, count: int, name: str, limit_s: float, on_hang: OnHang) -> None:
        self._count = count
        self._name = name
        self._limit_s = limit_s
        self._on_hang = on_hang
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._gone: list[_Worker] = []
        self._lock = Lock()
        self._closed = Event()
        if limit_s:
            Thread(target=self._look_after, name=f"{name}-watch", daemon=True).start()
        _all.add(self)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have a function called on one of the threads.

        Raises:
            RuntimeError: after ``shutdown``.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._closed.is_set():
                raise RuntimeError(f"{self._name}: no new calls after shutdown")
            self._queue.put(_Task(future, lambda: fn(*args, **kwargs)))
            if len(self._workers) < self._count:
                self._workers.append(_Worker(self._queue, self._name))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once each is done with its call and, unless they are cancelled, with what waits."""
        with self._lock:
            self._closed.set()
            while cancel_futures:
                try:
                    task = self._queue.get_nowait()
                except Empty:
                    break
                if task is not None:
                    task.future.cancel()
            for _ in self._workers:
                self._queue.put(None)
        if wait:
            self.join()

    def join(self) -> None:
        """Wait until every thread has ended that was not given up."""
        while running := [each for each in self._workers if each.thread.is_alive()]:
            running[0].thread.join(0.05)

    def _look_after(self) -> None:
        """Look at every thread, now and then, until all have ended."""
        every = min(self._limit_s / LOOKS, 1.0)
        while not self._closed.is_set() or any(each.thread.is_alive() for each in self._workers):
            sleep(every)
            for worker in list(self._workers):
                if worker.watch is not None and worker.watch.give_up(self._limit_s):
                    self._give_up(worker, worker.watch.method)
            self._gone = [each for each in self._gone if each.thread.is_alive()]
            for worker in self._gone:
                assert worker.watch is not None  # it was given up by it
                worker.watch.end()  # again: a plugin may have caught the last one

    def _give_up(self, worker: _Worker, method: str) -> None:
        task, worker.given_up = worker.task, True
        with self._lock:
            self._workers.remove(worker)
            self._gone.append(worker)
            self._workers.append(_Worker(self._queue, self._name))  # what may have told the old one to end tells this
        if task is not None:
            task.future.set_exception(self._on_hang(method, self._limit_s))


_all: WeakSet[Workers] = WeakSet()


@atexit.register
def _join_all() -> None:
    """Let threads finish what they are at: ONNX Runtime must not be running while the interpreter is taken down."""
    for workers in list(_all):
        workers.shutdown()
