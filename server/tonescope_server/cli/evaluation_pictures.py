"""Pictures of ``tonescope evaluate``: every metric of every method beside random ones, and the curves behind them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tonescope_server.errors import ParameterError
from tonescope_server.pictures.colours import DARK, FAINT, NEGATIVE, POSITIVE
from tonescope_server.pictures.figure import headline, new_figure
from tonescope_server.pictures.files import save, write_page
from tonescope_server.reports.evaluation.evaluation import Evaluation
from tonescope_server.reports.evaluation.judging import Judgement

COLUMNS = 3
RANDOM = "#8a8a8a"
NEITHER = "#9db4c8"
_JUDGED = {
    POSITIVE: "better than random (p ≤ 0.05)",
    NEITHER: "not told from random",
    NEGATIVE: "worse than random (p ≤ 0.05)",
}
BAND = (5.0, 95.0)  # percentiles of random draws
# Of colours that are told apart with any kind of sight (Okabe & Ito 2008), those that show on white.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = ("-", "--", "-.", ":")


def bars_figure(found: Evaluation, source: str) -> Figure:
    """Draw a panel for each metric: a bar for each method, and over it the range of random attributions.

    Raises:
        ParameterError: no metric could judge any method.
    """
    names = [name for name in found.plan.metrics if any(name in each.judgements for each in found.methods)]
    if not names:
        raise ParameterError("nothing to draw: no metric could judge any method")
    rows = -(-len(names) // COLUMNS)
    figure = new_figure(12, 1.3 + rows * (0.75 + 0.22 * len(found.methods)))
    grid: Any = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        _draw_bars(axes, found, name)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    handles: list[Patch | Line2D] = [Patch(color=colour, label=said) for colour, said in _JUDGED.items()]
    handles.append(Line2D([], [], color=DARK, lw=4, alpha=0.35, label="90 % of random attributions"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    headline(figure, "How good the explanations are", _said(found, source))
    return figure


def curves_figure(found: Evaluation, source: str) -> Figure | None:
    """Draw a panel for each curve that metrics were worked out from, a line for each method; None where there is none.

    Curves of steps that are removed have the share of features along the axis; others the names of their steps.
    """
    panels = _panels(found)
    if not panels:
        return None
    rows = -(-len(panels) // COLUMNS)
    figure = new_figure(12, 1.2 + 3.1 * rows)
    grid: Any = figure.subplots(rows, COLUMNS, squeeze=False)
    styles = {method.method: style for method, style in zip(found.methods, cycle(_styles()), strict=False)}
    for axes, (metric, curve) in zip(grid.flat, panels, strict=False):
        _draw_curves(axes, found, metric, curve, styles)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    headline(figure, "What the target does, step by step", _said(found, source) + " · grey: random attributions, 90 %")
    return figure


def write_png(found: Evaluation, source: str, path: Path) -> None:
    """Write the bars to a file, and the curves to one beside it, ``…-curves.png``.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    save(bars_figure(found, source), path)
    curves = curves_figure(found, source)
    if curves is not None:
        save(curves, path.with_stem(f"{path.stem}-curves"))


def write_html(found: Evaluation, source: str, path: Path) -> None:
    """Write a page with both.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    figures = [("Metrics, beside what random attributions get", bars_figure(found, source))]
    curves = curves_figure(found, source)
    if curves is not None:
        figures.append(("The curves behind them", curves))
    told = [f"{name} was not judged: {why}" for name, why in found.refused.items()]
    told += [
        f"{each.method} was not judged by {name}: {why}" for each in found.methods for name, why in each.failed.items()
    ]
    write_page(path, f"explanations of {found.model.name} on {source}", figures, [_said(found, source)], told)


def _said(found: Evaluation, source: str) -> str:
    plan = found.plan
    return (
        f"{found.model.name} · {source} · {found.n_windows} windows · {found.n_features} {plan.over} · "
        f"{plan.draws} random draws, seed {plan.seed}"
    )


def _draw_bars(axes: Axes, found: Evaluation, name: str) -> None:
    judged = [(each.method, each.judgements.get(name)) for each in found.methods]
    places = np.arange(len(judged))
    for place, (_, judgement) in zip(places, judged, strict=True):
        if judgement is None:
            axes.text(0, float(place), " not judged", va="center", fontsize=6.5, color=FAINT)
            continue
        axes.barh(place, judgement.mean, height=0.72, color=_colour(judgement), zorder=2)
        low, high = np.percentile(judgement.chance, BAND)
        axes.plot([low, high], [place, place], color=DARK, lw=4, alpha=0.35, solid_capstyle="butt", zorder=3)
        axes.plot(judgement.chance.mean(), place, "|", color=DARK, ms=7, zorder=4)
    axes.set_yticks(places, [method for method, _ in judged], fontsize=7, parse_math=False)
    axes.set_ylim(len(judged) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.axvline(0, color=DARK, lw=0.6, zorder=1)
    axes.grid(axis="x", color="#e5e5e5", lw=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    first = next(each for _, each in judged if each is not None)
    axes.set_title(_title(name, first), fontsize=8.5, loc="left", parse_math=False)


def _colour(judgement: Judgement) -> str:
    if judgement.is_told_from_chance:
        return POSITIVE
    return NEGATIVE if judgement.is_worse_than_chance else NEITHER


def _title(name: str, judgement: Judgement) -> str:
    better = {True: "↑", False: "↓", None: ""}[judgement.metric.higher_is_better]
    unit = f" ({judgement.metric.unit})" if judgement.metric.unit else ""
    return f"{name}{unit} {better}".strip()


def _panels(found: Evaluation) -> list[tuple[str, str]]:
    """Return each curve's metric and name, once."""
    pairs = [
        (name, curve.name)
        for name in found.plan.metrics
        for each in found.methods
        if name in each.judgements
        for curve in each.judgements[name].curves
    ]
    return list(dict.fromkeys(pairs))


def _styles() -> Sequence[tuple[str, str]]:
    return [(colour, style) for style in STYLES for colour in LINES]


def _draw_curves(axes: Axes, found: Evaluation, metric: str, name: str, styles: dict[str, tuple[str, str]]) -> None:
    judged = [(each.method, each.judgements[metric]) for each in found.methods if metric in each.judgements]
    curves = [(method, curve) for method, judgement in judged for curve in judgement.curves if curve.name == name]
    # Of maps that are even over tones, random ones are the same: the method whose random ones differ most has the band.
    _, drawn = max(curves, key=lambda pair: float(pair[1].chance.std(axis=0).max()))
    x = np.arange(len(drawn.mean)) if drawn.at is None else drawn.at
    low, high = np.percentile(drawn.chance, BAND, axis=0)
    axes.fill_between(x, low, high, color=RANDOM, alpha=0.25, lw=0)
    axes.plot(x, drawn.chance.mean(axis=0), color=RANDOM, lw=1, label="random")
    for method, curve in curves:
        colour, style = styles[method]
        axes.plot(x, curve.mean, color=colour, ls=style, lw=1.5, label=method)
        if curve.at is None:  # attributions of one sign are somewhat alike by chance: each has a line of its own
            axes.plot(x, curve.chance.mean(axis=0), color=colour, ls=(0, (1, 2)), lw=0.9)
    axes.set_title(f"{metric}: {name}", fontsize=8.5, loc="left", parse_math=False)
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", color="#e5e5e5", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if drawn.at is None:
        axes.set_xticks(np.arange(len(drawn.steps)), drawn.steps, rotation=30, ha="right", fontsize=6.5)
        axes.set_xlabel("randomised up to (dotted: random attributions of each method)", fontsize=8)
    else:
        axes.set_xlabel(f"share of the {found.plan.over}", fontsize=8)
