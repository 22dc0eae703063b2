"""``load_model``: weights, manifest and adapter, together, as a :class:`Model`.

Which file belongs to which is decided here; formats are the loaders', guesses are the manifest's, names are
the store's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tonescope_server.csi.cells import CellMap, cell_map
from tonescope_server.csi.tones import ToneTable
from tonescope_server.errors import ManifestError, TonescopeError
from tonescope_server.models.adapters import is_adapter, joining_line
from tonescope_server.models.architectures import Architecture, built_in_architectures
from tonescope_server.models.background import read_background
from tonescope_server.models.loaders import LoadedGraph
from tonescope_server.models.loaders.onnx import load_onnx
from tonescope_server.models.loaders.safetensors import load_safetensors
from tonescope_server.models.manifest import Manifest
from tonescope_server.models.model import Model, TensorSpec, output_specs
from tonescope_server.models.rows import row_table

MANIFEST = "model.toml"
SUFFIXES = (".onnx", ".safetensors")
USUAL_FRAMES = 20


@dataclass(frozen=True)
class _Files:
    """What belongs together."""

    weights: Path
    manifest: Manifest
    adapter: Path | None
    paired: Path | None
    background: Path | None = None
    warnings: tuple[str, ...] = ()


def load_model(
    path: str | Path,
    *,
    manifest: Manifest | str | Path | None = None,
    adapter: str | Path | None = None,
    weights: str | Path | None = None,
    architecture: str | None = None,
    architectures: Mapping[str, Architecture] | None = None,
) -> Model:
    """Load a model from its file, its ``model.toml`` or its folder.

    Args:
        path: an ``.onnx`` or ``.safetensors`` file, a manifest, or a folder that holds one model.
        manifest: the manifest, or its file; None means a ``model.toml`` beside the file that states this
            file as its ``weights`` (in a folder: whatever ``model.toml`` it holds).
        adapter: a safetensors adapter; wins over the manifest's.
        weights: safetensors weights for an ONNX file whose external data is missing.
        architecture: how safetensors weights become a graph; wins over the manifest's.
        architectures: what is known, by name; None means the built-in ones.

    Raises:
        ModelError: one of its kinds, each with one line that names the file.
    """
    known = built_in_architectures() if architectures is None else architectures
    if manifest is not None and Path(path).suffix == ".toml":
        raise ManifestError(f"{path}: expected a model file or folder beside another manifest, got a manifest")
    files = _files(Path(path), manifest, adapter, weights, known)
    stated = files.manifest
    if files.weights.suffix == ".onnx":
        loaded = _load_onnx(files, known)
    else:
        if files.paired is not None:
            raise ManifestError(f"{files.weights.name}: paired weights need an ONNX model, got safetensors weights")
        loaded = load_safetensors(
            files.weights,
            known,
            architecture=architecture or stated.model.architecture,
            adapter=files.adapter,
            frames=_frames(stated),
        )
    return _assemble(files, loaded)


def _load_onnx(files: _Files, known: Mapping[str, Architecture]) -> LoadedGraph:
    if files.adapter is not None:
        raise ManifestError(f"{files.weights.name}: an adapter needs safetensors weights, got an ONNX model")
    stated = files.manifest.input
    return load_onnx(
        files.weights,
        weights=files.paired,
        input_name=stated.name,
        input_shape=stated.shape,
        architectures=known,
    )


def _frames(manifest: Manifest) -> int:
    if manifest.input.cell_order == "tone_frame" and len(manifest.input.shape) == 2:
        return manifest.input.shape[1]
    return manifest.window.frames or USUAL_FRAMES


def _frames_stated(manifest: Manifest) -> bool:
    return bool(manifest.window.frames or manifest.input.shape)


def _files(
    path: Path,
    manifest: Manifest | str | Path | None,
    adapter: str | Path | None,
    weights: str | Path | None,
    known: Mapping[str, Architecture],
) -> _Files:
    if not path.exists():
        raise ManifestError(f"{path}: expected a model file or folder, got nothing of that name")
    folder = path if path.is_dir() else path.parent
    stated, source = _manifest(path, folder, manifest)
    if path.is_dir() or path.suffix == ".toml":
        found = inside(source, stated.model.weights) if stated.model.weights else only_weights(folder, known)
    else:
        found = path
    if found.suffix not in SUFFIXES:
        raise ManifestError(f"{found.name}: expected a file ending in {' or '.join(SUFFIXES)}")
    named = inside(source, stated.model.adapter) if stated.model.adapter else None
    return _Files(
        weights=found,
        manifest=stated,
        adapter=Path(adapter) if adapter is not None else named,
        paired=Path(weights) if weights is not None else None,
        background=inside(source, stated.baseline.background) if stated.baseline.background else None,
    )


def _manifest(path: Path, folder: Path, given: Manifest | str | Path | None) -> tuple[Manifest, Path]:
    """Return the manifest, and the folder its paths are relative to."""
    if isinstance(given, Manifest):
        return given, folder
    if given is not None:
        return Manifest.load(Path(given)), Path(given).parent
    if path.suffix == ".toml" and path.is_file():
        return Manifest.load(path), folder
    beside = folder / MANIFEST
    if not beside.is_file():
        return Manifest(), folder
    stated = Manifest.load(beside)
    if path.is_dir() or (folder / stated.model.weights).resolve() == path.resolve():
        return stated, folder
    return Manifest(), folder


def inside(folder: Path, name: str) -> Path:
    """Return a file that a manifest names, which must lie in the manifest's folder.

    Raises:
        ManifestError: it is not there, or lies elsewhere.
    """
    if "\x00" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ManifestError(f"{folder / MANIFEST}: {name!r}: expected a file in the manifest's own folder")
    path = folder / name
    if not path.is_file():
        raise ManifestError(f"{folder / MANIFEST}: {name!r}: there is no such file")
    return path


def only_weights(folder: Path, architectures: Mapping[str, Architecture]) -> Path:
    """Return the only model file of a folder.

    Raises:
        ManifestError: there is none, or there are several.
    """
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if len(found) != 1:
        got = ", ".join(p.name for p in found) or "none"
        adapters = [path for path in found if is_adapter(path, architectures)]
        joined = "".join(f"; with an adapter: {joining_line(path, found, architectures)}" for path in adapters)
        raise ManifestError(
            f"{folder}: expected one model file, got {got}: state [model] weights in {MANIFEST}{joined}"
        )
    return found[0]


def _assemble(files: _Files, loaded: LoadedGraph) -> Model:
    stated, where = files.manifest, files.weights.name
    wanted = stated.model.sha256.lower()
    if wanted and wanted != loaded.weights_sha256:
        raise ManifestError(f"{where}: model.sha256: expected {wanted}, got {loaded.weights_sha256}")
    explained, outputs = _specs(stated, loaded, where)
    _check_outputs(stated, outputs, where)
    try:
        resolved, guesses = stated.infer(
            shape=explained.shape[1:],
            outputs={output.name: output.op_type for output in outputs},
            layouts=loaded.layouts,
        )
        table, cells = _cells(resolved)
    except TonescopeError as error:
        raise ManifestError(f"{where}: {error}") from error
    name, version = stated.model.name or files.weights.stem, stated.model.version or "1"
    if not _frames_stated(stated) and files.weights.suffix == ".safetensors" and len(explained.shape) == 3:
        guesses = (
            *guesses,
            f"window.frames is taken to be {resolved.window.frames}: the weights fit any",
        )
    resolved = resolved.filled(
        model=stated.model.filled(name=name, version=version, weights=where),
        input=resolved.input.filled(name=explained.name),
    )
    return Model(
        name=name,
        version=version,
        digest=loaded.digest,
        graph=loaded.graph,
        manifest=resolved,
        input=explained,
        outputs=outputs,
        table=table,
        cells=cells,
        warnings=(*files.warnings, *loaded.warnings, *guesses),
        is_coupled=loaded.is_coupled,
        is_random=loaded.is_random,
        background=None if files.background is None else read_background(files.background, explained, cells),
    )


def _specs(stated: Manifest, loaded: LoadedGraph, where: str) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """Describe the graph's input and outputs; a loader leaves exactly one input."""
    graph = loaded.graph.graph
    explained = TensorSpec.of(graph.inputs[0])
    if stated.input.name and stated.input.name != explained.name:
        raise ManifestError(f'{where}: no input "{stated.input.name}" (inputs: {explained.name})')
    if stated.input.shape and stated.input.shape != explained.shape[1:]:
        raise ManifestError(
            f"{where}: input.shape: expected {explained.shape[1:]} as in the graph, got {stated.input.shape}"
        )
    first = graph.outputs[0]
    if first.shape is not None and not len(first.shape):
        raise ManifestError(
            f'{where}: output "{first.name}": expected a batch axis first, got one number for all windows together: '
            "export what is said of each"
        )
    return explained, output_specs(graph.outputs)


def _check_outputs(stated: Manifest, outputs: tuple[TensorSpec, ...], where: str) -> None:
    by_name = {output.name: output for output in outputs}
    for section in stated.outputs:
        if section.name not in by_name:
            raise ManifestError(f'{where}: no output "{section.name}" (outputs: {", ".join(by_name)})')
        shape = by_name[section.name].shape
        classes = shape[-1] if len(shape) > 1 else -1
        if classes < 0:
            continue
        if section.class_names and len(section.class_names) != classes:
            raise ManifestError(
                f'{where}: class_names of "{section.name}": expected {classes}, got {len(section.class_names)}'
            )
        if section.trained_classes and max(section.trained_classes) >= classes:
            raise ManifestError(
                f'{where}: trained_classes of "{section.name}": expected indices below {classes}, '
                f"got {max(section.trained_classes)}"
            )


def _cells(resolved: Manifest) -> tuple[ToneTable, CellMap]:
    shape, frames = resolved.input.shape, resolved.window.frames
    rows = math.prod(shape) // (frames * resolved.input.parts)
    layout = resolved.tones.layout
    table = row_table(resolved)
    if len(table) != rows:
        raise ManifestError(
            f'tones.layout: "{layout}" has {len(table)} tones, '
            f"but the input {shape} holds {rows} rows of {frames} frames"
        )
    mean, columns = resolved.normalisation.mean, rows * resolved.input.parts
    if mean and len(mean) not in (rows, columns):
        also = f", or for each of {columns} values of a frame" if columns > rows else ""
        raise ManifestError(f"normalisation.mean: expected a value for each of {rows} tones{also}, got {len(mean)}")
    for key, values in (
        ("baseline.tones", resolved.baseline.tones),
        ("baseline.dataset_mean", resolved.baseline.dataset_mean),
        ("baseline.empty_room", resolved.baseline.empty_room),
        ("reference.attribution", resolved.reference.attribution),
    ):
        if values and len(values) != rows:
            raise ManifestError(f"{key}: expected a value for each of {rows} tones, got {len(values)}")
    stated = resolved.input
    return table, cell_map(shape, table, stated.cell_order, frames, stated.links, stated.components)


def named(model: Model, name: str, version: str, warnings: tuple[str, ...] = ()) -> Model:
    """Return the model under the name and version of its place in a store; a differing manifest is a warning."""
    section = model.manifest.model
    stated = {"name": (section.name, name), "version": (section.version, version)}
    differing = tuple(
        f'model.{key} is "{said}" in the manifest, but its place in the store says "{place}"'
        for key, (said, place) in stated.items()
        if section.states(key) and said != place
    )
    return replace(
        model,
        name=name,
        version=version,
        manifest=model.manifest.filled(model=section.filled(name=name, version=version)),
        warnings=(*warnings, *differing, *model.warnings),
    )
