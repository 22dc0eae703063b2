"""What callers may write, and the message it becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tonescope import Frame, Target, Window
from tonescope.errors import FrameError, InvalidInputError, ParameterError, ShapeError, TargetError
from tonescope.request import (
    frame_message,
    method_call,
    method_parameters,
    model_ref,
    options,
    statistics_messages,
    target_message,
    window_message,
)
from tonescope.tensors import to_array
from tonescope_server.services.convert import statistics_of, target_of
from tonescope_server.types import Target as ServerTarget


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        (3, ServerTarget.element(3)),
        (0, ServerTarget.element(0)),
        (np.int64(2), ServerTarget.element(2)),
        ("empty", ServerTarget.element("empty")),
        ((1, 2), ServerTarget.element((1, 2))),
        (Target.predicted(), ServerTarget.predicted()),
        (Target.element(1, output="conf"), ServerTarget.element(1, "conf")),
        (Target.mean(), ServerTarget.mean()),
        (Target.mean([0, 5]), ServerTarget.mean((0, 5))),
        (Target.sum([2]), ServerTarget.sum((2,))),
        (Target.log_probability("two"), ServerTarget.log_probability("two")),
        (Target.negative_log_likelihood(), ServerTarget.negative_log_likelihood()),
        (Target.negative_log_likelihood(0), ServerTarget.negative_log_likelihood(0)),
        (
            Target.difference(Target.element(1), Target.element("empty")),
            ServerTarget.difference(ServerTarget.element(1), ServerTarget.element("empty")),
        ),
    ],
)
def test_a_target_means_the_same_to_the_daemon(asked: object, understood: ServerTarget) -> None:
    assert target_of(target_message(asked)) == understood  # type: ignore[arg-type]


def test_no_target_leaves_the_choice_to_the_model() -> None:
    assert not options("m", "", None, "", {}, 0, False).HasField("target")
    assert options("m", "", 0, "", {}, 0, False).HasField("target")


@pytest.mark.parametrize(
    ("name", "version", "meant"),
    [
        ("m", "", ("m", "")),
        ("m", "2", ("m", "2")),
        ("m/2", "", ("m", "2")),
        ("m/2", "2", ("m", "2")),
        ("m/", "", ("m", "")),
        ("../m", "", ("..", "m")),
        ("/etc/passwd", "", ("/etc/passwd", "")),
    ],
)
def test_a_model_is_named_with_its_version_or_without(name: str, version: str, meant: tuple[str, str]) -> None:
    reference = model_ref(name, version)
    assert (reference.name, reference.version) == meant


def test_a_model_with_two_versions_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"^model version: expected '1' as in 'm/1', got '2' beside it$"):
        model_ref("m/1", "2")


@pytest.mark.parametrize("bad", [Frame(amplitude="loud"), Frame(amplitude=[1.0, None, "x"]), Frame(raw="text")])  # type: ignore[arg-type]
def test_a_payload_that_is_none_is_refused(bad: Frame) -> None:
    with pytest.raises(FrameError, match=r"^frame: expected an array of numbers as amplitude or iq, or bytes as raw$"):
        frame_message(bad)


def test_statistics_are_of_a_node_and_of_frames_of_a_length_or_of_any() -> None:
    mean, std = np.arange(3.0), np.ones(3)
    given = [(mean, std), (mean, std, 0), (mean, std, 7, 64), (mean, std, None, 56)]
    understood = statistics_of(statistics_messages(given))  # type: ignore[arg-type]
    assert list(understood) == [(None, None), (0, None), (7, 64), (None, 56)]
    assert all(m.tolist() == [0, 1, 2] and s.tolist() == [1, 1, 1] for m, s in understood.values())


@pytest.mark.parametrize("bad", [1.5, [1.5], object()])
def test_what_is_no_target_is_refused(bad: object) -> None:
    with pytest.raises(TargetError, match="expected a class index, a class name or a position"):
        target_message(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [Target.mean(["a"]), Target.element(2**70), Target.log_probability(-1.5j)], ids=repr)  # type: ignore[list-item,arg-type]
def test_a_target_that_cannot_travel_is_named(bad: Target) -> None:
    with pytest.raises(TargetError, match=f"^target {bad.kind}: expected indices, class names or labels, got "):
        target_message(bad)


def test_parameters_keep_their_values_and_arrays_become_lists() -> None:
    call = method_call("ig", {"n_steps": 64, "baseline": np.eye(2), "rule": "trapezoid", "x": None})
    assert dict(call.parameters) == {"n_steps": 64, "baseline": [[1, 0], [0, 1]], "rule": "trapezoid", "x": None}


def test_a_parameter_that_cannot_travel_is_named() -> None:
    with pytest.raises(ParameterError, match=r"parameter 'fill'.*got object"):
        method_call("m", {"fill": object()})


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (np.nan, "NaN or infinity"),
        ([[1.0], [np.inf]], "NaN or infinity"),
        (np.full((56, 20), np.nan), "NaN or infinity"),
        (np.float32(np.inf), "NaN or infinity"),
        ([np.ones(2), np.array([np.nan])], "NaN or infinity"),
        (np.ones((56, 20), np.complex64), r"a complex array of shape \(56, 20\)"),
        ([1j], "a complex number"),
        (10**400, "int"),
        (b"text", "bytes"),
    ],
    ids=str,
)
def test_a_parameter_without_finite_numbers_is_refused_before_anything_is_sent(value: object, got: str) -> None:
    with pytest.raises(ParameterError, match=rf"^parameter 'baseline': expected finite numbers, .*, got {got}$"):
        method_call("ig", {"baseline": value})


def test_lists_within_lists_without_end_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ParameterError, match="more than 16 lists in each other"):
        method_call("ig", {"baseline": endless})
    deepest: object = 1.0
    for _ in range(16):
        deepest = [deepest]
    method_call("ig", {"baseline": deepest}).SerializeToString()


def test_arrays_within_lists_travel_as_lists() -> None:
    assert dict(method_call("eg", {"background": [np.ones(2), (0, 1)]}).parameters) == {"background": [[1, 1], [0, 1]]}


def test_parameters_may_be_a_mapping_or_keywords_but_none_of_them_both() -> None:
    assert method_parameters({"top_k": 3}, {"n_steps": 8}) == {"top_k": 3, "n_steps": 8}
    with pytest.raises(ParameterError, match=r"^parameter 'n_steps': expected once"):
        method_parameters({"n_steps": 8}, {"n_steps": 9})
    with pytest.raises(ParameterError, match=r"^parameters: expected a mapping from names to values, got list$"):
        method_parameters(["n_steps"], {})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"^parameters: expected names as text, got 3$"):
        method_call("ig", {3: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_model_without_a_name_is_refused(name: Any) -> None:
    with pytest.raises(ParameterError, match=rf"^model: expected a name, or NAME/VERSION, got {name!r}$"):
        model_ref(name)


def test_complex_gains_travel_as_real_and_imaginary_parts() -> None:
    message = frame_message(np.array([1 + 2j, 3 - 4j]))
    np.testing.assert_array_equal(to_array(message.iq), np.array([[1, 2], [3, -4]], dtype="f4"))


def test_int8_pairs_travel_as_they_are() -> None:
    pairs = np.array([[1, -2], [3, 4]], dtype="i1")
    back = to_array(frame_message(Frame(iq=pairs)).iq)
    assert back.dtype == np.int8
    np.testing.assert_array_equal(back, pairs)


def test_a_real_array_is_amplitudes_and_bytes_are_raw() -> None:
    assert frame_message(np.ones(56)).WhichOneof("payload") == "amplitude"
    assert frame_message(b"\x01").raw == b"\x01"


def test_absent_fields_stay_absent_and_zero_is_sent() -> None:
    message = frame_message(Frame(amplitude=np.ones(2), sequence=0))
    assert message.HasField("sequence")
    assert not message.HasField("rssi_dbm")
    assert not window_message(Window(np.ones(2))).HasField("last_sequence")


@pytest.mark.parametrize("bad", [{"node_id": -1}, {"sequence": 1.5}, {"transmitter": 3}, {"rssi_dbm": "loud"}], ids=str)
def test_a_frames_field_that_cannot_be_is_named(bad: dict[str, Any]) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(FrameError, match=f"^frame: {name}: expected .*, got {value!r}$"):
        frame_message(Frame(amplitude=np.ones(3), **bad))


def test_a_windows_field_that_cannot_be_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"^window: node_id: expected a whole number from 0 to .*, got -1$"):
        window_message(Window(np.ones(3), node_id=-1))


def test_a_frame_has_exactly_one_payload() -> None:
    with pytest.raises(InvalidInputError, match="exactly one"):
        frame_message(Frame())
    with pytest.raises(InvalidInputError, match="exactly one"):
        frame_message(Frame(raw=b"", amplitude=np.ones(2)))


def test_gains_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"got \(2, 3\)"):
        frame_message(Frame(iq=np.ones((2, 3))))
