"""Options that several commands share, and what their text means. Nothing is opened or computed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

from tonescope_server.errors import ParameterError, TargetError

DEFAULT_SERVER = "localhost:50551"
DEFAULT_GIVE_UP_S = 60.0
T = TypeVar("T")

ServerOption = Annotated[str, typer.Option("--server", help="The daemon's address.", envvar="TONESCOPE_SERVER")]
MaybeServerOption = Annotated[
    str, typer.Option("--server", help="Ask this daemon, instead of working in this process.", show_default=False)
]
RemoteModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A model in the daemon's store: NAME or NAME/VERSION; may be left out where it has one."
    ),
]
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A model file or folder, or a name in the store: NAME or NAME/VERSION.")
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", help="The model store.  [default: the bundled one]", envvar="TONESCOPE_STORE", show_default=False
    ),
]
ManifestOption = Annotated[
    Path | None, typer.Option("--manifest", help="A model.toml for a bare model file.", show_default=False)
]
AdapterOption = Annotated[
    Path | None, typer.Option("--adapter", help="A safetensors adapter to merge.", show_default=False)
]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", help="Safetensors for an ONNX file whose own weights are missing.", show_default=False),
]
MethodOption = Annotated[str, typer.Option("--method", help="The attribution method.")]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help="What is explained: a class index or name, 'predicted', 'loss[:LABEL]', 'log-probability[:LABEL]', "
        "'mean[:I,J]', 'sum[:I,J]' or 'difference:I,J'.  [default: the model's]",
        show_default=False,
    ),
]
OutputOption = Annotated[
    str, typer.Option("--output", help="Which output of the model.  [default: the first]", show_default=False)
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", help="A parameter of the method: NAME=VALUE. May be repeated.", show_default=False),
]
NormaliseOption = Annotated[
    str,
    typer.Option(
        "--normalise", help="none, manifest, recording or running.  [default: the manifest's]", show_default=False
    ),
]
FormatOption = Annotated[
    str, typer.Option("--format", help="The recording's format.  [default: recognised]", show_default=False)
]
HopOption = Annotated[
    int, typer.Option("--hop", min=0, help="Frames from one window to the next; 0 means the manifest's.")
]
GiveUpOption = Annotated[
    float,
    typer.Option(
        "--give-up-after",
        min=0,
        metavar="SECONDS",
        help="How long to try to reach a daemon that is gone or, where given, not there yet; 0 for not at all.",
    ),
]


_TARGETS = ("predicted", "mean", "sum", "loss", "log-probability")

MODEL_FILE_OPTIONS = ("store", "manifest", "adapter", "weights")
"""The options that say where a model of this process comes from, by the names of the commands' parameters."""


def need_png(path: Path | None) -> None:
    """Make sure, before any work is done, that a picture is to be a ``.png`` file.

    Raises:
        ParameterError: it is another.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise ParameterError(f"--png: expected a .png file, got '{path}'")


class TargetClass(Protocol[T]):
    """The two classes that make targets: the daemon's and the client's."""

    def predicted(self, output: Any = ..., /) -> T: ...  # noqa: D102
    def element(self, index: Any, output: Any = ..., /) -> T: ...  # noqa: D102
    def mean(self, index: Any = ..., output: Any = ..., /) -> T: ...  # noqa: D102
    def sum(self, index: Any = ..., output: Any = ..., /) -> T: ...  # noqa: D102
    def log_probability(self, label: Any = ..., output: Any = ..., /) -> T: ...  # noqa: D102
    def negative_log_likelihood(self, label: Any = ..., output: Any = ..., /) -> T: ...  # noqa: D102
    def difference(self, plus: T, minus: T, /) -> T: ...  # noqa: D102


def parse_target(text: str, output: str, kind: TargetClass[T]) -> T | None:
    """Read ``--target`` and ``--output`` as a target of class ``kind``; None is the model's default.

    Raises:
        TargetError: it is written wrongly.
    """
    where = output or _nothing(kind)
    if not text and not output:
        return None
    word, colon, rest = text.partition(":")
    if colon and word in _TARGETS and (word == "predicted") == bool(rest):
        raise TargetError(
            f"target {text!r}: expected {'nothing' if rest else 'something'} after the colon, or no colon"
        )
    if word == "predicted" or not text:
        return kind.predicted(where)
    if word in ("mean", "sum"):
        indices = _integers(text, rest) if rest else ()
        return getattr(kind, word)(indices or _nothing(kind, ()), where)  # type: ignore[no-any-return]
    if word in ("loss", "log-probability"):
        make = kind.negative_log_likelihood if word == "loss" else kind.log_probability
        return make(_label(rest) if rest else None, where)
    if word == "difference":
        ends = _integers(text, rest)
        if len(ends) != 2:
            raise TargetError(f"target {text!r}: expected two indices, as in difference:3,0")
        return kind.difference(kind.element(ends[0], where), kind.element(ends[1], where))
    return kind.element(_label(text), where)


def _nothing(kind: Any, client: Any = "") -> Any:
    """Give what stands for "not said": the daemon's class has None where the client's has an empty value."""
    return client if kind.__module__.startswith("tonescope.") else None


def _label(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _integers(text: str, part: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in part.split(","))
    except ValueError as error:
        raise TargetError(f"target {text!r}: expected integers after the colon, got {part!r}") from error


def parse_parameters(pairs: list[str] | None) -> dict[str, Any]:
    """Read ``--param NAME=VALUE``: a value is JSON where it can be read as such, else text.

    Raises:
        ParameterError: no name, no ``=``, or a name twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ParameterError(f"--param {pair!r}: expected NAME=VALUE")
        if name in found:
            raise ParameterError(f"--param {pair!r}: expected {name!r} once, got it before as {found[name]!r}")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found
