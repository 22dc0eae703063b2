from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from tonescope_server.live.workers import Workers
from tonescope_server.plugin.watch import Abandoned, in_host, in_plugin

LIMIT_S = 0.3


class HungError(Exception):
    pass


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(1, "tested", LIMIT_S, lambda method, limit_s: HungError(f"{method}: {limit_s}"))
    yield made
    made.shutdown()


def loop() -> None:
    while True:
        sum(range(100))


def hanging(what=loop):
    with in_plugin("mine"):
        what()


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_call_is_answered_with_its_result_or_its_error(workers: Workers) -> None:
    assert workers.submit(divmod, 7, 2).result(5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        workers.submit(divmod, 7, 0).result(5)
    with pytest.raises(SystemExit):
        workers.submit(exit, 3).result(5)
    assert workers.submit(int, "5").result(5) == 5


def test_who_waits_for_a_plugin_that_hangs_gets_an_error_and_the_next_call_a_thread(workers: Workers) -> None:
    hung, waiting = workers.submit(hanging), workers.submit(int, "5")
    with pytest.raises(HungError, match=f"mine: {LIMIT_S}"):
        hung.result(10)
    assert waiting.result(10) == 5


def test_a_loop_of_python_is_ended_also_where_it_catches_what_ends_it(workers: Workers) -> None:
    caught = []

    def stubborn() -> None:
        while len(caught) < 2:
            try:
                loop()
            except BaseException as error:  # noqa: BLE001  that is what is stubborn about it
                caught.append(type(error))

    for what in (loop, stubborn):
        with pytest.raises(HungError):
            workers.submit(hanging, what).result(10)
    end = time.monotonic() + 10
    while names().count("tested") > 1:
        assert time.monotonic() < end, "the threads that were given up go on"
        time.sleep(0.01)
    assert caught == [Abandoned, Abandoned]


def test_what_a_model_takes_does_not_count_and_a_plugins_time_begins_anew_after_it(workers: Workers) -> None:
    def patient() -> str:
        with in_plugin("mine"):
            for _ in range(3):
                time.sleep(LIMIT_S * 0.4)
                with in_host():
                    time.sleep(LIMIT_S * 2)
        time.sleep(LIMIT_S * 2)
        return "done"

    assert workers.submit(patient).result(20) == "done"


def test_without_a_limit_nothing_is_given_up() -> None:
    workers = Workers(1, "unlimited", 0.0, lambda method, limit_s: HungError())
    assert workers.submit(hanging, lambda: time.sleep(LIMIT_S * 3)).result(10) is None
    assert "unlimited-watch" not in names()
    workers.shutdown()


def test_shutting_down_cancels_what_waits_lets_what_runs_end_and_takes_no_more() -> None:
    workers = Workers(1, "closing", LIMIT_S, lambda method, limit_s: HungError())
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> bool:
        begun.set()
        return go_on.wait(10)

    running, waiting = workers.submit(slow), workers.submit(int)
    assert begun.wait(10)
    workers.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="no new calls after shutdown"):
        workers.submit(int)
    go_on.set()
    assert running.result(10)
    with pytest.raises(CancelledError):
        waiting.result(10)
    workers.join()
    assert "closing" not in names()


def test_shutting_down_does_not_wait_for_a_plugin_that_hangs() -> None:
    workers = Workers(2, "stuck", LIMIT_S, lambda method, limit_s: HungError())
    hung = workers.submit(hanging, lambda: threading.Event().wait(20))
    workers.shutdown()
    assert isinstance(hung.exception(0), HungError)
