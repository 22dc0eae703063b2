"""Pictures of ``tonescope tones``: the ranking over the band, and accuracy against K with its bands."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tonescope_server.pictures.band import Band, band_figure
from tonescope_server.pictures.colours import NEGATIVE, POSITIVE
from tonescope_server.pictures.figure import new_figure
from tonescope_server.pictures.files import save
from tonescope_server.reports.tones.choice import Choice
from tonescope_server.reports.tones.masking import Curve, Measure
from tonescope_server.reports.tones.ranking import Over
from tonescope_server.services.in_process import client_table

RANDOM = "#8a8a8a"
NAMED_APART = 1.15  # the least ratio of two K whose names do not touch
_AXIS = {
    Measure.ACCURACY: "accuracy",
    Measure.AGREEMENT: "agreement with all tones",
    Measure.R_SQUARED: "R² of the output from all tones",
}


def ranking_picture(found: Choice, path: Path) -> None:
    """Draw the importance of every tone over its subcarrier index, with its standard error."""
    ranking = found.ranking
    error = ranking.standard_error if ranking.over is Over.WINDOWS else ranking.standard_error_recordings
    figure = band_figure(
        Band(
            title="Which tones the model leans on",
            subtitle=f"{_source(found)} · mean |{found.plan.method}| over {len(found.sources)} windows, "
            f"standard error over {ranking.over}",
            table=client_table(found.table),
            tones=ranking.mean,
            error=error,
            unit="mean |attribution|",
        )
    )
    save(figure, path)


def accuracy_picture(found: Choice, path: Path) -> None:
    """Draw accuracy against K, and write it to ``path``."""
    save(accuracy_figure(found), path)


def accuracy_figure(found: Choice) -> Figure:
    """Draw what the model can still do with K tones: the chosen ones, random ones and the lowest."""
    curve = found.curve
    figure = new_figure(8, 4.8)
    axes = figure.subplots()
    _draw(axes, curve)
    axes.set_xlabel("tones kept, K")
    axes.set_ylabel(_AXIS[curve.measure])
    figure.suptitle("What the model can do with K tones", x=0.012, ha="left", fontsize=13, fontweight="bold")
    said = f"{_source(found)} · by {found.plan.method} on the other half · masked tones held at the {curve.fill}"
    axes.set_title(said, loc="left", fontsize=8.5, color="#555555", parse_math=False)  # names may have a $ in them
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, curve: Curve) -> None:
    low, high = curve.random_band()
    axes.fill_between(
        curve.ks, low, high, color=RANDOM, alpha=0.2, lw=0, label=f"95 % of {len(curve.random)} random sets"
    )
    axes.plot(curve.ks, curve.random.mean(axis=0), color=RANDOM, marker=".", label="random tones, mean")
    axes.fill_between(
        curve.ks, curve.chosen_low, curve.chosen_high, color=POSITIVE, alpha=0.2, lw=0, label="95 % over windows"
    )
    axes.plot(curve.ks, curve.chosen, color=POSITIVE, marker="o", ms=4, label="chosen tones")
    axes.plot(curve.ks, curve.lowest, color=NEGATIVE, marker="v", ms=4, ls="--", label="lowest tones")
    axes.axhline(curve.intact, color="#444444", lw=0.8, ls=":", label="no tone masked")
    axes.set_xscale("log", base=2)
    named = {k for k, after in zip(curve.ks, [*curve.ks[1:], math.inf], strict=True) if after >= NAMED_APART * k}
    axes.set_xticks(curve.ks, [str(k) if k in named else "" for k in curve.ks])
    axes.minorticks_off()
    if curve.measure is not Measure.R_SQUARED:
        axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", color="#e5e5e5", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _source(found: Choice) -> str:
    count = found.sources.n_recordings
    return f"{found.model.name} · {found.names[0] if count == 1 else f'{count} recordings'}"
