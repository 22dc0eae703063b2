"""The client's errors mirror the daemon's, without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

import grpc
import pytest

from tonescope import errors as client_errors
from tonescope.v1 import error_pb2
from tonescope_server import errors as server_errors


def classes_of(module: object, root: type[Exception]) -> dict[str, type[Exception]]:
    return {name: each for name, each in vars(module).items() if isinstance(each, type) and issubclass(each, root)}


SERVER = classes_of(server_errors, server_errors.TonescopeError)
CLIENT = classes_of(client_errors, client_errors.TonescopeError)


@pytest.mark.parametrize("name", sorted(SERVER))
def test_every_error_of_the_daemon_has_a_class_in_the_client(name: str) -> None:
    server, client = SERVER[name], CLIENT[name]
    assert client.reason == server.reason
    assert [base.__name__ for base in client.__mro__] == [base.__name__ for base in server.__mro__]


def test_the_client_knows_no_reason_that_the_daemon_does_not_give() -> None:
    assert set(client_errors.REASONS) == {each.reason for each in SERVER.values()}


def test_a_reason_picks_the_class_and_the_message_becomes_one_line() -> None:
    error = client_errors.make_error("WRONG_SHAPE", "expected (56, 20),\n  got (20, 56)", None)
    assert type(error) is client_errors.ShapeError
    assert str(error) == "expected (56, 20), got (20, 56)"


def test_an_unknown_reason_falls_back_on_the_status_code_and_is_kept() -> None:
    error = client_errors.make_error("FROM_THE_FUTURE", "no", grpc.StatusCode.NOT_FOUND)
    assert type(error) is client_errors.NotFoundError
    assert error.reason == "FROM_THE_FUTURE"
    assert error.code is grpc.StatusCode.NOT_FOUND


def test_a_problem_of_one_window_becomes_the_same_typed_error() -> None:
    problem = error_pb2.Problem(reason="NON_FINITE", message="NaN at 3", grpc_code=3)
    error = client_errors.from_problem(problem)
    assert type(error) is client_errors.NonFiniteError
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


def test_no_module_of_the_client_names_the_server_or_the_plugins() -> None:
    for path in Path(client_errors.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(("tonescope_server", "tonescope_plugins"))]
