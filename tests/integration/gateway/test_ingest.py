"""``tonescope ingest`` as a process between real sockets and a real daemon: what is counted, forwarded and recorded."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

import tonescope
from tonescope_server.csi.decoders import open_recording
from tonescope_server.csi.decoders.adr018 import OTHER_PACKETS, encode
from tonescope_server.csi.decoders.recordings import RuviewJsonLinesDecoder
from tonescope_server.csi.frames import Frame, Skipped

from ..client.daemons import Daemon, free_port
from ..client.frames import expected_windows
from .gateways import COMMAND, amplitudes, answered, packets

EVERY_KIND = {
    kind: magic.to_bytes(4, "little") + bytes((size or 40) - 4) for magic, (kind, size) in OTHER_PACKETS.items()
}


def refused(*flags: object) -> str:
    """Return the one line with which the gateway refuses to run."""
    done = subprocess.run([*COMMAND, *map(str, flags)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("tonescope: ")
    return line


def test_frames_of_two_nodes_are_explained_and_all_else_is_counted_by_kind(start, daemon: Daemon) -> None:
    gateway = start(daemon.address, "--model", "tiny", "--print-explanations")
    gateway.wait_for_status(lambda status: status["connected"])
    mixed = [each for pair in zip(packets(20, 1), packets(20, 2), strict=True) for each in pair]
    gateway.send(*mixed, *EVERY_KIND.values(), b"", b"abc", b"garbage!", mixed[0][:50], mixed[0] + b"x", b"\0" * 9000)
    gateway.wait(lambda: len(gateway.named("explanation")) == 18)
    summary = gateway.stop()
    expected = dict.fromkeys(EVERY_KIND, 1)
    assert summary["packets_skipped"] == expected | {"short": 3, "unknown_magic": 1, "corrupt": 1, "oversized": 1}
    assert {name: node["frames"] for name, node in summary["nodes"].items()} == {"1": 20, "2": 20}
    assert summary["nodes"]["1"]["hosts"] == ["127.0.0.1"]
    assert summary["packets"] == gateway.sent == 40 + len(EVERY_KIND) + 6
    assert summary["forwarded"]["sent"] == summary["frames"] == 40
    assert summary["forwarded"]["explained"] == 18
    assert summary["daemon"]["frames_used"] == 40
    assert summary["daemon"]["frames_skipped"] == {}
    assert not any(summary["dropped"].values())
    for node in (1, 2):
        assert answered(gateway, node) == expected_windows(20)


def test_what_comes_over_udp_is_explained_as_if_it_had_been_sent_to_the_daemon(start, daemon: Daemon) -> None:
    gateway = start(daemon.address, "--model", "tiny", "--print-explanations", "--method", "saliency", "--hop", 4)
    gateway.send(*packets(12))
    gateway.wait(lambda: len(gateway.named("explanation")) == 3)
    gateway.stop()
    values = amplitudes(12)
    with tonescope.connect(daemon.address) as client:
        expected = client.explain(values.reshape(3, 4, 56).transpose(0, 2, 1), model="tiny", method="saliency")
    for event, each in zip(gateway.named("explanation"), expected, strict=True):
        # As text, a float32 comes back exactly; amplitudes go through a square root on the way, hence the tolerance.
        np.testing.assert_allclose(event["tones"], each.tones, rtol=1e-5, atol=1e-7)
        assert event["class_name"] == each.prediction.class_name
        assert [top["row"] for top in event["top"]] == [top.row for top in each.top]
        assert event["capture_time_ns"] > 1_700_000_000_000_000_000


def test_frames_keep_coming_in_through_a_burst_and_every_packet_is_accounted_for(start, daemon: Daemon) -> None:
    gateway = start(daemon.address, "--model", "tiny", "--buffer", 256)
    gateway.wait_for_status(lambda status: status["connected"])
    n = 8000
    burst = packets(n)
    gateway.send(*burst)

    def all_told(status: dict) -> bool:
        dropped = status["dropped"]
        return status["packets"] + dropped["unread"] + dropped["kernel"] == gateway.sent

    # Only with the next packet does the system say what it dropped.
    gateway.wait_for_status(lambda status: status["frames"] > 0)
    gateway.send(encode(amplitudes(1)[0], node_id=1, sequence=n), pause_s=1.0)
    gateway.send(encode(amplitudes(1)[0], node_id=1, sequence=n + 1))
    gateway.wait_for_status(all_told)
    summary = gateway.stop()
    dropped, forwarded = summary["dropped"], summary["forwarded"]
    assert forwarded["sent"] + dropped["buffer"] == summary["frames"]
    assert forwarded["sent"] == summary["daemon"]["frames_received"]
    assert summary["nodes"]["1"]["missing"] <= dropped["unread"] + dropped["kernel"]
    assert summary["daemon"]["explained"] > 0


def test_a_real_recording_sent_as_packets_is_counted_as_it_was_recorded(
    start, daemon: Daemon, shared: Path, tmp_path: Path
) -> None:
    path = shared / "real/ruview/pretrain-1775182186.csi.jsonl"
    decoders = {"ruview_jsonl": RuviewJsonLinesDecoder()}
    original = list(open_recording(path, decoders))[:2500]
    copy = tmp_path / "copy.csi.jsonl"
    gateway = start(daemon.address, "--model", "tiny", "--record", copy, "--buffer", 10_000)
    gateway.wait_for_status(lambda status: status["connected"])
    sequence: dict[int, int] = {}
    for item in original:
        if isinstance(item, Skipped):
            gateway.send(EVERY_KIND[item.kind])
            continue
        sequence[item.node_id] = number = sequence.get(item.node_id, -1) + 1
        gateway.send(encode(item.values, node_id=item.node_id, sequence=number), pause_s=0.0002)
    gateway.wait_for_status(lambda status: status["packets"] == gateway.sent)
    gateway.wait_for_status(lambda status: status["forwarded"]["sent"] == status["frames"])
    summary = gateway.stop()
    frames = [item for item in original if isinstance(item, Frame)]
    kinds = [item.kind for item in original if isinstance(item, Skipped)]
    assert summary["packets_skipped"] == {kind: kinds.count(kind) for kind in set(kinds)}
    assert {int(name): node["frames"] for name, node in summary["nodes"].items()} == {
        node: last + 1 for node, last in sequence.items()
    }
    assert summary["recorded"] == len(original)
    again = list(open_recording(copy, decoders))
    assert [item.kind for item in again if isinstance(item, Skipped)] == kinds
    for was, became in zip(frames, (item for item in again if isinstance(item, Frame)), strict=True):
        np.testing.assert_array_equal(was.values, became.values)
        assert was.node_id == became.node_id


def test_what_was_recorded_can_be_replayed(start, daemon: Daemon, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csi.jsonl"
    gateway = start(daemon.address, "--model", "tiny", "--record", copy)
    gateway.send(*packets(30, 1), *packets(30, 2), EVERY_KIND["sync"])
    gateway.wait_for_status(lambda status: status["forwarded"]["explained"] == 28)
    gateway.stop()
    command = [*COMMAND[:-1], "replay", str(copy), "--server", daemon.address, "--model", "tiny"]
    done = subprocess.run([*command, "--as-fast-as-possible"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "60 of 60 frames used (skipped: none); 28 windows, 28 explained, 0 dropped, 0 failed; 0 gaps" in done.stdout
    assert "records without a frame: 1 sync" in done.stdout


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_summary_after_the_last_answer(start, daemon: Daemon, how: signal.Signals) -> None:
    gateway = start(daemon.address, "--model", "tiny", "--print-explanations")
    gateway.wait_for_status(lambda status: status["connected"])
    gateway.send(*packets(40))
    summary = gateway.stop(how)
    assert summary["frames"] == 40  # those that had arrived are still taken
    assert answered(gateway) == expected_windows(40)


def test_for_people_there_are_lines_of_text(daemon: Daemon) -> None:
    command = [*COMMAND, "--udp", ":0", "--server", daemon.address, "--model", "tiny", "--status-every", "0.2"]
    with subprocess.Popen(
        [*command, "--print-explanations"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.endswith(f"(UDP), for packets of this machine alone; forwarding to {daemon.address}\n")
        host, _, port = first.split()[3].rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for packet in (*packets(4, 6), EVERY_KIND["vitals"], *packets(6, 6, start=5)):
                sender.sendto(packet, (host, int(port)))
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "1 windows explained" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert any(line.startswith("node 6 window    0  ") for line in lines)
    assert "(1 missing) | not CSI: 1 vitals | dropped: none | 5 sent, 1 windows explained, 0 dropped" in lines[-1]
    assert "node 6: 5 frames from 127.0.0.1, 1 missing in sequence\n" in rest
    assert "6 packets in " in rest
    assert "GAPS: sequence numbers are missing" in errors


def test_a_port_in_use_is_one_line(daemon: Daemon) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        line = refused("--udp", f":{port}", "--server", daemon.address, "--model", "tiny")
    assert line == f"tonescope: --udp 127.0.0.1:{port}: address already in use"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--udp", "5005"), "--udp: expected HOST:PORT or :PORT, got '5005'"),
        (("--udp", ":0", "--normalise", "recording"), "expected none, manifest or running for a live source"),
        (("--udp", ":0", "--record", "/"), "--record /: cannot be written: is a directory"),
        (("--udp", ":0", "--model", "nobody"), 'no model "nobody"'),
        (("--udp", ":0"), "--model: expected a name, as the daemon at"),
        (("--udp", ":0", "--model", "tiny", "--method", "guessing"), "guessing"),
    ],
    ids=str,
)
def test_what_can_never_work_is_refused_in_one_line(daemon: Daemon, flags: tuple[str, ...], said: str) -> None:
    assert said in refused(*flags, "--server", daemon.address)


def test_where_nobody_reads_any_more_it_ends(daemon: Daemon) -> None:
    command = [*COMMAND, "--udp", ":0", "--server", daemon.address, "--model", "tiny", "--status-every", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_recording_and_not_the_gateway(start, daemon: Daemon) -> None:
    gateway = start(daemon.address, "--model", "tiny", "--record", "/dev/full")
    gateway.wait_for_status(lambda status: status["connected"])
    for i in range(0, 400, 20):
        gateway.send(*packets(i + 20, start=i), pause_s=0.005)
    gateway.wait_for_status(lambda status: status["forwarded"]["explained"] == 199)
    assert gateway.errors.count("no space left on device; nothing more is recorded") == 1
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 1
    gateway.wait(lambda: gateway.named("summary"))
    assert gateway.errors.splitlines()[-1].startswith("tonescope: --record /dev/full: cannot be written: ")


def test_on_a_port_that_nobody_serves_it_waits_and_still_ends_at_once(start) -> None:
    gateway = start(f"127.0.0.1:{free_port()}", "--model", "tiny")
    gateway.send(*packets(10))
    gateway.wait_for_status(lambda status: status["frames"] == 10)
    gateway.wait(gateway.connections)
    summary = gateway.stop()
    assert gateway.connections() == [False]
    assert summary["dropped"]["buffer"] == 10
    assert summary["forwarded"]["sent"] == 0
    assert os.linesep.join(gateway.errors.splitlines()).count("no daemon answers") == 1


def test_a_gateway_needs_none_of_the_daemons_large_packages() -> None:
    """It runs on small machines: numeric and graph packages would more than triple what it takes of their memory."""
    script = (
        "import sys, tonescope_server.cli as cli; cli.build(['ingest']);"
        "print([m for m in ('onnx', 'onnxruntime', 'onnx_ir', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([COMMAND[0], "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
