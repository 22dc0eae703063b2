"""The main job on real input: real models and real recordings through a real daemon."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tonescope.v1 import attribution_pb2, attribution_service_pb2_grpc, csi_pb2, live_pb2, model_pb2
from tonescope_server import Explainer

TWO_NODES = "pretrain-1775182186.csi.jsonl"
AMPLITUDES = "rec_1772470567081-20260302_165607.csi.jsonl"


@pytest.fixture(scope="module")
def store(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    ruview = shared / "real" / "ruview"
    (root / "count").mkdir()
    shutil.copy(ruview / "count_v1.safetensors", root / "count")
    (root / "pose").mkdir()
    shutil.copy(ruview / "pose_v1.safetensors", root / "pose")
    shutil.copy(ruview / "sample_room.adapter.safetensors", root / "pose")
    (root / "pose" / "model.toml").write_text(
        '[model]\nweights = "pose_v1.safetensors"\nadapter = "sample_room.adapter.safetensors"\n'
    )
    return root


@pytest.fixture
def stub(store: Path, start_daemon: Any) -> Iterator[attribution_service_pb2_grpc.AttributionServiceStub]:
    running = start_daemon(store=store, queue_windows=256)
    with grpc.insecure_channel(running.address) as channel:
        yield attribution_service_pb2_grpc.AttributionServiceStub(channel)


Explanations = dict[int, list[attribution_pb2.Explanation]]


def replay(
    stub: attribution_service_pb2_grpc.AttributionServiceStub,
    recording: Path,
    model: str,
    method: str = "input_x_gradient",
    normalisation: int = csi_pb2.NORMALISATION_UNSPECIFIED,
) -> tuple[Explanations, live_pb2.Opened, live_pb2.Summary]:
    """Send a recording's lines as raw frames; return the explanations by node."""
    options = attribution_pb2.ExplainOptions(model=model_pb2.ModelRef(name=model))
    options.method.name = method
    first = live_pb2.Open(
        options=options,
        default_format="ruview_jsonl",
        overload_policy=live_pb2.OVERLOAD_POLICY_BACK_PRESSURE,
        normalisation=normalisation,  # type: ignore[arg-type]
    )
    lines = recording.read_bytes().splitlines()

    def requests() -> Iterator[live_pb2.LiveRequest]:
        yield live_pb2.LiveRequest(open=first)
        for start in range(0, len(lines), 64):
            batch = [csi_pb2.Frame(raw=line) for line in lines[start : start + 64]]
            yield live_pb2.LiveRequest(frames=live_pb2.FrameBatch(frames=batch))

    found: Explanations = defaultdict(list)
    opened, summary = live_pb2.Opened(), live_pb2.Summary()
    for response in stub.Live(requests(), timeout=60):
        for explanation in response.explanations.explanations:
            found[explanation.node_id].append(explanation)
        if response.HasField("opened"):
            opened = response.opened
        if response.HasField("summary"):
            summary = response.summary
    return found, opened, summary


def tones(explanation: attribution_pb2.Explanation) -> Any:
    return np.frombuffer(explanation.tones.data, "<f4")


@pytest.mark.parametrize("model", ["count", "pose"])
def test_both_nodes_of_the_two_node_recording_are_explained(stub: Any, shared: Path, model: str) -> None:
    found, opened, summary = replay(stub, shared / "real" / "ruview" / TWO_NODES, model)
    assert set(found) == {1, 2}
    assert opened.tone_table.id == "ruview56"
    # Lines of three frame lengths and of other packets: only LLTF frames make windows; the rest is counted.
    assert summary.frames_received == 5783
    assert {"length_128", "length_192"} <= set(summary.frames_skipped)
    assert summary.frames_used + sum(summary.frames_skipped.values()) == summary.frames_received
    assert summary.windows == summary.explained == sum(map(len, found.values()))
    for explanations in found.values():
        assert len(explanations) > 50
        assert [each.running.count for each in explanations] == list(range(1, len(explanations) + 1))
        for each in explanations:
            assert not each.HasField("problem")
            assert np.isfinite(tones(each)).all()
            assert tones(each).any()
            # On raw amplitudes the null cells are exactly zero, so this method puts nothing on them.
            assert each.null_tone_share == 0
            assert len(each.prediction.scores) == (8 if model == "count" else 34)
            assert each.prediction.HasField("class_index") is (model == "count")


def test_a_streamed_window_is_explained_as_in_process(stub: Any, shared: Path, store: Path) -> None:
    path = shared / "real" / "ruview" / TWO_NODES
    found, _, _ = replay(stub, path, "count")
    explainer = Explainer.load("count", store=store)
    decoder = explainer.host.decoders["ruview_jsonl"]
    frames = [each for each in decoder.read(path) if hasattr(each, "values") and each.node_id == 1]
    first = np.stack([each.amplitude[:56] for each in frames if each.n_tones == 64][:20], axis=1)[None]
    expected = explainer.explain(first)
    # The same graph on the same values; only the batch it ran in may differ.
    np.testing.assert_allclose(tones(found[1][0]), expected.tones[0], rtol=1e-4, atol=1e-5)
    assert found[1][0].model_digest == expected.model_digest


def test_the_recording_of_56_amplitudes_is_explained(stub: Any, shared: Path) -> None:
    found, _, summary = replay(stub, shared / "real" / "ruview" / AMPLITUDES, "count", "subcarrier_saliency")
    assert summary.explained == sum(map(len, found.values())) > 0
    assert not summary.failed
    for explanations in found.values():
        assert all(each.method.name == "subcarrier_saliency" for each in explanations)
        assert np.frombuffer(explanations[-1].running.mean.data, "<f4").any()


def test_normalising_with_running_statistics_is_said_in_every_result(stub: Any, shared: Path) -> None:
    running = csi_pb2.NORMALISATION_RUNNING
    found, opened, _ = replay(stub, shared / "real" / "ruview" / TWO_NODES, "count", normalisation=running)
    assert opened.normalisation == running
    assert all(each.normalisation == "running" for node in found.values() for each in node)
