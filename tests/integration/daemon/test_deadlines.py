"""Deadlines and cancellation end the work, and the worker is free again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tonescope_server.plugin.api import Estimate, ModelAccess, Parameters, ProceduralMethod, Windows
from tonescope_server.plugin.host import PluginHost

from .messages import BATCH, explain_request, opening, options, windows
from .talk import Conversation, attribution, explained, live, until


class Endless(ProceduralMethod):
    """A method that goes on for ever, but for windows of zeros."""

    name = "endless"
    summary = "goes on for ever"

    def attribute(self, model: ModelAccess, windows: Windows, parameters: Parameters) -> Estimate:
        while windows.x.any():
            model.score(windows.x, np.arange(len(windows.x)))
        return Estimate(cells=np.zeros_like(windows.x))


@pytest.fixture
def with_endless(start_daemon: Any) -> Iterator[tuple[Any, grpc.Channel]]:
    """A daemon with one worker, and a method that keeps it for ever."""
    host = PluginHost.load()
    host.methods["endless"] = Endless()
    host._origins["methods", "endless"] = host.origin("methods", "occlusion")
    running = start_daemon(host, workers=1)
    with grpc.insecure_channel(running.address) as channel:
        yield running, channel


ZEROS = np.zeros((1, 56, 4), np.float32)


def worker_is_free(channel: grpc.Channel) -> bool:
    """Say whether the only worker answers: this method never runs anywhere else."""
    response = attribution(channel).Explain(explain_request(ZEROS, options(method="endless")), timeout=5)
    return not response.explanations[0].HasField("problem")


def test_a_deadline_ends_the_work_and_the_worker_is_free_again(with_endless: Any) -> None:
    _, channel = with_endless
    assert worker_is_free(channel)
    start = time.monotonic()
    with pytest.raises(grpc.RpcError) as raised:
        attribution(channel).Explain(explain_request(asked=options(method="endless")), timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert worker_is_free(channel)
    assert time.monotonic() - start < 3


def test_a_cancelled_call_ends_its_work(with_endless: Any) -> None:
    _, channel = with_endless
    call = attribution(channel).Explain.future(explain_request(asked=options(method="endless")))
    time.sleep(0.1)
    call.cancel()
    assert worker_is_free(channel)


def test_a_cancelled_stream_is_forgotten_and_its_work_ends(with_endless: Any) -> None:
    running, channel = with_endless
    talk = Conversation(channel, opening(options(method="endless")))
    assert not talk.opened.inline
    talk.say(windows(BATCH))
    time.sleep(0.1)
    assert running.daemon.totals.open_streams == 1
    talk.call.cancel()
    until(lambda: running.daemon.totals.open_streams == 0)
    assert worker_is_free(channel)


def test_work_that_never_ends_does_not_keep_other_streams_waiting(with_endless: Any) -> None:
    _, channel = with_endless
    stuck = Conversation(channel, opening(options(method="endless")))
    stuck.say(windows(BATCH))
    assert len(explained(live(channel, opening(), windows(BATCH), timeout=5))) == len(BATCH)
    stuck.call.cancel()
