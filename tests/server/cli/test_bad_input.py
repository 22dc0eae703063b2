"""Whatever is wrong with what a command is given, it says so in one line and exits with 1, without a traceback."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from tonescope_server.demo import store_path

Refused = Callable[..., str]
WEIGHTS = store_path() / "people_count" / "1" / "people_count.safetensors"


# -- models ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_onnx(refused: Refused, windows: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x00\x01 no model")
    assert "model.onnx" in refused("explain", windows, "-m", tmp_path / "model.onnx")


def test_external_weights_that_are_missing_are_named(refused: Refused, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((4, 2), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="lost.bin", size_threshold=0)
    (tmp_path / "lost.bin").unlink()
    assert "lost.bin" in refused("inspect", tmp_path / "m.onnx")


def test_the_published_model_names_its_missing_file_and_loads_when_paired(refused, run, shared: Path) -> None:
    folder = shared / "real/ruview"
    assert "count_v2.onnx.data" in refused("inspect", folder / "count_v1.onnx")
    paired = run("inspect", folder / "count_v1.onnx", "--weights", folder / "count_v1.safetensors", "--json")
    assert paired.json["input"]["shape"] == [-1, 56, 20]


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_truncated_safetensors(refused: Refused, tmp_path: Path, keep: int) -> None:
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:keep])
    assert "cut.safetensors" in refused("inspect", tmp_path / "cut.safetensors")


def test_corrupt_safetensors(refused: Refused, tmp_path: Path) -> None:
    data = bytearray(WEIGHTS.read_bytes())
    data[8:40] = b"!" * 32
    (tmp_path / "bad.safetensors").write_bytes(data)
    assert "bad.safetensors" in refused("inspect", tmp_path / "bad.safetensors")


@pytest.mark.parametrize("fault", ["missing", "extra", "mis-shaped"])
def test_a_tensor_missing_extra_or_mis_shaped_is_named(refused: Refused, tmp_path: Path, fault: str) -> None:
    tensors = load_file(WEIGHTS)
    name = sorted(tensors)[0]
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        name = "surplus.weight"
        tensors[name] = np.zeros(3, dtype=np.float32)
    else:
        tensors[name] = np.zeros((1, *tensors[name].shape), dtype=np.float32)
    save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "model.toml").write_text('[model]\narchitecture = "csi_count_net"\nweights = "m.safetensors"\n')
    assert name in refused("inspect", tmp_path)


def test_an_operator_without_a_rule_is_named_with_what_still_works(
    refused: Refused, tiny_store: Path, windows: Path, run: Any
) -> None:
    asked = ("explain", windows, "-m", "ruleless", "--store", tiny_store)
    line = refused(*asked, "--method", "saliency")
    assert "no rule for operator" in line
    assert "occlusion" in line
    assert run(*asked, "--method", "occlusion").code == 0


def test_a_name_that_leaves_the_store(refused: Refused, tiny_store: Path, windows: Path) -> None:
    assert "no such file or folder" in refused("explain", windows, "-m", "/etc/passwd/x", "--store", tiny_store)
    for name in ("../tiny", "tiny/../../x"):
        assert "expected a plain name, got" in refused("explain", windows, "-m", name, "--store", tiny_store)


def test_a_store_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere" in refused("models", "--store", tmp_path / "nowhere")


def test_a_window_in_which_the_model_overflows_is_no_traceback(refused: Refused, write_jsonl) -> None:
    frames = [{"subcarriers": [3e38 if i == 7 else 1.0] * 64} for i in range(20)]
    line = refused("explain", write_jsonl(frames), "--normalise", "none", "--json", "-")
    assert "-: expected finite numbers, got NaN or infinity" in line


# -- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-m", "nobody"), "nobody"),
        (("--method", "tea_leaves"), "tea_leaves"),
        (("-p", "strength=3"), "no parameter 'strength'"),
        (("-p", "strength"), "expected NAME=VALUE"),
        (("--method", "integrated_gradients", "-p", "n_steps=0"), "n_steps"),
        (("--method", "integrated_gradients", "-p", "n_steps=many"), "n_steps"),
        (("--target", "9"), "9"),
        (("--target", "seven"), "seven"),
        (("--target", "mean:1,x"), "expected integers after the colon, got '1,x'"),
        (("--target", "difference:1"), "expected two indices"),
        (("--output", "colour"), "colour"),
        (("--png", "x.png", "--window", "5"), "expected at most 4, got 5"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_named(
    refused: Refused,
    tiny_store: Path,
    windows: Path,
    more: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused("explain", windows, "-m", "tiny", "--store", tiny_store, *more)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((1, 56, 4), np.nan), "nan"),
        (np.full((1, 56, 4), np.inf), "inf"),
        (np.zeros((1, 4, 56)), "(1, 4, 56)"),
        (np.zeros((56, 4)), "(56, 4)"),
        (np.zeros((0, 56, 4)), "(0, 56, 4)"),
        (np.zeros(()), "()"),
        (np.zeros((1, 56, 4), dtype=complex), "complex128"),
        (np.full((1, 56, 4), "x"), "got <U1"),
    ],
    ids=["nan", "inf", "transposed", "no batch", "empty", "scalar", "complex", "text"],
)
@pytest.mark.parametrize("remote", [False, True])
def test_windows_that_cannot_be_explained(
    refused: Refused, tiny_store: Path, tiny_address: str, array: Any, said: str, remote: bool, tmp_path: Path
) -> None:
    np.save(tmp_path / "w.npy", array)
    where = ("--server", tiny_address) if remote else ("--store", tiny_store)
    line = refused("explain", tmp_path / "w.npy", "-m", "tiny", *where)
    assert said in line or remote  # the wire refuses some of them sooner, in other words


@pytest.fixture(scope="module")
def tiny_address(tiny_store: Path) -> Any:
    from tonescope_server.cli.demo import own_daemon

    with own_daemon(tiny_store) as listening:
        yield listening


def test_files_that_are_no_arrays(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00 garbage")
    assert "a.npy: expected a NumPy file" in refused("explain", tmp_path / "a.npy")
    (tmp_path / "b.npz").write_bytes(b"PK nothing")
    assert "b.npz: expected a NumPy file" in refused("explain", tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", first=np.zeros(1), second=np.zeros(1))
    assert "expected an array 'windows' or 'x', got first, second" in refused("explain", tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", np.array([{"pickled": True}]), allow_pickle=True)
    assert "d.npy: expected a NumPy file of numbers" in refused("explain", tmp_path / "d.npy")
    assert "nowhere.npy: cannot be read: No such file" in refused("explain", tmp_path / "nowhere.npy")


# -- recordings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["explain", "saliency", "inspect", "replay", "watch"])
def test_an_empty_recording(refused: Refused, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "empty.jsonl" in refused(command, tmp_path / "empty.jsonl")


@pytest.mark.parametrize("command", ["explain", "saliency", "inspect", "replay", "watch"])
def test_garbage_is_no_recording(refused: Refused, tmp_path: Path, command: str) -> None:
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 8)
    assert "noise.bin" in refused(command, tmp_path / "noise.bin")


def test_a_recording_of_other_packets_and_short_frames_names_the_kinds(refused: Refused, write_jsonl: Any) -> None:
    path = write_jsonl(
        [
            {"timestamp": 1.0, "node_id": 1, "magic": "0xC5110002", "size": 32, "type": "vitals"},
            {
                "timestamp": 1.1,
                "node_id": 1,
                "magic": "0xC5110001",
                "type": "raw_csi",
                "iq_hex": "00ff",
                "subcarriers": 64,
            },
            {
                "timestamp": 1.2,
                "node_id": 1,
                "magic": "0xC5110001",
                "type": "raw_csi",
                "iq_hex": "zz",
                "subcarriers": 64,
            },
        ]
    )
    line = refused("explain", path)
    assert all(kind in line for kind in ("1 vitals", "1 short", "1 corrupt"))


def test_a_recording_too_short_for_one_window_says_what_it_takes(
    refused: Refused, recording: Path, tmp_path: Path
) -> None:
    vitals = json.dumps({"type": "vitals", "node_id": 1})
    (tmp_path / "short.jsonl").write_text("\n".join([*recording.read_text().splitlines()[:10], vitals]))
    line = refused("explain", tmp_path / "short.jsonl")
    assert "expected a run of 20 frames of 64 tones" in line
    assert line.endswith("10 of 10 frames used (skipped: none), 0 windows, 0 gaps; records without a frame: 1 vitals")


@pytest.mark.parametrize("command", [("explain",), ("saliency", "-o", "-"), ("doctor", "people_count")])
def test_a_picture_that_is_no_png_is_refused_before_any_work(refused: Refused, recording: Path, command: Any) -> None:
    assert "--png: expected a .png file, got 'x.gif'" in refused(*command, recording, "--png", "x.gif")


@pytest.mark.parametrize("command", ["replay", "watch", "explain"])
def test_a_recording_too_short_for_one_window_is_an_error_at_a_daemon_too(
    run: Any, recording: Path, address: str, tmp_path: Path, command: str
) -> None:
    (tmp_path / "short.jsonl").write_text("\n".join(recording.read_text().splitlines()[:5]))
    fast = () if command == "explain" else ("--as-fast-as-possible",)
    ran = run(command, tmp_path / "short.jsonl", "--server", address, *fast)
    assert ran.code == 1
    assert "Traceback" not in ran.err
    line = ran.err.splitlines()[-1]
    assert "short.jsonl': expected a run of 20 frames of 64 tones for model 'people_count', got none: " in line
    assert "5 of 5 frames used" in line


def test_a_recording_of_another_length_says_what_was_skipped(refused: Refused, shared: Path) -> None:
    path = shared / "real/ruview/rec_1772470567081-20260302_165607.csi.jsonl"
    assert "253 length_56" in refused("explain", path, "-m", "people_count")


@pytest.mark.parametrize("normalise", ["recording", "running"])
def test_a_transposed_csi_shape_is_said(refused: Refused, write_jsonl: Any, tiny_store: Path, normalise: str) -> None:
    path = write_jsonl([{"csi": [1.0] * 224, "csi_shape": [4, 56]}] * 2)
    line = refused("saliency", path, "-m", "tiny", "--store", tiny_store, "--normalise", normalise)
    assert "csi_shape is transposed" in line


def test_an_unknown_format_or_normaliser_is_named_with_those_there_are(refused: Refused, recording: Path) -> None:
    assert "'morse': unknown, expected one of adr018" in refused("inspect", recording, "--format", "morse")
    assert "unknown, expected one of manifest" in refused("explain", recording, "--normalise", "often")


@pytest.mark.parametrize("speed", ["0", "-1", "inf", "nan"])
def test_a_speed_that_is_none(refused: Refused, recording: Path, speed: str) -> None:
    assert "--speed: expected a number above 0" in refused("replay", recording, "--speed", speed)


# -- places ------------------------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_written(refused: Refused, recording: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused("saliency", recording, "-o", tmp_path / "file" / "saliency.json")
    assert "cannot be written" in line


def test_a_port_in_use(refused: Refused, tiny_store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "address already in use" in refused("serve", "--listen", address, "--store", tiny_store)


def test_frames_of_the_wrong_magic_are_named_by_kind_and_the_stream_goes_on(tiny_address: str) -> None:
    import tonescope

    header = struct.pack("<IBBHIIbbBB", 0xC5110001, 3, 1, 56, 2437, 0, -40, -90, 0, 0)
    good = [header[:12] + struct.pack("<I", i) + header[16:] + bytes(range(1, 113)) for i in range(4)]
    vitals = struct.pack("<I", 0xC5110002) + bytes(28)
    with tonescope.connect(tiny_address) as client:
        sent = [*good[:2], vitals, b"??", good[2][:40], *good[2:]]
        stream = client.live(model="tiny", frames=sent, default_format="adr018", overload="back_pressure")
        found = list(stream)
        notices = {notice.code: notice.message for notice in stream.notices() if notice.kind == "rejected"}
    assert [(each.node_id, each.last_sequence) for each in found] == [(3, 3)]
    assert "vitals" in notices["WRONG_MAGIC"]
    assert "SHORT_FRAME" in notices
    assert stream.summary is not None
    assert stream.summary.frames_skipped == {"vitals": 1, "short": 2}
