"""The same request gives the same bytes, whatever else the daemon does; no answer depends on the rest of a batch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tonescope.v1 import attribution_pb2
from tonescope_server.demo import store_path

from .messages import array, explain_request, opening, options, windows
from .talk import Conversation, attribution, explained, until

X = np.random.default_rng(23).normal(size=(32, 64, 20)).astype(np.float32)
# What is asked: graphs, a path, samples, and predictions.
ASKED: dict[str, dict[str, Any]] = {
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 8},
    "smoothgrad": {"n": 8},
    "deep_lift": {},
    "occlusion": {},
    "kernel_shap": {"budget": 256},
}
# What eight other streams ask at the same time, the same methods among them with other parameters.
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("input_x_gradient", {}),
    ("subcarrier_saliency", {}),
    ("guided_backprop", {}),
    ("lrp", {}),
    ("integrated_gradients", {"n_steps": 32}),
    ("smoothgrad", {"n": 16, "seed": 3}),
    ("rise", {"n": 64}),
    ("permutation_shapley", {"budget": 256}),
]
# Between two windows of one of them, or eight that never pause keep the client that they share busy, not the daemon.
PACE_S = 0.05
# Kernels are chosen by the size of the batch, and sum in float32 in another order; relative to the largest value of the
# window. The same as every method is held to one by one.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    from tonescope_server.config import Config

    from ..conftest import RunningDaemon

    settings = {"store": store_path(), "listen": "127.0.0.1:0", "log_level": "warning", "workers": 2, "checks": False}
    running = RunningDaemon(Config.load(None, settings))
    with grpc.insecure_channel(running.address) as channel:
        yield channel
    running.close()


def asked(method: str, **parameters: Any) -> attribution_pb2.ExplainOptions:
    wanted = options("people_count", method, **parameters)
    wanted.want_cells = True
    return wanted


def timeless(explanation: attribution_pb2.Explanation) -> bytes:
    """Return an answer's bytes without what says when it was given."""
    kept = attribution_pb2.Explanation()
    kept.CopyFrom(explanation)
    for name in ("compute_ms", "queue_ms", "running", "dropped_before"):
        kept.ClearField(name)
    return kept.SerializeToString(deterministic=True)


def one_call(channel: grpc.Channel, method: str) -> list[bytes]:
    request = explain_request(X[:5], asked(method, **ASKED[method]))
    return [timeless(each) for each in attribution(channel).Explain(request).explanations]


def one_stream(channel: grpc.Channel, method: str) -> list[bytes]:
    """Ask window by window, as a sensor does: which of them share a run is then not a matter of time."""
    stream = Conversation(channel, opening(asked(method, **ASKED[method])))
    found = []
    for values in X[:5]:
        stream.say(windows(values[None]))
        found += [timeless(each) for each in explained([stream.next("explanations")])]
    stream.end()
    return found


@contextlib.contextmanager
def eight_other_streams(channel: grpc.Channel) -> Iterator[list[int]]:
    """Keep eight streams busy, each in a thread; yield how many answers each has had, and check that none failed."""
    answered, over, problems = [0] * len(OTHERS), threading.Event(), []

    def talk(number: int) -> None:
        method, parameters = OTHERS[number]
        stream = Conversation(channel, opening(options("people_count", method, **parameters)))
        while not over.is_set():
            stream.say(windows(X[answered[number] % 32][None], node=number))
            (answer,) = explained([stream.next("explanations")])
            problems.append(answer.problem.message)
            answered[number] += 1
            over.wait(PACE_S)
        stream.end()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(OTHERS))]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert set(problems) == {""}


def test_the_same_request_gives_the_same_bytes_while_eight_other_streams_run(demo: grpc.Channel) -> None:
    ways: dict[str, Callable[[grpc.Channel, str], list[bytes]]] = {"Explain": one_call, "Live": one_stream}
    quiet = {(way, method): ask(demo, method) for way, ask in ways.items() for method in ASKED}
    with eight_other_streams(demo) as answered:
        until(lambda: all(answered), 60)
        before = list(answered)
        for (way, method), expected in quiet.items():
            assert ways[way](demo, method) == expected, (way, method)
        assert all(now > then for now, then in zip(answered, before, strict=True))
    assert len({each for answers in quiet.values() for each in answers}) > 5 * len(ASKED)  # they do say something


@pytest.mark.parametrize("method", ASKED)
def test_an_answer_is_the_same_alone_in_a_batch_of_thirty_two_and_in_runs_shared_between_streams(
    demo: grpc.Channel, method: str
) -> None:
    wanted = asked(method, **ASKED[method])
    together = attribution(demo).Explain(explain_request(X, wanted)).explanations
    streams = [Conversation(demo, opening(wanted)) for _ in range(4)]
    for stream, part in zip(streams, np.split(X, 4), strict=True):
        stream.say(windows(part))
    shared = [each for stream in streams for each in explained(stream.end())]
    assert len(shared) == 32
    for row in (0, 9, 18, 31):
        (alone,) = attribution(demo).Explain(explain_request(X[row : row + 1], wanted)).explanations
        for name in ("tones", "cells"):
            if not alone.HasField(name):
                continue
            want = array(getattr(alone, name))
            for other in (together[row], shared[row]):
                off = np.abs(array(getattr(other, name)) - want).max()
                assert off <= TOLERANCE * np.abs(want).max() + TOLERANCE * 0.1 * abs(alone.score), name
