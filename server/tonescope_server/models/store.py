"""The model store: a folder of models, read only through the names found in it.

    <root>/<name>/<version>/   model.toml and weights, or weights alone
    <root>/<name>/             the same, as version "1"
    <root>/<file>              a bare weights file: its stem is the name, "1" the version

A name in a request is only compared with the names found by a scan; no path is built from it. How a model is
loaded is ``loading``'s business.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tonescope_server.errors import (
    ConfigurationError,
    MissingWeightsError,
    ParameterError,
    StorePathError,
    TonescopeError,
    UnknownModelError,
)
from tonescope_server.models.adapters import fitting, is_adapter, joining_line
from tonescope_server.models.architectures import Architecture, built_in_architectures
from tonescope_server.models.loading import MANIFEST, SUFFIXES, load_model, named
from tonescope_server.models.model import Model

ONLY_VERSION = "1"
_LONGEST_NAME = 255
Key = tuple[str, str]
Fingerprint = tuple[tuple[str, int, int], ...]


class ModelState(StrEnum):
    """Whether a model can be used."""

    READY = "ready"
    FAILED = "failed"
    UNLOADED = "unloaded"


@dataclass(frozen=True)
class Entry:
    """One model in one line.

    Attributes:
        name: its name in the store.
        version: its version.
        state: whether it can be used.
        failure: why not; "" where it can.
        digest: sha256 of its weights; "" where it was never loaded.
        description: one line from its manifest.
    """

    name: str
    version: str
    state: ModelState
    failure: str = ""
    digest: str = ""
    description: str = ""


@dataclass
class _Slot:
    """One place in the store. ``lock`` is held while it loads, so that others need not wait."""

    path: Path
    fingerprint: Fingerprint
    pair: Path | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    model: Model | None = None
    failure: TonescopeError | None = None
    tried: bool = False
    digest: str = ""
    description: str = ""

    def entry(self, key: Key) -> Entry:
        state = ModelState.READY if self.model else ModelState.FAILED if self.failure else ModelState.UNLOADED
        failure = str(self.failure) if self.failure else ""
        return Entry(*key, state, failure, self.digest, self.description)


class ModelStore:
    """Models by name and version: found at once, loaded at their first use. Any thread may call any method.

    A model that cannot be loaded stays in the list with its reason, and is tried again when its files change.
    """

    def __init__(self, root: str | Path, architectures: Mapping[str, Architecture] | None = None) -> None:
        """Scan ``root``.

        Raises:
            ConfigurationError: ``root`` is not a folder that can be read.
        """
        self.root = Path(root)
        self._architectures = built_in_architectures() if architectures is None else architectures
        self._lock = threading.Lock()
        self._slots: dict[Key, _Slot] = {}
        self._notes: tuple[str, ...] = ()
        self.refresh()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the last scan passed over, and why; one line each."""
        return self._notes

    def refresh(self) -> tuple[Key, ...]:
        """Scan the folder again: models come, go, and are loaded anew when their files have changed.

        Returns:
            The name and version of each model that came, went or changed.
        """
        notes: list[str] = []
        try:
            found = dict(_scan(self.root, self._architectures, notes))
        except OSError as error:
            raise ConfigurationError(f"model store {self.root}: cannot be read: {error.strerror or error}") from error
        with self._lock:
            old = self._slots
            same = {key for key in found if key in old and _unchanged(old[key], found[key])}
            self._slots = {key: old[key] if key in same else slot for key, slot in found.items()}
            self._notes = tuple(notes)
        return tuple(sorted((old.keys() | found.keys()) - same))

    def list(self) -> list[Entry]:
        """Describe every model, by name, oldest version first.

        Models that were never tried are loaded first, so that "ready" and "failed" are facts.
        """
        with self._lock:
            slots = sorted(self._slots.items(), key=lambda item: (item[0][0], _natural(item[0][1])))
        for key, slot in slots:
            with slot.lock:
                if not slot.tried:
                    self._fill(key, slot)
        return [slot.entry(key) for key, slot in slots]

    def get(self, name: str, version: str = "") -> Model:
        """Return a model, loading it at its first use; no version means the newest.

        Raises:
            ParameterError: no name.
            StorePathError: the name or version would leave the store.
            UnknownModelError: there is none of that name or version; the message lists what there is.
            ModelError: it cannot be loaded.
        """
        key, slot = self._find(name, version)
        with slot.lock:
            if slot.model is None and slot.failure is None:
                self._fill(key, slot)
            return _outcome(slot)

    def load(self, name: str, version: str = "") -> Model:
        """Load a model from its files, whatever is in memory; errors are those of :meth:`get`."""
        key, slot = self._find(name, version)
        with slot.lock:
            self._fill(key, slot)
            return _outcome(slot)

    def unload(self, name: str, version: str = "") -> Entry:
        """Drop a model from memory; the next :meth:`get` loads it again. Errors are those of :meth:`get`."""
        key, slot = self._find(name, version)
        with slot.lock:
            slot.model, slot.failure, slot.tried = None, None, True
            return slot.entry(key)

    def _find(self, name: str, version: str) -> tuple[Key, _Slot]:
        if not name:
            raise ParameterError("model name: expected one, got none")
        _check_name("model name", name)
        if version:
            _check_name("model version", version)
        with self._lock:
            versions = sorted((v for n, v in self._slots if n == name), key=_natural)
            wanted = version or (versions[-1] if versions else "")
            if (name, wanted) in self._slots:
                return (name, wanted), self._slots[name, wanted]
            names = sorted({n for n, _ in self._slots})
        if versions:
            raise UnknownModelError(f'model "{name}": no version "{version}" (there are: {", ".join(versions)})')
        raise UnknownModelError(f'no model "{name}" (there are: {", ".join(names) or "none"})')

    def _fill(self, key: Key, slot: _Slot) -> None:
        """Load into a slot whose lock is held. A failure is kept, not raised: it is this model's alone."""
        slot.tried = True
        try:
            slot.model, slot.failure = self._read(key, slot), None
        except TonescopeError as error:
            slot.model, slot.failure = None, error
        else:
            slot.digest, slot.description = slot.model.digest, slot.model.manifest.model.description

    def _read(self, key: Key, slot: _Slot) -> Model:
        # The place itself is looked at before what it holds: a folder elsewhere is not even listed.
        for path in [slot.path] if _leaves(slot.path, self.root) else _files(slot):
            if _leaves(path, self.root):
                raise StorePathError(f'model "{key[0]}": {path.name}: a link that leaves the store')
        notes: list[str] = []
        try:
            model = load_model(slot.path, architectures=self._architectures)
        except MissingWeightsError:
            if slot.pair is None:
                raise
            model = load_model(slot.path, weights=slot.pair, architectures=self._architectures)
            notes.append(f"{slot.path.name}: its external data is missing; paired with {slot.pair.name}")
        else:
            if slot.pair is not None:
                notes.append(f"{slot.pair.name} is not used: {slot.path.name} holds its weights itself")
        return named(model, *key, tuple(notes))


def _outcome(slot: _Slot) -> Model:
    if slot.model is not None:
        return slot.model
    failure = slot.failure
    assert failure is not None
    # A new one each time: a raised exception collects the traceback of whoever raised it.
    raise type(failure)(*failure.args) from failure


def _check_name(what: str, name: str) -> None:
    """Refuse what could be read as a path. Nothing is ever opened by such a name; this tells the sender so."""
    if len(name) > _LONGEST_NAME or name in (".", "..") or re.search(r"[/\\\x00-\x1f]|^[A-Za-z]:", name):
        shown = name if len(name) <= 60 else name[:57] + "…"
        raise StorePathError(f"{what}: expected a plain name, got {shown!r}")


def _natural(version: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key by which 1.9 comes before 1.10, and words before numbers."""
    parts = [part for part in re.split(r"(\d+)|[.\-_]", version) if part]
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts], version


def _scan(root: Path, architectures: Mapping[str, Architecture], notes: list[str]) -> Iterator[tuple[Key, _Slot]]:
    """Yield every model place of a store. Later ones of the same key win, and folders come after files."""
    children = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    files = [path for path in children if path.suffix in SUFFIXES and not path.is_dir()]
    yield from _bare_files(files, root, architectures, notes)
    for folder in children:
        if not folder.is_dir():
            continue
        if _leaves(folder, root) or _holds_model(folder):
            yield (folder.name, ONLY_VERSION), _slot(folder)
        if not _leaves(folder, root):
            yield from _versions(folder, root)


def _versions(folder: Path, root: Path) -> Iterator[tuple[Key, _Slot]]:
    for version in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not version.name.startswith(".") and (_leaves(version, root) or _holds_model(version)):
            yield (folder.name, version.name), _slot(version)


def _bare_files(
    files: list[Path], root: Path, architectures: Mapping[str, Architecture], notes: list[str]
) -> Iterator[tuple[Key, _Slot]]:
    graphs = {path.stem: path for path in files if path.suffix == ".onnx"}
    for path in files:
        if path.suffix == ".onnx":
            continue
        if path.stem in graphs:
            yield (path.stem, ONLY_VERSION), _slot(graphs.pop(path.stem), path)
        elif not _leaves(path, root) and is_adapter(path, architectures):
            notes.append(_adapter_note(path, files, root, architectures))
        else:
            yield (path.stem, ONLY_VERSION), _slot(path)
    for stem, path in graphs.items():
        yield (stem, ONLY_VERSION), _slot(path)


def _adapter_note(path: Path, files: list[Path], root: Path, architectures: Mapping[str, Architecture]) -> str:
    """Say that an adapter is no model, which weights here it fits, and what to write to have both as one."""
    inside = [each for each in files if not _leaves(each, root)]
    fits = ", ".join(each.name for each in fitting(path, inside, architectures))
    return (
        f"{path.name}: an adapter by itself is no model; it fits {fits or 'no weights here'}: for a model of both, put "
        f"them into a folder of their own with this {MANIFEST}: {joining_line(path, inside, architectures)}"
    )


def _holds_model(folder: Path) -> bool:
    return any(path.name == MANIFEST or path.suffix in SUFFIXES for path in folder.iterdir())


def _leaves(path: Path, root: Path) -> bool:
    return not path.resolve().is_relative_to(root.resolve())


def _slot(path: Path, pair: Path | None = None) -> _Slot:
    slot = _Slot(path, (), pair)
    slot.fingerprint = tuple(_stamp(file) for file in _files(slot))
    return slot


def _files(slot: _Slot) -> list[Path]:
    """Return the files a slot depends on, its own place first."""
    beside = sorted(slot.path.iterdir()) if slot.path.is_dir() else [slot.pair] if slot.pair else []
    return [slot.path, *beside]


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:  # a dangling link; loading says so
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size


def _unchanged(old: _Slot, new: _Slot) -> bool:
    return old.fingerprint == new.fingerprint
