"""Draining: not serving, told in-band, ended in order, and bounded."""

from __future__ import annotations

import itertools
import time
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .messages import BATCH, opening, options, windows
from .talk import Conversation


def test_draining_says_not_serving_then_tells_the_streams_then_ends_them(start_daemon: Any) -> None:
    running = start_daemon(drain_grace_s=10)
    with grpc.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        talk = Conversation(channel, opening())
        talk.say(windows(BATCH))
        talk.next("explanations")
        start = time.monotonic()
        stopping = running.begin_stop()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        rest = list(talk.call)
        # Warnings are of the checks, which look at a stream once more when it ends.
        kinds = [each.WhichOneof("message") for each in rest]
        assert [kind for kind in kinds if kind not in ("explanations", "warning")] == ["draining", "summary"]
        assert rest[kinds.index("draining")].draining.grace_ms == 10_000
        stopping.result(10)
        assert time.monotonic() - start < 3, "streams that end by themselves are not waited for"


def test_a_stream_that_does_not_end_is_ended_when_the_grace_is_over(start_daemon: Any) -> None:
    running = start_daemon(workers=1, queue_windows=100_000, max_message_bytes=64 << 20)
    with grpc.insecure_channel(running.address) as channel:
        talk = Conversation(channel, opening(options(method="integrated_gradients", n_steps=4096, rule="trapezoid")))
        for _ in range(3):
            talk.say(windows(np.repeat(BATCH, 1000, axis=0)))
        talk.next("explanations")
        start = time.monotonic()
        running.begin_stop(0.3).result(20)
        assert time.monotonic() - start < 5
        with pytest.raises(grpc.RpcError):
            list(itertools.islice(talk.call, 100_000))
