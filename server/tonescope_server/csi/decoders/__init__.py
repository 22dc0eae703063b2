"""Decoders: packets and recordings of one format each, turned into frames.

What a decoder is, and how a recording is opened, belongs here; each format is a module beside this one, found
through the hook ``tonescope_decoders``. Nothing here imports a format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.csi.layouts import DetectedLayout, FrameKind, kind_of, survey_layouts
from tonescope_server.errors import EmptyRecordingError, RecordingError, UnknownFormatError

_HEAD_BYTES = 262_144
_MOST_SHOWN = 3  # kinds of records that are none, each by its first one


class Decoder(Protocol):
    """One CSI format.

    Attributes:
        name: the format's id, as clients and manifests write it.
        summary: one line for people.
    """

    name: str
    summary: str

    def decode(self, data: bytes) -> Frame:
        """Decode one packet, or one line of a text format.

        Raises:
            WrongMagicError: a packet of another kind; the message names the kind where it is known.
            ShortFrameError: fewer bytes or values than the packet announces.
            FrameError: anything else that is wrong with it; its ``kind`` is what it is counted under.
        """
        ...

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether a file whose first bytes are ``head`` is a recording of this format."""
        ...

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read a recording in order; what is not a usable frame comes as a ``Skipped``.

        Raises:
            RecordingError: the file as a whole cannot be read.
        """
        ...


@dataclass(frozen=True)
class Recording:
    """A recording on disk. Iterating over it reads it from the start, each time.

    Attributes:
        path: the file.
        format: name of the decoder that reads it.
    """

    path: Path
    format: str
    decoder: Decoder

    @property
    def name(self) -> str:
        """Give the file's name."""
        return self.path.name

    def __iter__(self) -> Iterator[Frame | Skipped]:
        try:
            yield from self.decoder.read(self.path)
        except OSError as error:
            raise RecordingError(f"recording {self.name!r}: cannot be read: {error.strerror}") from error

    @cached_property
    def layouts(self) -> Mapping[FrameKind, DetectedLayout]:
        """Tell the tone layout of every kind of frame in it. The whole recording is read for that, once."""
        return survey_layouts(self)

    def labelled(self) -> Iterator[Frame | Skipped]:
        """Read it from the start, each frame with its tone layout, ``"unknown_<n>"`` where nothing settles one."""
        layouts = self.layouts
        for item in self:
            if isinstance(item, Frame) and (found := layouts.get(kind_of(item))) is not None:
                yield replace(item, tone_layout=found.layout)
            else:
                yield item


def open_recording(path: str | Path, decoders: Mapping[str, Decoder], format: str | None = None) -> Recording:
    """Open a recording with the decoder named, or with the one that recognises it.

    Raises:
        UnknownFormatError: no decoder goes by the name ``format``.
        RecordingError: the file cannot be read, or nothing recognises it.
        EmptyRecordingError: it holds not one usable frame.
    """
    path = Path(path)
    head = _head(path)
    if not head.strip():
        raise EmptyRecordingError(f"recording {path.name!r}: expected at least one frame, got an empty file")
    recording = Recording(path, *_choose(path, head, decoders, format))
    _need_a_frame(recording)
    return recording


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise RecordingError(f"recording {path.name!r}: cannot be read: {error.strerror}") from error


def _choose(path: Path, head: bytes, decoders: Mapping[str, Decoder], format: str | None) -> tuple[str, Decoder]:
    known = ", ".join(sorted(decoders))
    if format:
        if format not in decoders:
            raise UnknownFormatError(f"format {format!r}: unknown, expected one of {known}")
        return format, decoders[format]
    for name, decoder in decoders.items():
        if decoder.recognises(path, head):
            return name, decoder
    raise RecordingError(f"recording {path.name!r}: format not recognised, expected one of {known}")


def _need_a_frame(recording: Recording) -> None:
    skipped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for item in recording:
        if isinstance(item, Frame):
            return
        skipped[item.kind] += 1
        first.setdefault(item.kind, item.message)
    got = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())) or "nothing"
    # The whole file is of no use, so the reader wants to know what is wrong with it, and where to look.
    shown = "".join(f"; {first[kind]}" for kind, _ in skipped.most_common(_MOST_SHOWN))
    raise EmptyRecordingError(
        f"recording {recording.name!r} ({recording.format}): expected at least one usable frame, got {got}{shown}"
    )
