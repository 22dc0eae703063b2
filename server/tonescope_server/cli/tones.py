"""``tonescope tones``: which 8, 16 or 32 tones a device should send, how sure that is, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from tonescope_server.checks import Finding, Severity
from tonescope_server.cli.console import out, progress, remark, say, write_json
from tonescope_server.cli.findings import section, show_findings
from tonescope_server.cli.identity import FEATURES, field_text, megahertz_text, tone_text
from tonescope_server.cli.local import load
from tonescope_server.cli.options import (
    AdapterOption,
    FormatOption,
    HopOption,
    ManifestOption,
    MethodOption,
    NormaliseOption,
    OutputOption,
    ParameterOption,
    StoreOption,
    TargetOption,
    WeightsOption,
    parse_parameters,
    parse_target,
)
from tonescope_server.cli.tones_files import as_json, write_accuracy, write_header, write_masks, write_ranking
from tonescope_server.cli.usage import only
from tonescope_server.errors import ParameterError
from tonescope_server.reports.arrays import ARRAYS
from tonescope_server.reports.dataset import read_dataset
from tonescope_server.reports.findings import check_data
from tonescope_server.reports.tones.choice import METHOD, Choice, Plan, choose
from tonescope_server.reports.tones.masking import Curve, Fill, Measure
from tonescope_server.reports.tones.ranking import FEWEST_RECORDINGS, Over
from tonescope_server.services.in_process import client_table
from tonescope_server.types import Target

SHOWN = 16
FAULTS = 4  # the exit code, as doctor's
MOST_LIKELY_CHANCE = 0.05
_ABOUT_RANKING = (
    "P K: the probability of being among the K most important tones; ranks: where nine draws in ten put it."
)
_ABOUT_STABILITY = (
    "The tones shared of those in either top K (Jaccard), mean and least of the pairs; rank correlations."
)
MEASURES = {
    Measure.ACCURACY: "accuracy on the labels",
    Measure.AGREEMENT: "agreement with the class predicted from all tones",
    Measure.R_SQUARED: "R² of the output from all tones",
}


def tones(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A model file or folder, or a name in the store: NAME or NAME/VERSION.", show_default=False
        ),
    ],
    recordings: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORDING", help="Recordings, paired files, or windows (.npy, .npz).", show_default=False
        ),
    ],
    method: MethodOption = METHOD,
    param: ParameterOption = None,
    target: TargetOption = "",
    output: OutputOption = "",
    k: Annotated[str, typer.Option("--k", help="How many tones to choose: several numbers, with commas.")] = "8,16,32",
    folder: Annotated[Path, typer.Option("--out", "-o", help="The folder that the results are written to.")] = Path(
        "tones"
    ),
    fill: Annotated[
        Fill | None,
        typer.Option(
            "--fill",
            help="What stands in place of a masked tone.  [default: the manifest's baseline where stated, else mean]",
            show_default=False,
        ),
    ] = None,
    random_sets: Annotated[
        int, typer.Option("--random", min=1, help="Random sets of tones to compare with, for each K.")
    ] = 100,
    max_windows: Annotated[
        int, typer.Option("--max-windows", min=4, help="Windows of each recording at most, evenly spread.")
    ] = 1024,
    tried: Annotated[
        int, typer.Option("--tried", min=4, help="Windows that sets of tones are tried on at most, in all.")
    ] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is drawn.")] = 0,
    store: StoreOption = None,
    manifest: ManifestOption = None,
    adapter: AdapterOption = None,
    weights: WeightsOption = None,
    normalise: NormaliseOption = "",
    hop: HopOption = 0,
    format: FormatOption = "",
    allow_faults: Annotated[
        bool, typer.Option("--allow-faults", help="Choose all the same where the checks find the data at fault.")
    ] = False,
) -> None:
    """Choose the tones that a model needs most, and say how sure that is.

    Ranks the tones with standard errors and the probability of being in the top K; compares the ranking over time,
    nodes and recordings; writes masks that a device can read; and measures what the model can still do with K tones,
    beside random ones and the lowest. Null tones are never chosen. The data is checked first, as doctor does: where it
    is at fault, its rows may be no tones, and nothing is chosen.

    Exit codes: 0 done, 4 the data is at fault; 1 an error, 2 wrong usage.

    Example:  tonescope tones people_count monday.csi.jsonl tuesday.csi.jsonl --out tones

    Example:  tonescope tones count_v1.safetensors session.csi.jsonl --method occlusion -p along=band -p size=4 --k 8,12
    """
    if all(path.suffix in ARRAYS for path in recordings) and not format:
        only(context, ("hop",), "with a recording of frames", "windows")
    explainer = load(context, model, store, manifest, adapter, weights)
    plan = Plan(
        method,
        parse_target(target, output, Target),
        parse_parameters(param),
        parse_ks(k),
        fill,
        random_sets,
        most_windows=max_windows,
        most_tried=tried,
        seed=seed,
    )
    with progress(f"{method} on {explainer.model.name}", None) as bar:
        data = [read_dataset(path, explainer, format) for path in recordings]
        checked = {each.name: check_data(each, explainer.model, normalise) for each in data}
        refuse_faults(checked, allow_faults)
        found = choose(explainer, data, plan, normalise, hop, bar.advance)
    findings = [finding for each in checked.values() for finding in each]
    written = write_all(found, findings, folder)
    show(found)
    show_checked(checked)
    for text in explainer.model.warnings_for(normalise):
        remark(f"warning: {text}")
    remark(f"wrote {', '.join(path.name for path in written)} to {folder}")


def refuse_faults(checked: Mapping[str, Sequence[Finding]], allowed: bool) -> None:
    """End where data is at fault: its rows may be no tones, and a device would send the wrong ones for good."""
    at_fault = [name for name, found in checked.items() if any(each.severity is Severity.FAULT for each in found)]
    if at_fault and not allowed:
        show_checked(checked)
        remark(
            f"nothing was chosen or written: {', '.join(at_fault)} {'is' if len(at_fault) == 1 else 'are'} at fault "
            "(tonescope doctor says more; --allow-faults chooses all the same)"
        )
        raise typer.Exit(FAULTS)


def show_checked(checked: Mapping[str, Sequence[Finding]]) -> None:
    """Say what the checks found, under the name of each file where there are several."""
    for name, found in checked.items():
        if found and len(checked) > 1:
            remark(f"{name}:")
        show_findings(found)


def parse_ks(text: str) -> tuple[int, ...]:
    """Read ``--k``: numbers with commas, in ascending order.

    Raises:
        ParameterError: anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ParameterError(f"--k: expected positive integers with commas, as in 8,16,32, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def write_all(found: Choice, findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Write everything that was found to a folder, and return the files.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    from tonescope_server.cli.tones_pictures import accuracy_picture, ranking_picture  # matplotlib takes its time

    summary = folder / "tones.json"
    write_json(as_json(found) | {"findings": section(findings)}, summary)
    ranking, accuracy, header = folder / "ranking.csv", folder / "accuracy.csv", folder / "tones.h"
    write_ranking(found, ranking)
    write_accuracy(found.curve, accuracy)
    masks = write_masks(found, folder)
    write_header(found, header)
    pictures = [folder / "ranking.png", folder / "accuracy.png"]
    ranking_picture(found, pictures[0])
    accuracy_picture(found, pictures[1])
    return [summary, ranking, accuracy, *masks, header, *pictures]


def show(found: Choice) -> None:
    """Print the ranking, its stability, and the curve."""
    say(headline(found))
    if found.table.rows_are == "features":
        remark(FEATURES)
    say(_ABOUT_RANKING)
    out.print(_ranking_table(found))
    out.print()
    say(_ABOUT_STABILITY)
    out.print(_stability_table(found))
    out.print()
    say(curve_text(found.curve))
    out.print(_curve_table(found.curve))
    out.print()
    for text in verdicts(found):
        say(text)


def headline(found: Choice) -> str:
    """Say in a sentence or two what the ranking is of, and how sure it can be."""
    ranking, n, count = found.ranking, len(found.sources), found.sources.n_recordings
    of = found.names[0] if count == 1 else f"{count} recordings"
    said = (
        f"{found.model.name} on {of}: {len(ranking.order)} of {len(found.table)} tones ranked by mean "
        f"|{found.plan.method}| over {n} windows, which are worth {ranking.effective_windows:.0f} independent ones"
    )
    if ranking.over is Over.RECORDINGS:
        return f"{said}; errors and probabilities are over recordings."
    return (
        f"{said}; errors and probabilities are over windows (over recordings from {FEWEST_RECORDINGS} on), "
        "and say nothing of another room or day."
    )


def verdicts(found: Choice) -> list[str]:
    """Say for each K whether the ranking is worth going by: whether random tones would have done as well."""
    curve, said = found.curve, []
    for k in found.plan.ks:
        at = curve.ks.index(k)
        random = curve.random[:, at].mean()
        is_all = k == curve.ks[-1]
        better = curve.p_value[at] <= MOST_LIKELY_CHANCE
        judged = "these are all there are" if is_all else "better than chance" if better else "not told from chance"
        said.append(
            f"K = {k}: {curve.chosen[at]:.3f} with the chosen tones, {random:.3f} with random ones "
            f"(p = {curve.p_value[at]:.3f}): {judged}"
        )
    return said


def curve_text(curve: Curve) -> str:
    """Say what the curve is."""
    return (
        f"{MEASURES[curve.measure].capitalize()} with K tones, the others held at the {curve.fill}, over "
        f"{curve.windows} windows ranked by the other half of the data; {len(curve.random)} random sets; "
        f"with all: {curve.intact:.3f}."
    )


def _ranking_table(found: Choice) -> Table:
    ranking, table = found.ranking, client_table(found.table)
    error = ranking.standard_error if ranking.over is Over.WINDOWS else ranking.standard_error_recordings
    assert error is not None  # over recordings, there are enough of them
    mhz = "MHz" if table.centre_mhz is not None else "MHz from centre"
    tops = [f"P {k}" for k in found.plan.ks]
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("rank", "row", "tone", mhz, "carries", "field", "mean", "±", *tops, "ranks"):
        shown.add_column(name, no_wrap=True, justify="left" if name in ("carries", "field") else "right")
    for rank, row in enumerate(ranking.order[:SHOWN].tolist(), start=1):
        tone = table.tones[row]
        shown.add_row(
            str(rank),
            str(row),
            tone_text(tone, row),
            megahertz_text(tone) or "—",
            tone.kind,
            field_text(tone) or "—",
            f"{ranking.mean[row]:.3g}",
            f"{error[row]:.2g}",
            *(f"{ranking.in_top[k][row]:.2f}" for k in found.plan.ks),
            f"{ranking.rank_low[row]}–{ranking.rank_high[row]}",
        )
    return shown


def _stability_table(found: Choice) -> Table:
    tops = [f"top {k}" for k in found.plan.ks]
    shown = Table("over", "pairs", *tops, "Spearman", "Kendall", box=None, pad_edge=False)
    for each in found.stability:
        shared = ("{:.2f}, {:.2f}".format(*each.jaccard(k)) for k in found.plan.ks)
        correlations = (each.correlation(name) for name in ("spearman", "kendall"))
        told = ["—" if value is None else f"{value:.2f}" for value in correlations]
        shown.add_row(each.over, str(len(each.pairs)), *shared, *told)
    for each in found.stability[:1]:
        shown.add_row("by chance", "", *(f"{each.by_chance[k]:.2f}" for k in found.plan.ks), "0", "0")
    return shown


def _curve_table(curve: Curve) -> Table:
    shown = Table("K", "chosen", "95 % over windows", "random", "95 % of sets", "lowest", "p", box=None, pad_edge=False)
    low, high = curve.random_band()
    for i, k in enumerate(curve.ks):
        shown.add_row(
            str(k),
            f"{curve.chosen[i]:.3f}",
            f"{curve.chosen_low[i]:.3f}–{curve.chosen_high[i]:.3f}",
            f"{np.mean(curve.random[:, i]):.3f}",
            f"{low[i]:.3f}–{high[i]:.3f}",
            f"{curve.lowest[i]:.3f}",
            f"{curve.p_value[i]:.3f}",
        )
    return shown
