"""The Python client against a real daemon in a process of its own, on a real socket."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import tonescope
from tonescope import Frame, Retry, Target, Window, errors
from tonescope.calls import opening
from tonescope.tensors import to_tensor
from tonescope.v1 import attribution_service_pb2, csi_pb2
from tonescope_server import Explainer

FAST = Retry(first_s=0.02, cap_s=0.2, attempts=200)


class Daemon:
    """A daemon that can be killed and started again on the same port."""

    def __init__(self, store: Path, port: int = 0) -> None:
        self.store = store
        self.address = f"127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tonescope_server.cli", "serve", "--listen", self.address]
        self.process = subprocess.Popen(
            [*command, "--store", str(self.store), "--log-level", "error"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "listening on" not in line:
            self.stop(signal.SIGKILL)
            pytest.fail(f"the daemon did not start: {line!r}")
        self.address = line.split()[-1]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def daemon(tiny_store: Path) -> Iterator[Daemon]:
    running = Daemon(tiny_store)
    yield running
    running.stop()


@pytest.fixture
def mortal(tiny_store: Path) -> Iterator[Daemon]:
    """A daemon that a test may kill."""
    running = Daemon(tiny_store)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGKILL)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[tonescope.Client]:
    with tonescope.connect(daemon.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((6, 56, 4)).astype(np.float32)


def frames(n: int, node: int = 0, start: int = 0) -> list[Frame]:
    random = np.random.default_rng(5)
    return [Frame(amplitude=random.random(56, dtype=np.float32), node_id=node, sequence=start + i) for i in range(n)]


def expected_windows(n: int) -> list[tuple[int, int]]:
    """Windows of 4 frames, every 2."""
    return [(i, i + 3) for i in range(0, n - 3, 2)]


# -- single calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "occlusion", "subcarrier_saliency"])
def test_explain_is_bit_for_bit_what_the_explainer_gives_in_process(
    client: tonescope.Client, tiny_store: Path, windows: np.ndarray, method: str
) -> None:
    here = Explainer.load("tiny", store=tiny_store).explain(windows, method=method, target=1)
    there = client.explain(windows, model="tiny", method=method, target=1, cells=True)
    assert there.tones.tobytes() == here.tones.tobytes()
    assert there.score.tobytes() == here.score.astype(np.float32).tobytes()
    if here.cells is not None:
        assert there.cells is not None
        assert there.cells.tobytes() == here.cells.tobytes()
    for each, scores in zip(there, here.prediction.scores, strict=True):
        assert each.prediction.scores.tobytes() == scores.tobytes()
        assert each.model_digest == here.model_digest


def test_a_result_names_its_tones_target_and_parameters(client: tonescope.Client, windows: np.ndarray) -> None:
    each = client.explain(windows, model="tiny", method="integrated_gradients", n_steps=8, top_k=3)[0]
    assert each.tone_table.id == "ruview56"
    assert each.tone_table.null_rows == (0, *range(27, 38))
    assert len(each.top) == 3
    assert each.top[0].tone is not None
    assert each.top[0].row == int(np.abs(each.tones).argmax())
    assert each.parameters["n_steps"] == 8
    assert each.target == {"output": "logits", "index": each.prediction.class_index}
    assert each.convergence_delta is not None
    assert each.prediction.class_name in ("empty", "one", "two")
    assert each.cells is None


def test_a_batch_too_long_for_one_message_is_answered_as_if_it_were_not(
    client: tonescope.Client, windows: np.ndarray
) -> None:
    many = np.tile(windows, (250, 1, 1))  # 1.3 MB
    found = client.explain(many, model="tiny")
    assert [each.window_index for each in found] == list(range(1500))
    np.testing.assert_array_equal(found.tones, np.tile(found.tones[:6], (250, 1)))


def test_a_bad_window_is_answered_by_its_own_problem_and_the_others_are_explained(
    client: tonescope.Client, windows: np.ndarray
) -> None:
    spoilt = windows.copy()
    spoilt[2, 3, 1] = np.nan
    found = client.explain(spoilt, model="tiny", raise_problems=False)
    assert [type(each.problem) for each in found] == [type(None)] * 2 + [errors.NonFiniteError] + [type(None)] * 3
    assert found.tones.shape == (5, 56)
    with pytest.raises(errors.NonFiniteError, match="finite"):
        client.explain(spoilt, model="tiny")


def test_models_and_methods_are_described(client: tonescope.Client) -> None:
    states = {model.name: model.state for model in client.models()}
    assert states == {"tiny": "ready", "ruleless": "ready", "broken": "failed"}
    detail = client.model("ruleless")
    assert detail.input.shape == (-1, 56, 4)
    (without_rule,) = [name for name, _, differentiable in detail.operators if not differentiable]
    assert detail.methods["occlusion"] == ""
    assert without_rule in detail.methods["saliency"]
    assert detail.outputs[0].trained_classes == (0, 1)
    methods = {method.name: method for method in client.methods()}
    assert methods["integrated_gradients"].complete
    assert "n_steps" in methods["integrated_gradients"].parameters["properties"]
    assert methods["occlusion"].requirement == "predictions"


X = np.zeros((1, 56, 4), dtype=np.float32)


@pytest.mark.parametrize(
    ("kind", "code", "x", "asked"),
    [
        (errors.UnknownModelError, "NOT_FOUND", X, {"model": "nobody"}),
        (errors.StorePathError, "INVALID_ARGUMENT", X, {"model": "../tiny"}),
        (errors.NotOnnxError, "FAILED_PRECONDITION", X, {"model": "broken"}),
        (errors.UnknownMethodError, "NOT_FOUND", X, {"model": "tiny", "method": "tea_leaves"}),
        (errors.ParameterError, "INVALID_ARGUMENT", X, {"model": "tiny", "method": "saliency", "n_step": 3}),
        (
            errors.ParameterError,
            "INVALID_ARGUMENT",
            X,
            {"model": "tiny", "method": "integrated_gradients", "n_steps": 10**6},
        ),
        (errors.TargetError, "INVALID_ARGUMENT", X, {"model": "tiny", "target": 3}),
        (errors.TargetError, "INVALID_ARGUMENT", X, {"model": "tiny", "target": "seven"}),
        (errors.TargetError, "INVALID_ARGUMENT", X, {"model": "tiny", "target": Target.mean(output="no")}),
        (errors.UnsupportedOperatorError, "UNIMPLEMENTED", X, {"model": "ruleless"}),
        (errors.ShapeError, "INVALID_ARGUMENT", X.transpose(0, 2, 1), {"model": "tiny"}),
        (errors.NonFiniteError, "INVALID_ARGUMENT", X + np.inf, {"model": "tiny"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_refusal_is_typed_and_says_in_one_line_what_was_wrong(
    client: tonescope.Client, kind: type[errors.TonescopeError], code: str, x: np.ndarray, asked: dict
) -> None:
    with pytest.raises(errors.TonescopeError) as caught:
        client.explain(x, **asked)
    assert type(caught.value) is kind
    assert caught.value.code is grpc.StatusCode[code]
    assert len(str(caught.value).splitlines()) == 1
    assert len(client.explain(X, model="tiny")) == 1  # the daemon goes on


def test_an_operator_without_a_rule_is_named_with_what_still_works(client: tonescope.Client) -> None:
    (without_rule,) = [name for name, _, known in client.model("ruleless").operators if not known]
    with pytest.raises(errors.UnsupportedOperatorError, match=rf"{without_rule}.*occlusion"):
        client.explain(X, model="ruleless", method="saliency")
    assert client.explain(X, model="ruleless", method="occlusion").tones.shape == (1, 56)


def test_a_buffer_of_the_wrong_length_is_that_windows_problem(daemon: Daemon) -> None:
    with tonescope.connect(daemon.address) as client:
        request = attribution_service_pb2.ExplainRequest(options=opening(model="tiny").options)
        request.windows.append(csi_pb2.Window(values=to_tensor(X[0])))
        request.windows[0].values.data = bytes(7)
        response = client._attribution.Explain(request, timeout=10)
    problem = errors.from_problem(response.explanations[0].problem)
    assert type(problem) is errors.ByteLengthError
    assert "896" in str(problem)
    assert "7" in str(problem)


def test_where_no_daemon_is_the_address_is_named_at_once() -> None:
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with tonescope.connect(address) as client, pytest.raises(errors.UnavailableError) as caught:
            client.models()
    assert f"no daemon answers at {address}" in str(caught.value)
    assert len(str(caught.value)) < 120
    assert time.monotonic() - began < 5


def test_a_daemon_that_says_nothing_meets_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with tonescope.connect(address, timeout=0.3) as client, pytest.raises(errors.DeadlineError, match=address):
            client.models()
        with tonescope.connect(address) as client, pytest.raises(errors.UnavailableError, match=r"within 0\.2 s"):
            client.wait_until_ready(0.2)


# -- live ----------------------------------------------------------------------------------------------------------


def test_frames_in_explanations_out(client: tonescope.Client) -> None:
    both = [each for pair in zip(frames(20, node=1), frames(20, node=2), strict=True) for each in pair]
    stream = client.live(model="tiny", frames=both, overload="back_pressure")
    found = list(stream)
    for node in (1, 2):
        got = [(e.first_sequence, e.last_sequence) for e in found if e.node_id == node]
        assert got == expected_windows(20)
    assert all(each.tone_table.id == "ruview56" and each.running is not None for each in found)
    assert stream.counts.sent == 40
    assert stream.counts.answered == len(found) == 18
    assert stream.opened is not None
    assert stream.opened.window_shape == (56, 4)
    assert stream.summary is not None
    assert (stream.summary.frames_used, stream.summary.explained) == (40, 18)


def test_live_windows_are_answered_as_single_calls_are(client: tonescope.Client, windows: np.ndarray) -> None:
    live = list(client.live(model="tiny", windows=windows, overload="back_pressure"))
    single = client.explain(windows, model="tiny")
    assert np.stack([each.tones for each in live]).tobytes() == single.tones.tobytes()


def test_a_handle_sends_and_receives_by_turns(client: tonescope.Client) -> None:
    with client.live(model="tiny") as stream:
        for frame in frames(4):
            stream.send(frame)
        first = stream.receive(timeout=10)
        assert first is not None
        assert (first.first_sequence, first.last_sequence) == (0, 3)
        with pytest.raises(TimeoutError):
            stream.receive(timeout=0.05)
        for frame in frames(2, start=4):
            stream.send(frame)
        stream.close()
        assert [each.last_sequence for each in stream] == [5]
        with pytest.raises(errors.ProtocolError, match="close"):
            stream.send(frames(1)[0])


def test_a_stream_goes_on_after_a_bad_window_and_a_bad_frame(client: tonescope.Client, windows: np.ndarray) -> None:
    mixed = [windows[0], windows[1].T, windows[2]]
    answers = list(client.live(model="tiny", windows=mixed, overload="back_pressure"))
    assert [type(each.problem) for each in answers] == [type(None), errors.ShapeError, type(None)]

    stream = client.live(model="tiny", frames=[*frames(3), b"garbage", *frames(1, start=3)], default_format="adr018")
    assert [each.last_sequence for each in stream] == [3]
    rejected = [notice for notice in stream.notices() if notice.kind == "rejected"]
    assert stream.counts.rejected == len(rejected) == 1


def test_a_stream_that_is_refused_raises_why_and_does_not_try_again(client: tonescope.Client) -> None:
    stream = client.live(model="nobody", frames=frames(3))
    with pytest.raises(errors.UnknownModelError, match="nobody"):
        list(stream)
    assert stream.counts.reconnects == 0


def test_a_source_that_fails_ends_the_stream_with_its_own_error(client: tonescope.Client) -> None:
    def source() -> Iterator[Frame]:
        yield from frames(5)
        raise OSError("the radio is gone")

    with pytest.raises(errors.TonescopeError, match="the radio is gone") as caught:
        list(client.live(model="tiny", frames=source()))
    assert isinstance(caught.value.__cause__, OSError)


def test_leaving_early_ends_the_stream_and_its_threads(client: tonescope.Client) -> None:
    endless = (frame for i in itertools.count() for frame in frames(50, start=50 * i))
    with client.live(model="tiny", frames=endless) as stream:
        for _ in zip(range(5), stream, strict=False):
            pass
    until = time.monotonic() + 10
    while time.monotonic() < until and any(t.name == "tonescope-live" for t in threading.enumerate()):
        time.sleep(0.02)
    assert not [t for t in threading.enumerate() if t.name == "tonescope-live"]


def test_where_no_daemon_is_a_stream_says_so_at_once_unless_told_to_wait(tiny_store: Path) -> None:
    port = free_port()
    with tonescope.connect(f"127.0.0.1:{port}") as client:
        began = time.monotonic()
        with pytest.raises(errors.UnavailableError, match="no daemon answers"):
            list(client.live(model="tiny", frames=frames(4)))
        assert time.monotonic() - began < 5
        patient = Retry(first_s=0.05, cap_s=0.2, attempts=200, wait_for_daemon=True)
        stream = client.live(model="tiny", frames=frames(4), retry=patient)
        late = Daemon(tiny_store, port)
        try:
            assert [each.last_sequence for each in stream] == [3]
        finally:
            late.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_daemon_is_gone_and_back_nothing_is_lost_and_nothing_is_repeated(
    mortal: Daemon, how: signal.Signals
) -> None:
    n = 400
    answered: list[tuple[int | None, int | None]] = []
    deaths = iter([20, 90])
    next_death = next(deaths)
    slowly = slow(frames(n), 0.002)
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", frames=slowly, retry=FAST, overload="back_pressure")
        for each in stream:
            answered.append((each.first_sequence, each.last_sequence))
            if len(answered) == next_death:
                mortal.stop(how)
                mortal.start()
                next_death = next(deaths, 0)
    assert answered == expected_windows(n)
    assert stream.counts.reconnects >= 2
    assert stream.counts.sent == n
    assert stream.counts.resent > 0
    assert stream.counts.forgotten == stream.counts.discarded == 0


def test_a_daemon_that_drains_in_the_middle_of_a_long_stream_loses_none_of_it(mortal: Daemon) -> None:
    n = 6000
    answered = []
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", frames=frames(n), retry=FAST, overload="back_pressure", buffer=20_000)
        for each in stream:
            answered.append((each.first_sequence, each.last_sequence))
            if len(answered) == 1:
                stopping = threading.Thread(target=lambda: (mortal.stop(), mortal.start()))
                stopping.start()
    stopping.join()
    assert answered == expected_windows(n)
    assert stream.counts.reconnects >= 1
    assert "draining" in {notice.kind for notice in stream.notices()}


def slow(items: list[Frame], seconds: float) -> Iterator[Frame]:
    for item in items:
        time.sleep(seconds)
        yield item


def test_windows_too_are_neither_lost_nor_repeated(mortal: Daemon, windows: np.ndarray) -> None:
    sent = [Window(windows[i % 6], first_sequence=10 * i, last_sequence=10 * i + 9) for i in range(120)]
    answered = []
    with tonescope.connect(mortal.address) as client:
        source = (window for window in sent if not time.sleep(0.003))
        for each in client.live(model="tiny", windows=source, retry=FAST, overload="back_pressure"):
            answered.append(each.last_sequence)
            if len(answered) == 30:
                mortal.stop(signal.SIGKILL)
                mortal.start()
    assert answered == [window.last_sequence for window in sent]


def test_a_daemon_that_stays_away_ends_the_stream_after_the_last_attempt(mortal: Daemon) -> None:
    retry = Retry(first_s=0.1, cap_s=0.2, attempts=4)
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", retry=retry)
        for frame in frames(4):
            stream.send(frame)
        assert stream.receive(timeout=10) is not None
        mortal.stop(signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(errors.UnavailableError, match="no daemon answers"):
            stream.receive(timeout=20)
        assert time.monotonic() - began >= 0.3  # half of 0.1 + 0.2 + 0.2 + 0.2: the jitter takes no more
        assert stream.counts.reconnects == 4


def test_while_the_daemon_is_away_a_full_buffer_drops_the_oldest_and_counts_them(mortal: Daemon) -> None:
    with tonescope.connect(mortal.address) as client:
        stream = client.live(model="tiny", retry=FAST, buffer=16)
        for frame in frames(4):
            stream.send(frame)
        assert stream.receive(timeout=10) is not None
        mortal.stop(signal.SIGKILL)
        for frame in frames(100, start=4):
            stream.send(frame)
        mortal.start()
        stream.close()
        answered = [each.last_sequence for each in stream]
    counts = stream.counts
    assert answered[-1] == 103
    assert counts.sent + counts.discarded == 104
    assert counts.discarded + counts.forgotten == 104 - 16


# -- asyncio -------------------------------------------------------------------------------------------------------


def test_the_asyncio_client_does_what_the_blocking_one_does(
    daemon: Daemon, client: tonescope.Client, windows: np.ndarray
) -> None:
    async def run() -> tuple[bytes, list[int | None], list[int | None], str]:
        async with tonescope.aio.connect(daemon.address) as aio:
            tones = (await aio.explain(windows, model="tiny", target=1)).tones.tobytes()
            live = aio.live(model="tiny", frames=frames(20), overload="back_pressure")
            answered = [each.last_sequence async for each in live]
            async with aio.live(model="tiny") as handle:
                for frame in frames(4):
                    await handle.send(frame)
                await handle.close()
                by_hand = [each.last_sequence async for each in handle]
            with pytest.raises(errors.UnknownModelError) as caught:
                await aio.model("nobody")
            assert len(await aio.models()) == 3
            assert len(await aio.methods()) >= 5
            return tones, answered, by_hand, str(caught.value)

    tones, answered, by_hand, message = asyncio.run(run())
    assert tones == client.explain(windows, model="tiny", target=1).tones.tobytes()
    assert answered == [last for _, last in expected_windows(20)]
    assert by_hand == [3]
    assert "nobody" in message


def test_an_asyncio_stream_too_survives_its_daemon(mortal: Daemon) -> None:
    async def run() -> tuple[list[int | None], int]:
        answered: list[int | None] = []
        async with tonescope.aio.connect(mortal.address) as aio:

            async def source():  # type: ignore[no-untyped-def]
                for frame in frames(200):
                    await asyncio.sleep(0.002)
                    yield frame

            stream = aio.live(model="tiny", frames=source(), retry=FAST, overload="back_pressure")
            async for each in stream:
                answered.append(each.last_sequence)
                if len(answered) == 20:
                    os.kill(mortal.process.pid, signal.SIGKILL)
                    await asyncio.to_thread(mortal.process.wait)
                    assert mortal.process.stdout is not None
                    mortal.process.stdout.close()
                    await asyncio.to_thread(mortal.start)
            return answered, stream.counts.reconnects

    answered, reconnects = asyncio.run(run())
    assert answered == [last for _, last in expected_windows(200)]
    assert reconnects >= 1
