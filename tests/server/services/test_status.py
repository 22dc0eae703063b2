from __future__ import annotations

import inspect

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tonescope_server import errors
from tonescope_server.services.status import (
    DETAILS_KEY,
    MAX_MESSAGE_CHARS,
    code_of,
    message_of,
    problem_of,
    trailers_of,
)

ERRORS = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.TonescopeError)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ShapeError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ShortFrameError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.StorePathError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.UnknownModelError, grpc.StatusCode.NOT_FOUND),
        (errors.MissingWeightsError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.UnsupportedOperatorError, grpc.StatusCode.UNIMPLEMENTED),
        (errors.OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
        (errors.PluginError, grpc.StatusCode.INTERNAL),
    ],
)
def test_the_nearest_base_in_the_table_gives_the_code(
    error: type[errors.TonescopeError], code: grpc.StatusCode
) -> None:
    assert code_of(error("no")) is code


def test_only_what_is_a_fault_of_ours_is_internal() -> None:
    internal = {error for error in ERRORS if code_of(error("no")) is grpc.StatusCode.INTERNAL}
    assert internal == {errors.TonescopeError, errors.PluginError, errors.PluginTimeoutError}


def test_reasons_are_unique_so_that_clients_can_rebuild_the_class() -> None:
    reasons = [error.reason for error in ERRORS]
    assert len(set(reasons)) == len(reasons)


def test_a_problem_says_what_a_failed_call_would() -> None:
    problem = problem_of(errors.ShapeError("window: expected (56, 20), got (1, 114)"))
    assert problem.reason == "WRONG_SHAPE"
    assert problem.message == "window: expected (56, 20), got (1, 114)"
    assert problem.grpc_code == 3


def test_trailers_carry_the_reason_under_our_domain() -> None:
    ((key, value),) = trailers_of(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL", "no model 'x'")
    assert key == DETAILS_KEY
    status = status_pb2.Status.FromString(value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (5, "no model 'x'")
    assert (info.reason, info.domain) == ("UNKNOWN_MODEL", "tonescope")


def test_messages_are_one_bounded_line() -> None:
    assert message_of(ValueError("two\n  lines")) == "two lines"
    assert len(message_of(ValueError("x" * 100_000))) == MAX_MESSAGE_CHARS
