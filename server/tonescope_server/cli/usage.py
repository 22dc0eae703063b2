"""Wrong usage in one line: what the parser refuses, and options that would have no effect where they were given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from tonescope_server.errors import ParameterError

# typer has a parser of its own in newer releases and click's in older ones: only the root of the errors tells both.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_EXPECTED = (
    (re.compile(r"should be (.+?)(?:, unable to .*)?$"), ""),
    (re.compile(r"is not (one of .+?)\.?$"), ""),
    (re.compile(r"does not take a value"), "no value"),
    (re.compile(r"requires an argument"), "a value"),
)
_SHORTER = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid integer": "an integer",
    "a valid number": "a number",
    "'": "",
}


def is_given(context: typer.Context, name: str) -> bool:
    """Say whether a parameter stands on the command line, rather than in the environment or nowhere."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def only(context: typer.Context, names: Iterable[str], when: str, got: str) -> None:
    """Refuse options that were given where they mean nothing, so that none is ignored in silence.

    Args:
        context: the command's.
        names: the options, by the names of the command's parameters.
        when: where they do mean something: "with a recording".
        got: what there is instead: "the array 'x.npy'".

    Raises:
        ParameterError: one of them was given.
    """
    written = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in names:
        if is_given(context, name):
            raise ParameterError(f"{written[name]}: expected only {when}, got {got}")


def usage_line(error: Any, arguments: Sequence[str], commands: Iterable[str]) -> str:
    """Say in one line what is wrong with a command line: where, what was expected, what was got."""
    known = list(commands)
    command = f"tonescope {arguments[0]}" if arguments and arguments[0] in known else "tonescope"
    said = " ".join(str(error.format_message()).split())
    parameter = getattr(error, "param", None)
    if type(error).__name__ == "MissingParameter" and parameter is not None:
        return f"{command}: {_name(parameter)}: expected a value, got none"
    if type(error).__name__ == "NoSuchOption":
        near = ", ".join(sorted(error.possibilities or ()))
        return f"{command}: expected an option {f'such as {near}' if near else 'of --help'}, got '{error.option_name}'"
    option = _name(parameter) if parameter is not None else getattr(error, "option_name", "")
    if option:
        return f"{command}: {_wrong_value(option, said, arguments, getattr(parameter, 'opts', [option]))}"
    extra = re.search(r"extra arguments?(?:\(s\))? \((.+)\)", said)
    if extra:
        return f"{command}: expected no further argument, got '{extra[1]}'"
    if command == "tonescope" and arguments:
        return f"tonescope: expected a command ({', '.join(known)}), got '{arguments[0]}'"
    return f"{command}: {said}"


def _name(parameter: Any) -> str:
    """Name a parameter as it is written: an option with its dashes, an argument in capitals."""
    written = str(parameter.opts[0])
    return written if written.startswith("-") else written.upper()


def _wrong_value(option: str, said: str, arguments: Sequence[str], names: Sequence[str]) -> str:
    value = _value_of(names, arguments)
    got = "none" if value is None else f"'{value}'"
    for pattern, stated in _EXPECTED:
        if found := pattern.search(said):
            return f"{option}: expected {stated or _shorter(found[1])}, got {got}"
    return f"{option}: {said}"


def _shorter(expected: str) -> str:
    for long, short in _SHORTER.items():
        expected = expected.replace(long, short)
    return expected


def _value_of(names: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Find what was given for an option: the last time, as that is what counts."""
    found = None
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if word in names:
            found = following
        elif equals and name in names:
            found = value
        elif word[:2] in names and not word.startswith("--"):
            found = word[2:]
    return found
