"""Messages built field by field, so that a value which does not fit is named. Which messages is the callers' affair."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tonescope.errors import InvalidInputError

_M = TypeVar("_M", bound=Message)
_EXPECTED = {
    FieldDescriptor.TYPE_UINT32: "a whole number from 0 to 4294967295",
    FieldDescriptor.TYPE_UINT64: "a whole number from 0 to 18446744073709551615",
    FieldDescriptor.TYPE_INT64: "a whole number of 64 bits",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_BOOL: "True or False",
    FieldDescriptor.TYPE_STRING: "text",
    FieldDescriptor.TYPE_BYTES: "bytes",
}


def built(kind: type[_M], refusal: type[InvalidInputError], what: str = "", **fields: Any) -> _M:
    """Build a message.

    Args:
        kind: of what kind.
        refusal: what is raised where a value does not fit.
        what: put before the field's name in its message.
        **fields: the values.

    Raises:
        InvalidInputError: of class ``refusal``: a value of the wrong type, or out of range.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            _check(kind, refusal, what, name, value)
        raise


def _check(kind: type[Message], refusal: type[InvalidInputError], what: str, name: str, value: Any) -> None:
    try:
        kind(**{name: value})
    except (TypeError, ValueError) as error:
        expected = _EXPECTED.get(kind.DESCRIPTOR.fields_by_name[name].type, "another value")
        shown = repr(value)
        got = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise refusal(
            f"{what}{name.removeprefix('want_')}: expected {expected}, got {' '.join(got.split())}"
        ) from error
