"""Bounds on streams and messages, and a bug that becomes INTERNAL without its text."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from tonescope.v1 import csi_pb2
from tonescope_server.plugin.host import PluginHost

from .messages import BATCH, explain_request, opening, windows
from .talk import Conversation, attribution, live, refusal, until


def test_one_stream_too_many_is_refused_and_room_is_given_again(start_daemon: Any) -> None:
    running = start_daemon(max_streams=2)
    with grpc.insecure_channel(running.address) as channel:
        first, second = Conversation(channel, opening()), Conversation(channel, opening())
        code, reason, message = refusal(lambda: live(channel, opening()))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert "at most 2" in message
        first.end()
        until(lambda: running.daemon.totals.open_streams == 1)
        Conversation(channel, opening()).end()
        second.end()


def test_a_message_beyond_the_bound_is_refused(start_daemon: Any) -> None:
    running = start_daemon(max_message_bytes=4096)
    with grpc.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            attribution(channel).Explain(explain_request(np.repeat(BATCH, 9, axis=0)))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        assert attribution(channel).Explain(explain_request()).explanations


class Faulty:
    """A normaliser of a plugin with a bug in it."""

    name = "running"
    summary = ""

    def for_stream(self, *arguments: Any) -> Any:
        raise KeyError("a secret that must not leave")


def test_a_bug_becomes_internal_with_an_id_and_without_its_text(
    start_daemon: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    host = PluginHost.load()
    host.normalisers["running"] = Faulty()
    running = start_daemon(host, log_format="json")
    with grpc.insecure_channel(running.address) as channel:
        request = opening(normalisation=csi_pb2.NORMALISATION_RUNNING)
        code, reason, message = refusal(lambda: live(channel, request))
        assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in message
        assert len(live(channel, opening(), windows(BATCH[:1]))) > 1
    log = capfd.readouterr().err
    request_id = message.split()[-1]
    assert len(request_id) == 32
    assert [line for line in log.splitlines() if request_id in line and "secret" in line]
    assert log.count(request_id) == 1
