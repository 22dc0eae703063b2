"""``tonescope visualise``: the window that a class, a channel or a unit of a model answers most to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.table import Table

from tonescope_server import Explainer
from tonescope_server.cli.console import out, progress, remark, say, write_json
from tonescope_server.cli.local import jobs_of, load
from tonescope_server.cli.options import (
    AdapterOption,
    FormatOption,
    ManifestOption,
    NormaliseOption,
    OutputOption,
    StoreOption,
    WeightsOption,
    need_png,
    parse_target,
)
from tonescope_server.cli.recordings import open_file, windows_of
from tonescope_server.cli.usage import only
from tonescope_server.engine.visualisation import Climb, Visualisation
from tonescope_server.errors import ParameterError
from tonescope_server.reports.arrays import ARRAYS, read_arrays
from tonescope_server.types import Target

DEFAULT = Climb()


def visualise(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A model file or folder, or a name in the store.", show_default=False)
    ] = "people_count",
    target: Annotated[
        str,
        typer.Option("--class", help="A class by index or name; or any --target of explain.", show_default=False),
    ] = "",
    output: OutputOption = "",
    layer: Annotated[
        str, typer.Option("--layer", help="A layer: its mean, or one channel or unit of it.", show_default=False)
    ] = "",
    channel: Annotated[int | None, typer.Option("--channel", min=0, help="Of the layer.", show_default=False)] = None,
    channel_axis: Annotated[int, typer.Option("--channel-axis", help="Of the layer, the batch's being 0.")] = 1,
    unit: Annotated[str, typer.Option("--unit", help="A position in the layer, such as 3,7.", show_default=False)] = "",
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="A recording or windows to whiten subcarriers by.", show_default=False),
    ] = None,
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    normalise: NormaliseOption = "",
    format: FormatOption = "",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of Adam.")] = DEFAULT.steps,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of Adam.")] = DEFAULT.learning_rate,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many random starts.")] = DEFAULT.seeds,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first.")] = DEFAULT.seed,
    tv: Annotated[float, typer.Option("--tv", min=0, help="Weight of differences of neighbours.")] = DEFAULT.tv,
    l2: Annotated[float, typer.Option("--l2", min=0, help="Weight of the mean square.")] = DEFAULT.l2,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the windows here; '-' is stdout.", show_default=False)
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Draw them here.", show_default=False)] = None,
) -> None:
    """Climb to the window that a class, a channel or a unit answers most to, and say how much that is worth.

    Example:  tonescope visualise people_count --class "one person" --reference session.csi.jsonl --png one.png

    Example:  tonescope visualise net.onnx --layer block2_conv2 --channel 5 --png channel.png --json -
    """
    need_png(png)
    if not layer:
        only(context, ("channel", "channel_axis", "unit"), "with --layer", "no --layer")
    if reference is None:
        only(context, ("normalise", "format"), "with --reference", "no --reference")
    explainer = load(context, model, store, manifest, adapter, weights)
    climb = {"steps": steps, "learning_rate": learning_rate, "seeds": seeds, "seed": seed, "tv": tv, "l2": l2}
    windows = None if reference is None else _reference(reference, explainer, normalise, format)
    with progress(f"{steps} steps on {explainer.model.name}", None):
        found = explainer.visualise(
            parse_target(target, output, Target),
            layer=layer or None,
            channel=channel,
            unit=_unit(unit),
            channel_axis=channel_axis,
            reference=windows,
            **climb,
        )
    if json is not None:
        write_json(report_of(found), json)
    if png is not None:
        found.plot(png)
        remark(f"wrote {png}")
    if str(json) != "-":
        _show(found)


def _reference(path: Path, explainer: Explainer, normalise: str, format: str) -> npt.NDArray[Any]:
    """Read the windows that subcarriers are whitened by."""
    if path.suffix in ARRAYS:
        jobs = jobs_of(read_arrays(path), explainer, normalise)
    else:
        jobs, _ = windows_of(open_file(path, explainer.host, format), explainer.model, explainer.host, normalise, 0)
    return np.stack([np.asarray(job.cells).reshape(explainer.model.cells.shape) for job in jobs])


def _unit(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError as error:
        raise ParameterError(f"--unit: expected integers with commas between them, got '{text}'") from error


def report_of(found: Visualisation) -> dict[str, Any]:
    """Return what is written: the windows, and what they are worth."""
    return {
        "objective": found.objective,
        "score": found.score,
        "start_score": found.start_score,
        "gain": found.gain,
        "gain_over_random": found.gain_over_random,
        "random_score": {"mean": found.random_score.mean(axis=1), "std": found.random_score.std(axis=1)},
        "stability": found.stability,
        "parameters": found.parameters,
        "model_digest": found.model_digest,
        "windows": found.windows,
    }


def _show(found: Visualisation) -> None:
    say(f"what maximises {found.objective}")
    table = Table("seed", "objective", "gain over the start", "over random inputs of the same norm", box=None)
    deviation = found.random_score.std(axis=1)
    for number, (score, gain, over) in enumerate(zip(found.score, found.gain, found.gain_over_random, strict=True)):
        in_deviations = f" ({over / deviation[number]:.1f} s.d.)" if deviation[number] > 0 else ""
        named = str(found.parameters["seed"] + number)
        table.add_row(named, f"{score:.4g}", f"{gain:.4g}", f"{over:.4g}{in_deviations}")
    out.print(table)
    if found.stability is not None:
        out.print(f"correlation between seeds: {found.stability:.2f}")
