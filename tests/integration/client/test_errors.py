"""What a daemon refuses, and a daemon that is not there, as typed errors of one line."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

import tonescope
from tonescope import Target, errors
from tonescope.calls import opening
from tonescope.tensors import to_tensor
from tonescope.v1 import attribution_service_pb2, csi_pb2

from .daemons import Daemon

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


def test_an_array_without_a_batch_axis_is_told_what_its_first_axis_is_taken_for(client: tonescope.Client) -> None:
    said = r"^window 0: values: expected \(56, 4\), got \(4,\); the array \(56, 4\) is taken for 56 windows of \(4,\)"
    with pytest.raises(errors.ShapeError, match=said) as caught:
        client.explain(X[0], model="tiny")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(errors.ShapeError, match=r"got \(4,\)$"):  # in a list each window stands for itself
        client.explain([X[0], X[0, 0]], model="tiny")


def test_a_version_may_be_written_behind_the_models_name(client: tonescope.Client) -> None:
    assert len(client.explain(X, model="tiny/1")) == 1
    assert client.model("tiny/1").info.version == "1"
    assert client.load_model("tiny/1").version == client.unload_model("tiny/1").version == "1"
    with client.live(model="tiny/1", windows=X) as stream:
        assert len(list(stream)) == 1
    assert stream.opened is not None
    assert stream.opened.model_version == "1"


def test_a_version_that_there_is_not_is_told_with_those_there_are(client: tonescope.Client) -> None:
    said = r'model "tiny": no version "7" \(there are: 1\)'
    for ask in (
        lambda: client.explain(X, model="tiny/7"),
        lambda: client.model("tiny/7"),
        lambda: client.load_model("tiny/7"),
        lambda: client.unload_model("tiny/7"),
        lambda: list(client.live(model="tiny/7", windows=X)),
    ):
        with pytest.raises(errors.UnknownModelError, match=said):
            ask()
    with pytest.raises(errors.ParameterError, match="model version: expected '1' as in 'tiny/1', got '2' beside it"):
        client.explain(X, model="tiny/1", version="2")


def test_a_client_that_was_closed_says_so(daemon: Daemon) -> None:
    client = tonescope.connect(daemon.address)
    client.close()
    client.close()  # as often as one likes
    for ask in (
        lambda: client.explain(X, model="tiny"),
        client.models,
        lambda: client.live(model="tiny"),
        client.wait_until_ready,
    ):
        with pytest.raises(errors.ProtocolError, match=rf"^client of {daemon.address}: expected no call after close"):
            ask()


@pytest.mark.parametrize("item", [5, None, [1.0, 2.0], "frame"])
def test_what_is_no_frame_ends_the_stream_with_a_typed_error(client: tonescope.Client, item: object) -> None:
    said = f"^frame: expected a Frame, an array or bytes, got {type(item).__name__}$"
    with pytest.raises(errors.FrameError, match=said):
        list(client.live(model="tiny", frames=[b"garbage", b"", item]))  # type: ignore[list-item]
    with client.live(model="tiny") as stream, pytest.raises(errors.FrameError, match=said):
        stream.send(item)  # type: ignore[arg-type]


def test_what_the_callers_own_source_raised_is_named_and_kept_as_the_cause(client: tonescope.Client) -> None:
    def source() -> Iterator[np.ndarray]:
        yield X[0]
        raise OSError("the radio is gone")

    with pytest.raises(errors.TonescopeError, match=r"^the source failed: OSError: the radio is gone$") as caught:
        list(client.live(model="tiny", windows=source()))
    assert isinstance(caught.value.__cause__, OSError)


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
