"""``tonescope inspect``: what a model file or a recording is, before anything is done with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tonescope_server import Explainer
from tonescope_server.cli.console import listed, out, say, write_json
from tonescope_server.cli.exported import exported_graph, show_exported
from tonescope_server.cli.local import load
from tonescope_server.cli.options import (
    MODEL_FILE_OPTIONS,
    AdapterOption,
    FormatOption,
    ManifestOption,
    StoreOption,
    WeightsOption,
)
from tonescope_server.cli.recordings import NodeSurvey, open_file, survey
from tonescope_server.cli.usage import only
from tonescope_server.csi.decoders import Recording
from tonescope_server.csi.layouts import DetectedLayout
from tonescope_server.csi.tones import Tone, ToneKind, ToneTable, tone_layouts, tone_table
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import RecordingError
from tonescope_server.reports.arrays import ARRAYS, read_arrays

TRANSMITTERS = 6
CSD = "csd"  # of rows that hold a cyclic-shift angle
_MODELS = (".onnx", ".safetensors", ".toml")


def inspect(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A model file or folder, or a recording.", show_default=False)],
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    format: FormatOption = "",
    layers: Annotated[bool, typer.Option("--layers", help="List every layer of a model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Say what a model file, an exported graph or a recording is: formats, nodes, tones; inputs, operators, methods.

    Example:  tonescope inspect session.csi.jsonl

    Example:  tonescope inspect count_v1.onnx --weights count_v1.safetensors --layers
    """
    is_model = path.suffix not in ARRAYS and (path.suffix in _MODELS or path.is_dir() or not path.exists())
    if is_model:
        if path.suffix and not path.exists() and path.suffix not in _MODELS:
            raise RecordingError(f"{path}: expected a model or a recording, got nothing of that name")
        only(context, ("format",), "with a recording", f"the model {path}")
        found = exported_graph(path) or _model(load(context, str(path), store, manifest, adapter, weights))
    else:
        # Frames in a NumPy file are told from windows by the format that is asked for.
        kind = "array" if path.suffix in ARRAYS and not format else "recording"
        only(context, (*MODEL_FILE_OPTIONS, "layers"), "with a model", f"the {kind} {path.name}")
        found = _array(path) if kind == "array" else _recording(path, format)
    if as_json:
        write_json(found, Path("-"))
    else:
        _show(found)
        if layers and found["is"] == "a model":
            _show_layers(found)


def _array(path: Path) -> dict[str, Any]:
    array = read_arrays(path)
    numbers = np.issubdtype(array.dtype, np.number)
    finite = bool(np.isfinite(array).all()) if numbers else False
    return {"is": "an array", "shape": array.shape, "dtype": str(array.dtype), "finite": finite}


def _recording(path: Path, format: str) -> dict[str, Any]:
    recording = open_file(path, installed_plugins(), format)
    nodes = survey(recording)
    nobody = nodes.pop(None, NodeSurvey())
    return {
        "is": "a recording",
        "format": recording.format,
        "frames": sum(node.frames for node in nodes.values()),
        "nodes": [_node(name, node, _detected(recording, name)) for name, node in nodes.items()],
        "skipped_of_no_node": dict(nobody.skipped),
    }


def _detected(recording: Recording, node: int | None) -> list[DetectedLayout]:
    """List what is known of the tones of each kind of frame that a node recorded, the most frequent first."""
    found = [layout for kind, layout in recording.layouts.items() if kind[0] == node]
    return sorted(found, key=lambda layout: -layout.frames)


def _node(name: int | None, node: NodeSurvey, detected: list[DetectedLayout]) -> dict[str, Any]:
    return {
        "node": name,
        "frames": node.frames,
        "seconds": round(node.seconds, 3),
        "rate_hz": round(node.rate_hz, 2),
        "transmitters": sorted(node.transmitters - {""}),
        "skipped": dict(node.skipped),
        "lengths": [
            _length(node, n, [each for each in detected if len(each.table) == n]) for n in sorted(node.lengths)
        ],
    }


def _length(node: NodeSurvey, n: int, detected: list[DetectedLayout]) -> dict[str, Any]:
    zero = [int(row) for row in np.flatnonzero(node.always_zero[n])]
    # Frames of one length may be of several kinds; where their layouts differ, the length has none.
    layouts = {each.layout: each for each in detected}
    settled = detected[0].layout if len(layouts) == 1 else f"unknown_{n}"
    possible = [layout for layout in tone_layouts() if len(tone_table(layout)) == n]
    return {
        "tones": n,
        "frames": node.lengths[n],
        "always_zero": zero,
        "layout": settled,
        "layout_status": tone_table(settled).status,
        "identity": _identity(tone_table(settled)),
        "kinds": [
            {"layout": each.layout, "frames": each.frames, "reason": each.reason, "candidates": each.candidates}
            for each in detected
        ],
        "layouts_of_that_length": possible,
        "layouts_that_fit": [each for each in possible if set(zero) <= set(tone_table(each).null_rows)],
    }


def _identity(table: ToneTable) -> list[dict[str, Any]]:
    """Say of each training field in a frame which rows it takes, which subcarriers they are, and of what kind."""
    fields = sorted(dict.fromkeys(tone.training_field for tone in table), key=lambda name: name == CSD)
    return [_field(name, [tone for tone in table if tone.training_field == name]) for name in fields]


def _field(name: str, tones: list[Tone]) -> dict[str, Any]:
    indices = [tone.subcarrier_index for tone in tones if tone.subcarrier_index is not None]
    kinds = Counter(tone.kind for tone in tones)
    return {
        "training_field": name,
        "rows": len(tones),
        "at": [tone.row for tone in tones],
        "subcarriers": [min(indices), max(indices)] if indices else None,
        **{kind.value: kinds[kind] for kind in ToneKind},
    }


def _model(explainer: Explainer) -> dict[str, Any]:
    model = explainer.model
    table, cells = model.table, model.cells
    return {
        "is": "a model",
        "name": model.name,
        "version": model.version,
        "digest": model.digest,
        "input": model.input,
        "outputs": [_output(explainer, spec) for spec in model.outputs],
        "window": {"frames": cells.n_frames, "tones": cells.n_tones, "cell_order": cells.cell_order}
        | {"links": cells.links, "components": cells.components, "rows_are_declared_tones": cells.rows_are_tones},
        "tone_layout": table.id,
        "rows_are": table.rows_are,
        "centre_mhz": table.centre_mhz,
        "null_tones": len(table.null_rows),
        "normalisation": model.manifest.normalisation.kind,
        "operators": [
            {"operator": name, "nodes": count, "differentiable": can} for name, count, can in explainer.operators()
        ],
        "layers": list(explainer.layers()),
        "methods": explainer.applicability(),
        "warnings": model.warnings,
    }


def _output(explainer: Explainer, spec: Any) -> dict[str, Any]:
    stated = explainer.model.manifest.output(spec.name)
    return {"tensor": spec, "kind": stated.kind, "class_names": stated.class_names}


def _show(found: dict[str, Any]) -> None:
    shown = {"a model": _show_model, "an exported graph": show_exported}
    shown |= {"a recording": _show_recording, "an array": _show_array}
    shown[found["is"]](found)


def _show_array(found: dict[str, Any]) -> None:
    say(
        f"an array of {found['dtype']}, shape {found['shape']}, {'all finite' if found['finite'] else 'NOT all finite'}"
    )


def _show_recording(found: dict[str, Any]) -> None:
    n = sum(bool(node["frames"]) for node in found["nodes"])
    say(f"a recording in format {found['format']}: {found['frames']} frames of {n} node{'' if n == 1 else 's'}")
    table = Table("node", "tones", "frames", "rate", "rows always zero", "layout", box=None)
    for node in found["nodes"]:
        for length in node["lengths"]:
            fits = ", ".join(length["layouts_that_fit"]) or "none"
            layout = length["layout"]
            said = f"could be {fits}" if layout.startswith("unknown") else layout
            rate = f"{node['rate_hz'] * length['frames'] / node['frames']:.1f}/s"
            table.add_row(
                str(node["node"]),
                str(length["tones"]),
                str(length["frames"]),
                rate,
                _ranges(length["always_zero"]),
                said,
            )
    out.print(table)
    for node in found["nodes"]:
        for length in node["lengths"]:
            _say_tones(length, f"node {node['node']}, {length['tones']} tones")
        if node["transmitters"]:
            say(f"node {node['node']}: hears {_few(node['transmitters'])}")
        if node["skipped"]:
            say(f"node {node['node']}: records without a frame: {listed(node['skipped'])}")
    if found["skipped_of_no_node"]:
        say(f"records without a frame: {listed(found['skipped_of_no_node'])}")


def _say_tones(length: dict[str, Any], where: str) -> None:
    """Say what the rows are, or why nobody can tell."""
    if length["layout"].startswith("unknown"):
        for kind in length["kinds"]:
            say(f"{where}: {kind['layout']}: {kind['reason']} ({kind['frames']} frames)")
        return
    parts = []
    for field in length["identity"]:
        counts = ", ".join(f"{field[kind]} {kind}" for kind in ToneKind if field[kind])
        low, high = field["subcarriers"] or ("?", "?")
        if field["training_field"] == CSD:
            parts.append(f"cyclic-shift angles, no channel, in rows {_ranges(field['at'])}")
            continue
        parts.append(f"{field['training_field'] or 'subcarriers'} {low} … {high} ({counts})")
    say(f"{where}: {length['layout']} ({length['layout_status']}): {'; '.join(parts)}")


def _few(names: list[str]) -> str:
    """Name a few of many."""
    return ", ".join(names[:TRANSMITTERS]) + (f" and {len(names) - TRANSMITTERS} more" if names[TRANSMITTERS:] else "")


def _ranges(rows: list[int]) -> str:
    """Write rows as ranges: 0, 27–37."""
    parts: list[list[int]] = []
    for row in rows:
        if parts and row == parts[-1][-1] + 1:
            parts[-1].append(row)
        else:
            parts.append([row])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in parts) or "none"


def _show_layers(found: dict[str, Any]) -> None:
    """Show every layer by the three names that it can be asked for."""
    table = Table("value", "shape", "operator", "node", "module", box=None)
    for layer in found["layers"]:
        table.add_row(layer.name, str(layer.shape), layer.op_type, layer.node, layer.module or "—")
    out.print(table)


def _show_model(found: dict[str, Any]) -> None:
    window = found["window"]
    say(f"model {found['name']} version {found['version']}, sha256 {found['digest']}")
    say(
        f"input {found['input'].name}: {found['input'].dtype} {found['input'].shape}, {window['frames']} frames x "
        f"{window['tones']} {found['rows_are']}{_parts(window)} in order {window['cell_order']}, layout "
        f"{found['tone_layout']} ({found['null_tones']} null{_centre(found)}), normalisation {found['normalisation']}"
    )
    for output in found["outputs"]:
        names = f": {', '.join(output['class_names'])}" if output["class_names"] else ""
        say(f"output {output['tensor'].name}: {output['tensor'].shape} {output['kind']}{names}")
    counts = [f"{o['operator']}×{o['nodes']}{'' if o['differentiable'] else ' (no rule)'}" for o in found["operators"]]
    say(f"operators: {', '.join(counts)}")
    layers = [f"{layer.name} {layer.shape}" for layer in found["layers"]]
    say(f"layers ({len(layers)}): {', '.join(layers[:6])}{', …' if len(layers) > 6 else ''}")
    for method, why_not in found["methods"].items():
        say(f"method {method}: {why_not or 'applies'}")
    for warning in found["warnings"]:
        say(f"warning: {warning}")


def _parts(window: dict[str, Any]) -> str:
    """Name the links and components that each tone has in a frame."""
    return "".join(f" x {', '.join(window[key])}" for key in ("links", "components") if window[key])


def _centre(found: dict[str, Any]) -> str:
    return "" if found["centre_mhz"] is None else f", around {found['centre_mhz']:g} MHz"
