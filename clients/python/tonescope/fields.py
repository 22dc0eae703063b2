"""Messages built field by field, so that a value which does not fit is named. Which messages is the callers' affair."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tonescope.errors import InvalidInputError, ParameterError

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


def number(name: str, value: Any, least: float = 0.0, most: float = math.inf, unit: str = "") -> float:
    """Return a number that is no field of a message.

    Args:
        name: what it is called, for the error.
        value: the number; NaN is none.
        least: it must not be smaller.
        most: nor larger; infinity allows infinity.
        unit: put before the range in the error.

    Raises:
        ParameterError: no number, or out of range.
    """
    known = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not known or not least <= value <= most:
        to = "or more" if most == math.inf else f"to {most:.15g}"
        raise ParameterError(f"{name}: expected {least:g} {to}{unit and f' {unit}'}, got {_short(value)}")
    return float(value)


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
        raise refusal(f"{what}{name.removeprefix('want_')}: expected {expected}, got {_short(value)}") from error


def _short(value: Any) -> str:
    shown = repr(value)
    return " ".join((shown if len(shown) <= 60 else f"{shown[:57]}...").split())
