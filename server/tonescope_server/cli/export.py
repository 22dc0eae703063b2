"""``tonescope export``: an explanation as one ONNX graph that runs without this project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tonescope_server.cli.console import remark, say, writing
from tonescope_server.cli.local import load
from tonescope_server.cli.options import (
    AdapterOption,
    ManifestOption,
    MethodOption,
    OutputOption,
    ParameterOption,
    StoreOption,
    TargetOption,
    WeightsOption,
    parse_parameters,
    parse_target,
)
from tonescope_server.engine.export import Exported, exported, write
from tonescope_server.errors import ConfigurationError, ParameterError
from tonescope_server.types import Target


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model file or folder, or a name in the store: NAME or NAME/VERSION.")],
    out_file: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.", show_default=False)],
    method: MethodOption = "input_x_gradient",
    target: TargetOption = "",
    output: OutputOption = "",
    param: ParameterOption = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Leave this input of the method open: noise, baseline, previous; or 'none'. May be repeated.  "
            "[default: what it would draw at random]",
            show_default=False,
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="The plainest forms of operators, not those ONNX Runtime is fastest at."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
) -> None:
    """Write an explanation as one ONNX graph: prediction and attribution, with no daemon.

    Example:  tonescope export people_count --method integrated_gradients -p n_steps=32 -o explained.onnx

    Example:  tonescope export count_v1.safetensors --method lrp --target 1 -o lrp.onnx --plain
    """
    if out_file.suffix.lower() != ".onnx":
        raise ParameterError(f"--out: expected an .onnx file, got '{out_file}'")
    if out_file.exists() and not force:
        raise ConfigurationError(f"{out_file}: is there already; --force replaces it")
    explainer = load(context, model, store, manifest, adapter, weights)
    prepared = explainer.prepare(method, parse_target(target, output, Target), parse_parameters(param))
    made = exported(explainer, prepared, inputs=None if not inputs else set(inputs) - {"none"}, plain=plain)
    with writing(out_file):
        size = write(made, out_file)
    for text in explainer.model.warnings:
        remark(f"warning: {text}")
    for each in prepared.standing_warnings:
        remark(f"warning: {each.message}")
    _say(made, out_file, size)


def _say(made: Exported, path: Path, size: int) -> None:
    graph = made.graph.graph
    times = f"{made.evaluations} model evaluation{'' if made.evaluations == 1 else 's'} a window"
    opset = f"opset {made.graph.opset_imports['']}, IR version {made.graph.ir_version}"
    say(f"{path}: {size / 1e6:.2f} MB, {graph.num_nodes()} nodes, {opset}, {times}")
    for kind, named in (("input", made.inputs), ("output", made.outputs)):
        for name, text in named.items():
            say(f"{kind:<6} {name}: {text}")
