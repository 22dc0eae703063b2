"""``tonescope serve`` as a process: what it prints, how it stops, and how it refuses to start."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tonescope.v1 import (
    attribution_pb2,
    attribution_service_pb2,
    attribution_service_pb2_grpc,
    csi_pb2,
    live_pb2,
    model_pb2,
    tensor_pb2,
)

SERVE = [sys.executable, "-m", "tonescope_server.cli", "serve"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tiny_store: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(*flags: str) -> subprocess.Popen[str]:
        command = [*SERVE, "--store", str(tiny_store), "--listen", "127.0.0.1:0", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("tonescope: listening on 127.0.0.1:"), line
    return line.split()[-1]


def refused(*flags: str, **environment: str) -> str:
    """Return the one line with which the daemon refuses to start."""
    done = subprocess.run(
        [*SERVE, *flags], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("tonescope: ")
    return line


def opened_stream(
    channel: grpc.Channel, requests: queue.SimpleQueue[live_pb2.LiveRequest | None]
) -> Iterator[live_pb2.LiveResponse]:
    options = attribution_pb2.ExplainOptions(model=model_pb2.ModelRef(name="tiny"))
    requests.put(live_pb2.LiveRequest(open=live_pb2.Open(options=options)))
    call: Iterator[live_pb2.LiveResponse] = attribution_service_pb2_grpc.AttributionServiceStub(channel).Live(
        iter(requests.get, None)
    )
    assert next(call).WhichOneof("message") == "opened"
    return call


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_an_open_stream_and_the_process_ends_well(start: Start, number: signal.Signals) -> None:
    process = start()
    requests: queue.SimpleQueue[live_pb2.LiveRequest | None] = queue.SimpleQueue()
    with grpc.insecure_channel(address_of(process)) as channel:
        call = opened_stream(channel, requests)
        values = np.ones((56, 4), "<f4")
        tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[56, 4], data=values.tobytes())
        batch = live_pb2.WindowBatch(windows=[csi_pb2.Window(values=tensor)])
        requests.put(live_pb2.LiveRequest(windows=batch))
        assert next(call).WhichOneof("message") == "explanations"
        process.send_signal(number)
        said = [each for each in call if each.WhichOneof("message") != "warning"]
        assert [each.WhichOneof("message") for each in said] == ["draining", "summary"]
    assert process.wait(10) == 0
    assert process.stderr is not None
    log = process.stderr.read()
    assert "draining" in log
    assert "Traceback" not in log
    requests.put(None)


def test_the_end_of_standard_input_stops_the_daemon_where_it_was_asked_to(tiny_store: Path) -> None:
    command = [*SERVE, "--store", str(tiny_store), "--listen", "127.0.0.1:0", "--stop-with-stdin"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address_of(process)
        _, log = process.communicate("what is written is passed over\n", timeout=20)
    assert process.returncode == 0
    assert "stopped" in log
    assert "Traceback" not in log


def test_a_daemon_whose_starter_is_gone_already_does_not_start_serving(tiny_store: Path) -> None:
    command = [*SERVE, "--store", str(tiny_store), "--listen", "127.0.0.1:0", "--stop-with-stdin"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr


def test_without_being_asked_to_the_daemon_outlives_standard_input(tiny_store: Path) -> None:
    command = [*SERVE, "--store", str(tiny_store), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        with grpc.insecure_channel(address_of(process)) as channel:
            opened_stream(channel, queue.SimpleQueue()).cancel()  # type: ignore[attr-defined]
        process.terminate()
        assert process.wait(20) == 0


def test_a_port_in_use_is_said_in_one_line(tiny_store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("--store", str(tiny_store), "--listen", f"127.0.0.1:{port}")
    assert line == f"tonescope: listen 127.0.0.1:{port}: address already in use"


def test_two_daemons_do_not_share_a_port(start: Start, tiny_store: Path) -> None:
    address = address_of(start())
    assert "address already in use" in refused("--store", str(tiny_store), "--listen", address)


def test_a_metrics_port_in_use_is_said_in_one_line(tiny_store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("--store", str(tiny_store), "--listen", "127.0.0.1:0", "--metrics", f"127.0.0.1:{port}")
    assert line == f"tonescope: metrics 127.0.0.1:{port}: address already in use"


def test_a_store_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    assert "nowhere" in refused("--store", str(tmp_path / "nowhere"))


def test_an_address_of_another_machine_is_said_in_one_line(tiny_store: Path) -> None:
    line = refused("--store", str(tiny_store), "--listen", "192.0.2.1:50551")
    assert "cannot assign requested address" in line


def test_a_bad_setting_is_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("threads = 0")
    assert "t.toml: threads" in refused("--config", str(file))
    assert "TONESCOPE_THREADS" in refused(TONESCOPE_THREADS="two")


def test_an_unknown_flag_is_wrong_usage() -> None:
    done = subprocess.run([*SERVE, "--speed", "9"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--speed" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_an_example() -> None:
    done = subprocess.run([*SERVE, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "tonescope serve --store" in done.stdout


def test_metrics_count_what_the_streams_did(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start("--metrics", f"127.0.0.1:{port}")
    requests: queue.SimpleQueue[live_pb2.LiveRequest | None] = queue.SimpleQueue()
    with grpc.insecure_channel(address_of(process)) as channel:
        call = opened_stream(channel, requests)
        bad = live_pb2.WindowBatch(windows=[csi_pb2.Window()])
        requests.put(live_pb2.LiveRequest(windows=bad))
        next(call)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        requests.put(None)
        list(call)
    assert "tonescope_streams_open 1.0" in text
    assert 'tonescope_windows_total{outcome="failed"} 1.0' in text


def test_metrics_count_what_progressive_calls_did(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start("--metrics", f"127.0.0.1:{port}")
    values = np.ones((56, 4), "<f4")
    good = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=values.shape, data=values.tobytes())
    request = attribution_service_pb2.ExplainProgressivelyRequest(
        options=attribution_pb2.ExplainOptions(model=model_pb2.ModelRef(name="tiny")),
        windows=[csi_pb2.Window(values=good), csi_pb2.Window()],
    )
    with grpc.insecure_channel(address_of(process)) as channel:
        stub = attribution_service_pb2_grpc.AttributionServiceStub(channel)
        assert len(list(stub.ExplainProgressively(request, timeout=20))) == 2
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    for line in (
        "tonescope_progressive_open 0.0",
        "tonescope_progressive_total 1.0",
        'tonescope_progressive_updates_total{outcome="found"} 1.0',
        'tonescope_progressive_updates_total{outcome="sent"} 2.0',
        'tonescope_progressive_windows_total{why="exhausted"} 1.0',
        'tonescope_progressive_windows_total{why="failed"} 1.0',
        "tonescope_progressive_evaluations_total 1.0",
    ):
        assert f"\n{line}\n" in text


def test_what_a_store_holds_that_is_no_model_is_logged_once(start: Start, tmp_path: Path, shared: Path) -> None:
    for name in ("pose_v1.safetensors", "sample_room.adapter.safetensors"):
        shutil.copy(shared / "real/ruview" / name, tmp_path)
    process = start("--store", str(tmp_path), "--store-refresh-s", "0.1", "--log-format", "json")
    address_of(process)
    time.sleep(0.5)  # several looks through the store
    process.terminate()
    _, logged = process.communicate(timeout=30)
    (line,) = [line for line in logged.splitlines() if "adapter" in line]
    line = json.loads(line)
    assert (line["level"], line["event"]) == ("warning", "no model")
    assert line["why"].endswith(
        'model = { weights = "pose_v1.safetensors", adapter = "sample_room.adapter.safetensors" }'
    )


def test_a_second_signal_does_not_wait_for_the_grace(start: Start) -> None:
    process = start("--drain-grace-s", "60", "--queue-windows", "100000")
    requests: queue.SimpleQueue[live_pb2.LiveRequest | None] = queue.SimpleQueue()
    with grpc.insecure_channel(address_of(process)) as channel:
        options = attribution_pb2.ExplainOptions(model=model_pb2.ModelRef(name="tiny"))
        options.method.name = "integrated_gradients"
        options.method.parameters.update({"n_steps": 4096, "rule": "trapezoid"})
        requests.put(live_pb2.LiveRequest(open=live_pb2.Open(options=options)))
        tensor = tensor_pb2.Tensor(
            dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[56, 4], data=np.ones((56, 4), "<f4").tobytes()
        )
        batch = live_pb2.WindowBatch(windows=[csi_pb2.Window(values=tensor)] * 3000)
        for _ in range(5):
            requests.put(live_pb2.LiveRequest(windows=batch))
        call = attribution_service_pb2_grpc.AttributionServiceStub(channel).Live(iter(requests.get, None))
        next(call)
        next(call)
        start_time = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - start_time < 15
        assert process.stderr is not None
        log = process.stderr.read()
        assert "Traceback" not in log
        assert log.count("stopped ") == 1
        requests.put(None)
