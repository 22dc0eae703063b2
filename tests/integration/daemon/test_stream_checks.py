"""Live streams with a fault injected on purpose, over a real socket: the right warning, once a node, and no other."""

from __future__ import annotations

import itertools
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

import tonescope
from tests.faults import CLEAN, FAULTS, Stream, clean_frames, declared_by
from tonescope.v1 import csi_pb2, error_pb2, live_pb2
from tonescope_server.demo import store_path
from tonescope_server.models.manifest import Manifest

from .messages import Request, frames, opening, options, tensor, windows
from .talk import live, of_kind

MODEL = "people_count"
# What the stream's own rules say of its frames, beside what the checks find.
RULES = {"FRAMES_SKIPPED"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold the demo's model as it is, told of its nodes, and with the statistics of another receiver."""
    root = tmp_path_factory.mktemp("checked")
    source = store_path() / MODEL / "1"
    text = (source / "model.toml").read_text(encoding="utf-8")
    told = text.replace("rate_hz = 20.0", "rate_hz = 20.0\nnodes = [1, 2]")
    assert told != text
    stated = Manifest.load(source / "model.toml").normalisation
    begin, end = told.index("mean = ["), told.index("\n[sampling]")
    other = f"mean = {[0.4 * x for x in stated.mean]}\nstd = {[0.4 * x for x in stated.std]}\n"
    for name, manifest in {MODEL: told, "elsewhere": told[:begin] + other + told[end:]}.items():
        (root / name).mkdir()
        (root / name / "model.toml").write_text(manifest.replace(f'name = "{MODEL}"', f'name = "{name}"'))
        (root / name / f"{MODEL}.safetensors").write_bytes((source / f"{MODEL}.safetensors").read_bytes())
    return root


@pytest.fixture(scope="module")
def declared():
    stated = Manifest.load(store_path() / MODEL / "1" / "model.toml").normalisation
    return declared_by(np.array(stated.mean), np.array(stated.std))


@pytest.fixture
def checked(start_daemon, stores: Path) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(start_daemon(store=stores).address) as channel:
        yield channel


def requests_of(stream: Stream) -> list[Request]:
    """Send frames in the order of their times, ten a message; windows four a message."""
    if stream.windows is not None:
        return [windows(stream.windows[i : i + 4], node=1) for i in range(0, len(stream.windows), 4)]
    arrivals = sorted((s.time_s[i], s.node_id, i, s) for s in stream.series for i in range(len(s)))
    sent = [
        csi_pb2.Frame(
            amplitude=tensor(s.amplitude[i]), node_id=node, sequence=i, capture_time_ns=int((1.7e9 + t) * 1e9)
        )
        for t, node, i, s in arrivals
    ]
    return [frames(*sent[i : i + 10]) for i in range(0, len(sent), 10)]


def told(channel: grpc.Channel, stream: Stream, model: str = MODEL):
    """Return what the checks said of a stream, and its summary."""
    patient = opening(options(model), overload_policy=live_pb2.OVERLOAD_POLICY_BACK_PRESSURE)
    responses = live(channel, patient, *requests_of(stream))
    found = [warning for warning in of_kind(responses, "warning") if warning.code not in RULES]
    return found, of_kind(responses, "summary")[0]


@pytest.mark.parametrize("kind", CLEAN)
def test_a_clean_stream_is_told_nothing(checked, declared, kind):
    for seed in range(5):
        stream = CLEAN[kind](seed, declared)
        found, summary = told(checked, stream)
        assert found == []
        assert dict(summary.findings) == {}
        assert summary.explained > 60


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stream_with_a_fault_is_told_that_fault_once_for_each_node(checked, declared, fault):
    for seed in range(4):
        # Every third seed of this one is a manifest with the statistics of another receiver.
        elsewhere = fault == "WRONG_NORMALISATION" and seed % 3 == 2
        found, summary = told(checked, FAULTS[fault](seed, declared), "elsewhere" if elsewhere else MODEL)
        assert {each.code for each in found} == {fault}, found
        nodes = [each.node_id for each in found]
        assert len(set(nodes)) == len(nodes)
        assert all(each.HasField("node_id") and each.remedy for each in found)
        graded = error_pb2.SEVERITY_WARNING if fault == "GAIN_STEPS" else error_pb2.SEVERITY_FAULT
        assert {each.severity for each in found} == {graded}
        counted = dict(summary.findings)
        # Scrambled windows may put attribution on null tones: each answer says so, and it is counted.
        counted.pop("NULL_TONE_SHARE", None)
        assert counted == {fault: len(found)}


def test_attribution_on_null_tones_is_a_fault_of_each_answer_and_counted_once_for_each_node(checked, declared):
    patient = opening(options(MODEL), overload_policy=live_pb2.OVERLOAD_POLICY_BACK_PRESSURE)
    responses = live(checked, patient, *requests_of(FAULTS["TONES_ROLLED"](1, declared)))
    carried = [
        (explanation.node_id, warning.severity)
        for batch in of_kind(responses, "explanations")
        for explanation in batch.explanations
        for warning in explanation.warnings
        if warning.code == "NULL_TONE_SHARE"
    ]
    assert len(carried) > 2
    assert {severity for _, severity in carried} == {error_pb2.SEVERITY_FAULT}
    (summary,) = of_kind(responses, "summary")
    assert summary.findings["NULL_TONE_SHARE"] == len({node for node, _ in carried})


def test_a_fault_is_told_while_the_stream_goes_on(checked, declared):
    """After 64 frames of each of two nodes, and not at the end."""
    stream = FAULTS["TONES_ROLLED"](1, declared)
    responses = live(checked, opening(options(MODEL)), *requests_of(stream))
    kinds = [each.WhichOneof("message") for each in responses]
    assert kinds.index("warning") < kinds.index("summary") - 5


def test_the_client_has_severity_remedy_and_figures(start_daemon, stores, declared):
    stream = FAULTS["GAIN_STEPS"](2, declared)
    series = stream.series[0]
    sent = [tonescope.Frame(amplitude=a, node_id=series.node_id, sequence=i) for i, a in enumerate(series.amplitude)]
    with tonescope.connect(start_daemon(store=stores).address) as client:
        answering = client.live(model=MODEL, frames=sent, overload="back_pressure")
        assert sum(1 for _ in answering) > 30
        (steps,) = [notice for notice in answering.notices() if notice.code == "GAIN_STEPS"]
    assert (steps.kind, steps.severity, steps.node_id) == ("warning", "warning", series.node_id)
    assert steps.figures["steps"] >= 1
    assert "agc" in steps.remedy
    assert str(steps).startswith(f"warning: GAIN_STEPS: node {series.node_id}: ")
    assert answering.summary is not None
    assert answering.summary.findings["GAIN_STEPS"] == 1


def test_findings_are_counted_for_prometheus(start_daemon, stores, declared):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{probe.getsockname()[1]}"
    with grpc.insecure_channel(start_daemon(store=stores, metrics=metrics).address) as channel:
        for seed in range(2):
            told(channel, FAULTS["DUPLICATE_FRAMES"](seed, declared))
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    assert 'tonescope_findings_total{code="DUPLICATE_FRAMES"} 4.0' in lines


def test_a_daemon_that_is_told_not_to_check_says_nothing(start_daemon, stores, declared):
    with grpc.insecure_channel(start_daemon(store=stores, checks=False).address) as channel:
        found, summary = told(channel, FAULTS["TONES_ROLLED"](1, declared))
    assert found == []
    assert dict(summary.findings) == {}


def test_what_lasts_is_told_once_in_a_long_stream(checked, declared):
    """Two hundred seconds of rolled tones, from one node of the two that are declared."""
    stream = FAULTS["TONES_ROLLED"](1, declared)
    series = stream.series[0]
    # Ever so little louder from one round to the next: the same frames again would be a loop, and told as that.
    rounds = (series.amplitude * np.float32(1 + number / 1000) for number in itertools.count())
    endless = itertools.islice(itertools.chain.from_iterable(rounds), 4000)
    sent = [csi_pb2.Frame(amplitude=tensor(a), node_id=1, sequence=i) for i, a in enumerate(endless)]
    batches = [frames(*sent[i : i + 50]) for i in range(0, len(sent), 50)]
    patient = opening(options(MODEL), overload_policy=live_pb2.OVERLOAD_POLICY_BACK_PRESSURE)
    responses = live(checked, patient, *batches)
    assert [(w.code, w.node_id) for w in of_kind(responses, "warning")] == [("TONES_ROLLED", 1), ("MISSING_NODE", 2)]


def test_the_drift_of_a_stream_is_told_against_the_training(checked, declared):
    ripple = (1 + 0.2 * np.sin(np.arange(64) / 5)).astype(np.float32)
    stream = clean_frames(6, declared)
    moved = Stream(declared, [replace(s, amplitude=s.amplitude * ripple) for s in stream.series])
    found, _ = told(checked, moved)
    assert {each.code for each in found} == {"INPUT_DRIFT"}
