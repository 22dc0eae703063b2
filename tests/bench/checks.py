"""(g) What the checks of a live stream cost the daemon: its processor time for a window, with them and without."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np

from tests.bench.daemon import Daemon
from tests.bench.measure import Row, Section, cores
from tests.bench.subject import bundled
from tonescope.v1 import attribution_service_pb2_grpc, csi_pb2, live_pb2, tensor_pb2
from tonescope_server.demo.simulator import Scene, simulate

MODEL = "people_count"
WINDOWS, FRAMES, HOP = 12_000, 40_000, 10
PER_MESSAGE = 10
ROUNDS = 12
LARGEST_SHARE = 0.05
BEGUN_NS = 1_700_000_000 * 10**9

Requests = Sequence[live_pb2.LiveRequest]


def measure() -> Section:
    """Send the same streams to daemons that check and to daemons that do not, in turn."""
    streams = {what: make() for what, make in STREAMS.items()}
    found: dict[str, tuple[list[float], list[float]]] = {what: ([], []) for what in streams}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(bundled().path, Path(folder) / MODEL)
        for _ in range(ROUNDS):
            for side, flags in enumerate(((), ("--no-checks",))):
                # A new process each time: two of the same program differ by a tenth, as their memory happens to lie.
                with Daemon(Path(folder), cores()[0], flags) as daemon:
                    for what, requests in streams.items():
                        _cpu_us(daemon, requests[: len(requests) // 10])  # warm
                        found[what][side].append(_cpu_us(daemon, requests))
    return Section([_row(what, *sides) for what, sides in found.items()], _NOTES)


def _row(what: str, checking: Sequence[float], trusting: Sequence[float]) -> Row:
    # The least of each: what else the machine does can only add to processor time.
    with_checks, without = min(checking), min(trusting)
    share = with_checks / without - 1
    figures = f"{with_checks:.0f} µs CPU a window", f"without {without:.0f} µs", f"{share:+.1%}"
    return Row(f"(g) checks of {what}", *figures, f"≤ {LARGEST_SHARE:+.0%}", share <= LARGEST_SHARE)


def _cpu_us(daemon: Daemon, requests: Requests) -> float:
    """Return the daemon's processor time for a window of one whole stream."""
    opening = live_pb2.Open(overload_policy=live_pb2.OVERLOAD_POLICY_BACK_PRESSURE)
    opening.options.model.name = MODEL
    with grpc.insecure_channel(daemon.address) as channel:
        stub = attribution_service_pb2_grpc.AttributionServiceStub(channel)
        before = daemon.cpu_s()
        *_, last = stub.Live(_all(live_pb2.LiveRequest(open=opening), requests))
        spent = daemon.cpu_s() - before
    if last.summary.findings or not last.summary.explained:
        raise RuntimeError(f"expected a clean stream, got {last.summary}")
    return spent / last.summary.explained * 1e6


def _all(first: live_pb2.LiveRequest, rest: Requests) -> Iterator[live_pb2.LiveRequest]:
    yield first
    yield from rest


def _windows() -> Requests:
    """Make messages of windows that are normalised already, as the live measurements send them."""
    windows = bundled().windows
    float32 = tensor_pb2.DATA_TYPE_FLOAT32
    made = [
        csi_pb2.Window(values=tensor_pb2.Tensor(dtype=float32, shape=w.shape, data=w.tobytes()), node_id=1)
        for w in windows
    ]
    batches = [[made[(i + k) % len(made)] for k in range(PER_MESSAGE)] for i in range(0, WINDOWS, PER_MESSAGE)]
    return [live_pb2.LiveRequest(windows=live_pb2.WindowBatch(windows=batch)) for batch in batches]


def _frames() -> Requests:
    """Make messages of int8 I/Q frames of one node, 20 a second."""
    people = (2, 0, 1, 3)
    iq = simulate(Scene(tuple((500.0, n) for n in people), seed=77))[0].iq[:, :, ::-1]
    iq = np.ascontiguousarray(iq)
    int8 = tensor_pb2.DATA_TYPE_INT8

    def frame(i: int) -> csi_pb2.Frame:
        values = tensor_pb2.Tensor(dtype=int8, shape=iq.shape[1:], data=iq[i % len(iq)].tobytes())
        return csi_pb2.Frame(iq=values, node_id=1, sequence=i, capture_time_ns=BEGUN_NS + i * 50_000_000)

    batches = [[frame(i + k) for k in range(HOP)] for i in range(0, FRAMES, HOP)]
    return [live_pb2.LiveRequest(frames=live_pb2.FrameBatch(frames=batch)) for batch in batches]


STREAMS: dict[str, Callable[[], Requests]] = {
    f"windows, {PER_MESSAGE} a message": _windows,
    f"frames, a window every {HOP}": _frames,
}
_NOTES = (
    f"The bundled model; one stream of {WINDOWS:,} windows, and one of {FRAMES:,} simulated frames, from the bench's "
    f"own process; on one core, {ROUNDS} daemons that check and as many with --no-checks, in turn. The cost is a "
    "daemon's processor time, all threads, over the windows explained, the least of all of them. A look at 128 frames "
    "of one node, or 32 windows, takes one to two milliseconds; in a stream that ends within a minute, the first looks "
    "and the last weigh more than this."
)
