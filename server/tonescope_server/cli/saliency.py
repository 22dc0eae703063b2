"""``tonescope saliency``: rank the tones of a recording or paired file for a model, and write ``saliency.json``.

The keys are those of the report that WiFi-sensing tools already read; the identity of every tone comes beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from tonescope.results import Explanation
from tonescope_server import Explainer
from tonescope_server.checks import Finding
from tonescope_server.cli.console import out, plain, remark, say, write_json
from tonescope_server.cli.counted import Counted
from tonescope_server.cli.findings import findings_here, section, show_findings
from tonescope_server.cli.identity import FEATURES, identity_table, tone_text
from tonescope_server.cli.labels import Labelled, labelled, labelled_windows
from tonescope_server.cli.local import explain_here, jobs_of, load
from tonescope_server.cli.options import (
    AdapterOption,
    FormatOption,
    HopOption,
    ManifestOption,
    ModelOption,
    NormaliseOption,
    StoreOption,
    WeightsOption,
    need_png,
)
from tonescope_server.cli.recordings import open_file, windows_of
from tonescope_server.cli.usage import only
from tonescope_server.cli.warned import Warned
from tonescope_server.engine.targets import TargetLike
from tonescope_server.errors import ParameterError
from tonescope_server.reports.arrays import ARRAYS, read_arrays
from tonescope_server.reports.dataset import read_dataset
from tonescope_server.reports.findings import on_confidence
from tonescope_server.reports.tones.resampling import error_of_mean, overlap_of
from tonescope_server.types import Target, TargetKind

METHOD = "subcarrier_saliency"
TOP_K = (8, 16, 32)
PREDICTED = "predicted"
T = TypeVar("T")


class Kind(StrEnum):
    """What the model predicts."""

    COUNT = "count"
    POSE = "pose"


def saliency(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="A recording, a paired file, or windows (.npy, .npz).", show_default=False)
    ],
    model: ModelOption = "people_count",
    kind: Annotated[Kind, typer.Option("--kind", help="What the model predicts.")] = Kind.COUNT,
    max_samples: Annotated[int, typer.Option("--max-samples", min=1, help="Windows at most, evenly spread.")] = 128,
    out_file: Annotated[Path, typer.Option("--out", "-o", help="Where to write it; '-' is stdout.")] = Path(
        "saliency.json"
    ),
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    format: FormatOption = "",
    png: Annotated[Path | None, typer.Option("--png", help="Draw it here as well.", show_default=False)] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with it and what was found.", show_default=False),
    ] = None,
) -> None:
    """Rank the tones by how much the loss depends on each, and write saliency.json.

    For a count the loss is −log p of the label (n_persons_mode in a paired file, labels in a .npz file), or, where the
    file has none, of the prediction. Where only some windows have a label, the others are left out, and their lines are
    told. A pose model has no such loss: there the mean of all keypoint coordinates is taken instead.

    Example:  tonescope saliency session.csi.jsonl --model count_v1.safetensors --normalise recording

    Example:  tonescope saliency paired.jsonl --model pose_v1.safetensors --kind pose --max-samples 256 -o pose.json
    """
    need_png(png)
    is_array = file.suffix in ARRAYS and not format
    if is_array:
        only(context, ("hop",), "with a recording", f"the array {file.name}")
    explainer = load(context, model, store, manifest, adapter, weights)
    need_kind(kind, explainer)
    known, counted = _read(file, explainer, kind, (normalise, hop, format))
    jobs, labels = spread(known.jobs, max_samples), spread(known.labels, max_samples)
    target = target_of(kind, labels)
    found = explain_here(explainer, jobs, METHOD, target, {})
    findings = findings_here(explainer, file, format, normalise, METHOD, found) + _on_confidence(target, found)
    findings += Warned.of(found).faults(findings)
    window = explainer.model.manifest.window
    made = Made(window.frames, 0 if is_array else hop or window.hop, _label_of(target, known))
    report = report_of(kind, str(model), found, made)
    warnings = explainer.model.warnings_for(normalise)
    report |= {"findings": section(findings), "model_warnings": list(warnings)}
    report |= {"recording": None if counted is None else counted.section, "labels": known.section}
    write_json(report, out_file)
    if png is not None:
        draw(report, found, file.name, png)
    if html is not None:
        _write_page(report, found, file.name, [*warnings, *(str(finding.message) for finding in findings)], html)
    if str(out_file) != "-":
        _say(report, found, warnings, out_file)
        show_findings(findings)
    if counted is not None:
        counted.say(file.name)
    if known.text:
        remark(f"{file.name}: {known.text}")


def _read(file: Path, explainer: Explainer, kind: Kind, how: tuple[str, int, str]) -> tuple[Labelled, Counted | None]:
    """Read the windows of a file, with their labels where the loss is of labels."""
    normalise, hop, format = how
    if file.suffix in ARRAYS and not format:
        jobs = jobs_of(read_arrays(file), explainer, normalise)
        labels = None if kind is Kind.POSE else read_dataset(file, explainer).labels
        return labelled_windows(file, jobs, labels, _classes(explainer)), None
    recording = open_file(file, explainer.host, format)
    jobs, counted = windows_of(recording, explainer.model, explainer.host, normalise, hop)
    return Labelled(jobs) if kind is Kind.POSE else labelled(recording, jobs, _classes(explainer)), counted


def spread(each: Sequence[T], most: int) -> list[T]:
    """Take at most ``most``, evenly spread over all of them."""
    if len(each) <= most:
        return list(each)
    return [each[i] for i in np.linspace(0, len(each) - 1, most).round().astype(int)]


def need_kind(kind: Kind, explainer: Explainer) -> None:
    """Make sure that the model is of that kind.

    Raises:
        ParameterError: it is of the other.
    """
    output = explainer.model.outputs[0].name
    regression = explainer.model.manifest.output(output).kind == "regression"
    if regression is not (kind is Kind.POSE):
        raise ParameterError(
            f"--kind {kind}: output '{output}' of model '{explainer.model.name}' is "
            f"{'a regression, which is --kind pose' if regression else 'a choice of classes, which is --kind count'}"
        )


def target_of(kind: Kind, labels: Sequence[int]) -> TargetLike:
    """Choose the loss: of the labels, or, where there are none, of the prediction."""
    if kind is Kind.POSE:
        return Target.mean()
    return Target.negative_log_likelihood(np.array(labels, dtype=np.int64) if labels else None)


def _classes(explainer: Explainer) -> int:
    return prod(explainer.model.outputs[0].shape[1:])


def _label_of(target: TargetLike, known: Labelled) -> str:
    """Say what the loss takes as right; "" where it is no such loss."""
    if not isinstance(target, Target) or target.kind is not TargetKind.NEGATIVE_LOG_LIKELIHOOD:
        return ""
    return known.field if isinstance(target.index, np.ndarray) else PREDICTED


def _on_confidence(target: TargetLike, found: Sequence[Explanation]) -> list[Finding]:
    """Compare the model's confidence with its being right, where the labels are known."""
    labels = target.index if isinstance(target, Target) else None
    confidence = [each.prediction.probability for each in found]
    if not isinstance(labels, np.ndarray) or None in confidence:
        return []
    right = np.array([each.prediction.class_index for each in found]) == labels
    return on_confidence(np.array(confidence, dtype=np.float64), right)


@dataclass(frozen=True)
class Made:
    """What explanations do not say of how they were made.

    Attributes:
        frames: in a window; ``hop``: from one window of a stream to the next.
        label: what the loss takes as right: a field of the file, or the prediction; "" where it is no such loss.
    """

    frames: int
    hop: int
    label: str = PREDICTED


def report_of(kind: Kind, model: str, found: Sequence[Explanation], made: Made) -> dict[str, Any]:
    """Build the report: the keys that others read, and beside them who the tones are and how it was made."""
    mean = np.stack([each.tones for each in found]).astype(np.float64).mean(axis=0)
    ranking = np.argsort(-mean, kind="stable").tolist()
    table = found[0].tone_table
    nulls = list(table.null_rows)
    total = float(np.abs(mean).sum())
    average = float(mean.mean())
    first = found[0]
    loss = next(name for name in first.target if name != "output")
    return {
        "kind": str(kind),
        "model": model,
        "n_samples": len(found),
        "saliency_per_subcarrier": mean.tolist(),
        "ranking_high_to_low": ranking,
        "top_k_subcarriers": {str(k): ranking[:k] for k in TOP_K},
        "saliency_summary": {
            "min": float(mean.min()),
            "max": float(mean.max()),
            "mean": average,
            "std": float(mean.std()),
            "max_to_mean_ratio": float(mean.max()) / average if average else 0.0,
        },
        "tone_layout": table.id,
        "rows_are": table.rows_are,
        "centre_mhz": table.centre_mhz,
        "tones": plain(table.tones),
        "null_tone_share": float(np.abs(mean[nulls]).sum()) / total if nulls and total else None,
        "model_digest": first.model_digest,
        "method": first.method,
        "parameters": plain(first.parameters),
        "rule_set": first.rule_set,
        "target": {"output": first.target["output"], "kind": loss, "label": made.label or None},
        "normalisation": first.normalisation,
        "window": {"frames": made.frames, "hop": made.hop},
    }


def draw(
    report: dict[str, Any], found: Sequence[Explanation], source: str, path: Path, planted: Sequence[int] = ()
) -> None:
    """Draw the ranking as a band plot."""
    from tonescope_server.pictures.files import save  # matplotlib takes its time to import

    save(_figure(report, found, source, planted), path)


def _write_page(
    report: dict[str, Any], found: Sequence[Explanation], source: str, warnings: Sequence[str], path: Path
) -> None:
    from tonescope_server.pictures.files import write_page

    top = ", ".join(tone_text(found[0].tone_table.tones[row], row) for row in report["top_k_subcarriers"]["8"])
    drawn = [(f"The attribution of every {found[0].tone_table.rows_are[:-1]}", _figure(report, found, source))]
    write_page(path, f"What {Path(report['model']).name} depends on in {source}", drawn, [f"top 8: {top}"], warnings)
    remark(f"wrote {path}")


def _figure(report: dict[str, Any], found: Sequence[Explanation], source: str, planted: Sequence[int] = ()) -> Any:
    from tonescope_server.pictures.band import Band, band_figure

    values = np.stack([each.tones for each in found]).astype(np.float64)
    nodes = np.array([each.node_id for each in found], dtype=np.int64)
    made = report["window"]
    error = error_of_mean(values, nodes, overlap_of(made["frames"], made["hop"], nodes))
    return band_figure(
        Band(
            title="Which tones the model's answer depends on",
            subtitle=f"{source} · {Path(report['model']).name} · mean {METHOD} over {report['n_samples']} windows",
            table=found[0].tone_table,
            tones=values.mean(axis=0),
            error=error,
            unit="saliency",
            planted=planted,
        )
    )


def _say(report: dict[str, Any], found: Sequence[Explanation], warnings: Sequence[str], path: Path) -> None:
    table = found[0].tone_table
    named = [f"{tone_text(table.tones[row], row)} (row {row})" for row in report["top_k_subcarriers"]["8"]]
    say(f"top 8 of {len(table)} tones over {len(found)} windows: {', '.join(named)}")
    if table.rows_are == "features":
        remark(FEATURES)
    mean = np.array(report["saliency_per_subcarrier"])
    out.print(identity_table(table, report["top_k_subcarriers"]["8"], {"saliency": mean}))
    share = report["null_tone_share"]
    if share is not None:
        out.print(f"on tones that carry no signal: {share:.1%}")
    for text in warnings:
        remark(f"warning: {text}")
    remark(f"wrote {path}")
