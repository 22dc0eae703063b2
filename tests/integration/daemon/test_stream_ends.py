"""How a stream ended, and what became of it, is in the daemon's log: however it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from tests.integration.conftest import StartDaemon

from .messages import BATCH, Request, opening, windows
from .talk import Conversation, refusal, until


def _ended_well(talk: Conversation, begin_stop: Callable[[], Any]) -> None:
    talk.end()


def _broke_the_protocol(talk: Conversation, begin_stop: Callable[[], Any]) -> None:
    talk.say(Request())
    refusal(lambda: list(talk.call))


def _cancelled(talk: Conversation, begin_stop: Callable[[], Any]) -> None:
    talk.call.cancel()


def _drained(talk: Conversation, begin_stop: Callable[[], Any]) -> None:
    stopping = begin_stop()
    list(talk.call)
    stopping.result(20)


@pytest.mark.parametrize(
    ("end", "cause", "said"),
    [
        (_ended_well, "closed", ""),
        (_broke_the_protocol, "PROTOCOL", "expected frames or windows after the first message"),
        (_cancelled, "cancelled", ""),
        (_drained, "drained", ""),
    ],
)
def test_the_log_says_how_a_stream_ended_and_what_became_of_it(
    start_daemon: StartDaemon, end: Callable[..., None], cause: str, said: str
) -> None:
    daemon = start_daemon(log_level="info")
    with capture_logs() as logs, grpc.insecure_channel(daemon.address) as channel:
        talk = Conversation(channel, opening())
        talk.say(windows(BATCH[:3]))
        talk.next("explanations")
        end(talk, daemon.begin_stop)
        until(lambda: any(line["event"] == "stream ended" for line in logs))
    (line,) = [line for line in logs if line["event"] == "stream ended"]
    assert line["stream"] == talk.opened.stream_id
    assert line["cause"] == cause
    assert said in line.get("error", "")
    assert ("error" in line) == bool(said)
    assert (line["windows"], line["explained"], line["dropped"], line["failed"]) == (3, 3, 0, 0)
    assert (line["frames"], line["frames_used"]) == (0, 0)
