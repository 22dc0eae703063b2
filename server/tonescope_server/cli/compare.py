"""``tonescope compare``: one window by several methods, side by side. How good each is, ``evaluate`` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tonescope.results import Explanation
from tonescope_server import Explainer
from tonescope_server.cli.band import null_share_text, prediction_text
from tonescope_server.cli.console import out, remark, say, write_json
from tonescope_server.cli.drawing import answer_of
from tonescope_server.cli.identity import tone_text
from tonescope_server.cli.local import explain_here, jobs_of, load
from tonescope_server.cli.options import (
    AdapterOption,
    FormatOption,
    HopOption,
    ManifestOption,
    ModelOption,
    NormaliseOption,
    OutputOption,
    StoreOption,
    TargetOption,
    WeightsOption,
    need_png,
    parse_target,
)
from tonescope_server.cli.recordings import open_file, windows_of
from tonescope_server.cli.usage import only
from tonescope_server.errors import ParameterError
from tonescope_server.live.messages import Job, Wanted
from tonescope_server.pictures.answer import Answer
from tonescope_server.reports.arrays import ARRAYS, read_arrays
from tonescope_server.types import Target


def compare(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Windows (.npy, .npz) or a recording.", show_default=False)],
    methods: Annotated[
        str, typer.Option("--methods", help="The methods, with commas between them; each with its own defaults.")
    ] = "input_x_gradient,integrated_gradients,occlusion",
    model: ModelOption = "people_count",
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    target: TargetOption = "",
    output: OutputOption = "",
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    format: FormatOption = "",
    window: Annotated[int, typer.Option("--window", min=0, help="The window.")] = 0,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the strongest tones to list.")] = 5,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write every result here; '-' is stdout.", show_default=False)
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Draw the methods side by side here.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with every method's pictures here.", show_default=False)
    ] = None,
) -> None:
    """Explain one window by several methods, and show how far they agree on which tones matter.

    Example:  tonescope compare session.csi.jsonl --methods saliency,lrp,occlusion --png methods.png

    Example:  tonescope compare images.npy -m net.onnx --methods grad_cam,integrated_gradients --window 3 --html c.html
    """
    need_png(png)
    names = names_of(methods)
    if file.suffix in ARRAYS:
        only(context, ("hop", "format"), "with a recording", f"the array {file.name}")
    explainer = load(context, model, store, manifest, adapter, weights)
    job = _job(file, explainer, (normalise, hop, format), window)
    asked, want = parse_target(target, output, Target), Wanted(top, True, maps=True)
    found = [explain_here(explainer, [job], name, asked, {}, want)[0] for name in names]
    agreement = agreement_of([np.asarray(each.tones) for each in found])
    if json is not None:
        write_json({"explanations": found, "rank_correlation": {"methods": names, "matrix": agreement}}, json)
    source = f"{file.name}, window {window}"
    _draw([answer_of(each, explainer.model.cells, job.cells, source) for each in found], png, html, source)
    if str(json) != "-":
        say(f"{source}: {prediction_text(found[0])}")
        out.print(_table(found, agreement, top))


def names_of(methods: str) -> list[str]:
    """Read the list of methods.

    Raises:
        ParameterError: it is empty, or names one twice.
    """
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ParameterError(f"--methods: expected different names with commas between them, got '{methods}'")
    return names


def agreement_of(tones: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return Spearman's rank correlation of |attribution| per tone, ``(methods, methods)``; NaN where all tones tie."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(np.abs(each)) for each in tones])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ranks, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(ranks @ ranks.T / np.outer(norms, norms))


def _job(file: Path, explainer: Explainer, how: tuple[str, int, str], window: int) -> Job:
    """Read one window of a file."""
    normalise, hop, format = how
    if file.suffix in ARRAYS:
        jobs = jobs_of(read_arrays(file), explainer, normalise)
    else:
        recording = open_file(file, explainer.host, format)
        jobs, _ = windows_of(recording, explainer.model, explainer.host, normalise, hop)
    if window >= len(jobs):
        raise ParameterError(f"--window: expected at most {len(jobs) - 1}, got {window}")
    return jobs[window]


def _draw(answers: Sequence[Answer], png: Path | None, html: Path | None, source: str) -> None:
    if png is None and html is None:
        return
    from tonescope_server.pictures.comparison import comparison_figure  # matplotlib takes its time to import
    from tonescope_server.pictures.drawing import all_figures
    from tonescope_server.pictures.files import save, write_page

    first = answers[0]
    said = f"{source} · {first.subtitle.rpartition(' · ')[2]} · each method on its own scale"
    if png is not None:
        save(comparison_figure(answers, first.title, said), png)
        remark(f"wrote {png}")
    if html is not None:
        shown = [("All methods, each on its own scale", comparison_figure(answers, first.title, said))]
        shown += [(f"{each.method}: {caption}", figure) for each in answers for caption, figure in all_figures(each)]
        write_page(html, first.title, shown, [said])
        remark(f"wrote {html}")


def _table(found: Sequence[Explanation], agreement: np.ndarray[Any, Any], top: int) -> Table:
    """List the methods with their strongest tones, and how far each ranks the tones as the first does."""
    first = found[0].method
    table = Table("method", "strongest", "null share", f"rank correlation with {first}", "evaluations", box=None)
    for each, alike in zip(found, agreement[0], strict=True):
        tones = " ".join(tone_text(tone.tone, tone.row) for tone in each.top[:top])
        share = null_share_text(each.null_tone_share, "")
        agrees = "—" if np.isnan(alike) else f"{alike:.2f}"
        table.add_row(each.method, tones, share, agrees, str(each.evaluations))
    return table
