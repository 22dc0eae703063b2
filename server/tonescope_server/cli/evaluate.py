"""``tonescope evaluate``: how good the explanations of several methods are, each metric beside what random ones get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tonescope_server.cli.console import out, progress, remark, say, write_json
from tonescope_server.cli.evaluation_json import as_json
from tonescope_server.cli.findings import section, show_findings
from tonescope_server.cli.local import load
from tonescope_server.cli.options import (
    AdapterOption,
    FormatOption,
    HopOption,
    ManifestOption,
    NormaliseOption,
    OutputOption,
    StoreOption,
    TargetOption,
    WeightsOption,
    need_png,
    parse_target,
)
from tonescope_server.cli.usage import only
from tonescope_server.demo import PLANTED_ROWS
from tonescope_server.errors import ParameterError
from tonescope_server.plugin.metric import Metric
from tonescope_server.reports.arrays import ARRAYS
from tonescope_server.reports.dataset import cut_windows, need_windows, read_dataset
from tonescope_server.reports.evaluation import evaluation
from tonescope_server.reports.evaluation.evaluation import DRAWS, Evaluation, OfMethod, Plan, spread_over, work_of
from tonescope_server.reports.evaluation.judging import Judgement
from tonescope_server.reports.evaluation.subject import Over
from tonescope_server.reports.findings import check_data
from tonescope_server.types import Target

METHODS = "input_x_gradient,integrated_gradients,occlusion"
ALL, DEMO = "all", "demo"
WIDEST, WIDE = 30, 30  # columns of text: a metric's name, what it says of one method
_ABOUT = (
    "Each value, its mean over the windows; in brackets that of random attributions of the same distribution ± its "
    "spread over draws. * better than random ones, ! worse (p ≤ 0.05). ↑ more is better, ↓ less is."
)


def evaluate(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A model file or folder, or a name in the store: NAME or NAME/VERSION.", show_default=False
        ),
    ],
    recording: Annotated[
        Path, typer.Argument(help="A recording, a paired file, or windows (.npy, .npz).", show_default=False)
    ],
    methods: Annotated[
        str, typer.Option("--methods", help="Methods to compare, with commas; 'all' there are.")
    ] = METHODS,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Metrics, with commas.  [default: all that apply]", show_default=False)
    ] = "",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            help="A parameter of a method or a metric: NAME.PARAMETER=VALUE. May be repeated.",
            show_default=False,
        ),
    ] = None,
    target: TargetOption = "",
    output: OutputOption = "",
    over: Annotated[Over, typer.Option("--over", help="What is ranked and removed as one.")] = Over.TONES,
    planted: Annotated[
        str,
        typer.Option(
            "--planted",
            help="Rows of tones that are known to matter, with commas; 'demo' for those of the demonstration.",
            show_default=False,
        ),
    ] = "",
    max_samples: Annotated[int, typer.Option("--max-samples", min=1, help="Windows at most, evenly spread.")] = 32,
    draws: Annotated[
        int, typer.Option("--random", min=1, help="Random attributions that each metric is compared with.")
    ] = DRAWS,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is drawn.")] = 0,
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    format: FormatOption = "",
    json: Annotated[
        Path | None, typer.Option("--json", help="Write everything here; '-' is stdout.", show_default=False)
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with pictures.", show_default=False)] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write the pictures alone.", show_default=False)] = None,
) -> None:
    """Compare methods on a model and a recording by metrics of explanations, and say what random ones would get.

    Removal, fidelity, sensitivity, completeness, random weights, sparseness; and where it is known which tones matter
    (--planted), whether the attribution lies on them. A method that cannot explain the model is told with the reason.

    Example:  tonescope evaluate people_count session.csi.jsonl --methods saliency,integrated_gradients,lrp

    Example:  tonescope evaluate count.onnx session.csi.jsonl --metrics deletion,insertion -p deletion.max_steps=16
    """
    need_png(png)
    if recording.suffix in ARRAYS and not format:
        only(context, ("hop",), "with a recording of frames", "windows")
    explainer = load(context, model, store, manifest, adapter, weights)
    plan = Plan(
        methods=tuple(sorted(explainer.host.methods)) if methods == ALL else listed(methods, "--methods"),
        metrics=listed(metrics, "--metrics") if metrics else (),
        parameters=parse_named_parameters(param),
        target=parse_target(target, output, Target),
        over=over,
        planted=parse_planted(planted),
        draws=draws,
        seed=seed,
    )
    work = work_of(plan, explainer.host)
    data = read_dataset(recording, explainer, format)
    findings = check_data(data, explainer.model, normalise)
    windows = cut_windows(data, explainer, normalise, hop)
    need_windows(data, windows, explainer.model)
    x = windows.cells[spread_over(len(windows), max_samples)]
    with progress(f"judging {len(plan.methods)} methods on {explainer.model.name}", work) as bar:
        found = evaluation.evaluate(explainer, x, plan, bar.advance)
    if json is not None:
        write_json(as_json(found, data.name) | {"findings": section(findings)}, json)
    _draw(found, data.name, html, png)
    if str(json) != "-":
        show(found, data.name)
        show_findings(findings)
        for text in explainer.model.warnings_for(normalise):
            remark(f"warning: {text}")
    for path in (json, html, png):
        if path is not None and str(path) != "-":
            remark(f"wrote {path}")


def listed(text: str, option: str) -> tuple[str, ...]:
    """Read names with commas, each once.

    Raises:
        ParameterError: a name that is empty.
    """
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise ParameterError(f"{option}: expected names with commas, got {text!r}")
    return tuple(dict.fromkeys(names))


def parse_planted(text: str) -> tuple[int, ...] | None:
    """Read ``--planted``.

    Raises:
        ParameterError: neither rows nor 'demo'.
    """
    if text in ("", DEMO):
        return PLANTED_ROWS if text else None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ParameterError(f"--planted: expected rows with commas, as in 3,9,12, or 'demo', got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def parse_named_parameters(pairs: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Read ``--param NAME.PARAMETER=VALUE``: a value is JSON where it can be read as such, else text.

    Raises:
        ParameterError: it is written otherwise, or twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs or ():
        left, equals, value = pair.partition("=")
        name, dot, parameter = left.partition(".")
        if not (equals and dot and name and parameter):
            raise ParameterError(f"--param {pair!r}: expected NAME.PARAMETER=VALUE, NAME that of a method or a metric")
        if parameter in found.setdefault(name, {}):
            raise ParameterError(f"--param {pair!r}: expected {left!r} once, got it before")
        try:
            found[name][parameter] = loads(value)
        except (ValueError, RecursionError):
            found[name][parameter] = value
    return found


def show(found: Evaluation, source: str) -> None:
    """Print what was found: metrics down, methods across."""
    plan, features = found.plan, found.n_features
    say(
        f"{found.model.name} on {source}: {counted(len(found.methods), 'method')} judged on "
        f"{counted(found.n_windows, 'window')}, "
        f"over {features} {plan.over} that carry signal"
    )
    say(_ABOUT)
    across = max((out.width - WIDEST) // WIDE, 1)
    for start in range(0, len(found.methods), across):
        out.print()
        out.print(_table(found, found.methods[start : start + across]))
    for method, why in found.refused.items():
        remark(f"{method} was not judged: {why}")
    for each in found.methods:
        for text in each.warnings:
            remark(f"warning: {each.method}: {text}")
        for metric, why in each.failed.items():
            remark(f"{each.method} was not judged by {metric}: {why}")


def counted(n: int, noun: str) -> str:
    """Say how many: ``"1 method"``, ``"2 methods"``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _table(found: Evaluation, methods: Sequence[OfMethod]) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("metric", no_wrap=True)
    for each in methods:
        shown.add_column(each.method, no_wrap=True)
    for name in found.plan.metrics:
        cells = [_cell(each.judgements.get(name)) for each in methods]
        shown.add_row(_name(name, [each.judgements for each in methods]), *cells)
    return shown


def _name(name: str, judgements: Sequence[Mapping[str, Judgement]]) -> str:
    metric: Metric | None = next((each[name].metric for each in judgements if name in each), None)
    if metric is None or metric.higher_is_better is None:
        return name
    return f"{name} {'↑' if metric.higher_is_better else '↓'}"


def _cell(found: Judgement | None) -> Text:
    if found is None:
        return Text("—")
    told = found.is_told_from_chance
    mark = "*" if told else "!" if found.is_worse_than_chance else " "
    chance = f" ({found.chance.mean():.3g} ± {found.chance.std():.2g})"
    return Text.assemble((f"{found.mean:.3g}{mark}", "bold" if told else ""), (chance, "dim"))


def _draw(found: Evaluation, source: str, page: Path | None, png: Path | None) -> None:
    if page is None and png is None:
        return
    from tonescope_server.cli.evaluation_pictures import write_html, write_png  # matplotlib takes its time to import

    if page is not None:
        write_html(found, source, page)
    if png is not None:
        write_png(found, source, png)
