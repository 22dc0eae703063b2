"""Everything that can be found out about a model with some data, most severe first, with what to change.

The checks themselves are in ``checks``; here they are run in an order in which each can use what the others found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from tonescope_server.checks import Finding, Severity
from tonescope_server.checks.attribution import NULL_TONE_SHARE, check_null_share
from tonescope_server.checks.frames import MIXED_TRAINING_FIELDS
from tonescope_server.checks.normalisation import WRONG_NORMALISATION
from tonescope_server.checks.parts import fitting_orders
from tonescope_server.checks.results import Answers, check_answers
from tonescope_server.checks.weights import FEWEST_ROWS, NULL_ROWS_TRAINED, RowWeights, check_weights, row_weights
from tonescope_server.csi.cells import FEATURE
from tonescope_server.engine.explainer import Explainer
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.models.model import Model
from tonescope_server.reports.advice import LAYOUT_UNKNOWN, NORMALISATION_UNKNOWN, ORDER_DOUBTED, Known, advise
from tonescope_server.reports.consequences import NO_WINDOWS, OF_THE_LAYOUT, with_consequences
from tonescope_server.reports.coverage import NOT_CHECKED, check_coverage, too_few_labels, unexplained
from tonescope_server.reports.dataset import Dataset, Kind, Windows, cut_windows
from tonescope_server.reports.findings import apart, check_data, on_confidence
from tonescope_server.reports.mending import mend, share_in_order, share_of
from tonescope_server.reports.readings import (
    MOST_SHARE,
    Explained,
    Trial,
    Tried,
    null_share,
    try_readings,
)
from tonescope_server.types import Prediction

__all__ = ["MANIFEST_GUESSED", "NOT_CHECKED", "NO_WINDOWS", "Area", "Entry", "Report", "examine"]

MANIFEST_GUESSED = "MANIFEST_GUESSED"

METHOD = "input_x_gradient"
MOST_DISAGREEING = 0.1  # of the windows: below it, whoever normalises how, the answers are the same


class Area(StrEnum):
    """What a finding is about."""

    DATA = "data"
    WEIGHTS = "weights"
    ATTRIBUTION = "attribution"
    PREDICTIONS = "predictions"
    NORMALISATION = "normalisation"
    MANIFEST = "manifest"


@dataclass(frozen=True)
class Entry:
    """One finding of a report.

    Attributes:
        area: what it is about.
        finding: what was found.
        manifest: the lines of ``model.toml`` that put it right; "" where the manifest need not change.
    """

    area: Area
    finding: Finding
    manifest: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """What was found out.

    Attributes:
        model: the model.
        data: the data.
        windows: as the model takes them.
        entries: the findings, most severe first.
        trial: the readings that were tried; None where nothing could be explained.
        weights: of the first layer, by tone; None where it has none for each.
        prediction: what the model said of the windows; None where there are none.
        hop: frames from one window of a recording to the next.
    """

    model: Model
    data: Dataset
    windows: Windows
    entries: tuple[Entry, ...]
    trial: Trial | None
    weights: RowWeights | None
    prediction: Prediction | None
    hop: int

    @property
    def worst(self) -> Severity:
        """The greatest severity of any finding; a note where there is none."""
        return self.entries[0].finding.severity if self.entries else Severity.NOTE

    @property
    def best(self) -> Tried | None:
        """The reading to go by; None where none fits."""
        return _best(self.trial, [entry.finding for entry in self.entries])

    def as_declared_best(self) -> Explained | None:
        """Return what the model makes of the windows were the best reading declared."""
        if self.trial is None:
            return None
        return self.trial.now if self.best is None else self.trial.by_order[self.best.reading.cell_order]

    def count(self, severity: Severity) -> int:
        """Count the findings of one severity."""
        return sum(entry.finding.severity == severity for entry in self.entries)


def examine(explainer: Explainer, data: Dataset, normalise: str = "", hop: int = 0) -> Report:
    """Run every check there is.

    Args:
        explainer: the model.
        data: of that model; see ``read_dataset``.
        normalise: a normaliser; "" means the manifest's for frames, and none for windows that are arrays.
        hop: frames from one window of a recording to the next; 0 means the manifest's.

    Raises:
        ParameterError: an unknown normaliser, or statistics that it cannot use.
        ModelError: the model cannot be run.
    """
    model = explainer.model
    windows = cut_windows(data, explainer, normalise, hop)
    on_data = check_data(data, model, normalise)
    if data.cells is not None:  # the windows of all nodes were looked at as one
        on_data = [replace(finding, node_id=None) for finding in on_data]
    on_weights = check_weights(model)
    others = [(Area.WEIGHTS, f) for f in on_weights]
    trial: Trial | None = None
    prediction: Prediction | None = None
    if len(windows):
        trial, why_not = _try(explainer, data, normalise, hop)
        on_attribution = why_not or _check_attribution(trial, _best(trial, on_data), model)
        others += [(Area.ATTRIBUTION, f) for f in on_attribution]
        prediction = explainer.predict(windows.cells)
        sound = not any(f.severity is Severity.FAULT for f in on_data)
        others += [(Area.PREDICTIONS, f) for f in _check_predictions(prediction, windows, trial, model, sound)]
        others += [(Area.NORMALISATION, f) for f in _check_normalisation(explainer, data, prediction, normalise, hop)]
    others += [(Area.DATA, f) for f in check_coverage(data, windows, model)]
    others += [(Area.MANIFEST, f) for f in _guesses(model, normalise)]
    on_data, others = with_consequences(on_data, others)
    weights = row_weights(model)
    known = _known(explainer, data, normalise, hop, trial, on_data, _weights_agree(on_weights, weights, model))
    entries = []
    for area, finding in [*((Area.DATA, f) for f in on_data), *others]:
        sharper, lines = advise(finding, model, known)
        entries.append(Entry(area, sharper, lines))
    ranked = sorted(entries, key=lambda entry: list(Severity).index(entry.finding.severity))
    used = hop or model.manifest.window.hop or model.cells.n_frames
    return Report(model, data, windows, tuple(ranked), trial, weights, prediction, used)


def _best(trial: Trial | None, found: Sequence[Finding]) -> Tried | None:
    """Return the reading to go by; of two training fields in turn, each has its own, and the zeros of both a third."""
    mixed = any(finding.code == MIXED_TRAINING_FIELDS for finding in found)
    return None if trial is None or mixed else trial.best


def _known(
    explainer: Explainer,
    data: Dataset,
    normalise: str,
    hop: int,
    trial: Trial | None,
    on_data: Sequence[Finding],
    weights_agree: bool | None,
) -> Known:
    """Find out what remedies need: each is tried, where what was found may call for it."""
    codes, best = {finding.code for finding in on_data}, _best(trial, on_data)
    tells = trial is not None and best is not None and not best.is_declared
    of_layout = bool(codes & set(OF_THE_LAYOUT))
    helps = WRONG_NORMALISATION in codes and _own_statistics_help(explainer, data, normalise, hop)
    return Known(
        best.reading if best is not None and (of_layout or best.is_sensible) else None,
        weights_agree,
        mend(explainer, data, normalise, hop, best) if tells and of_layout and best is not None else None,
        helps,
        data.cells is not None,
        _order_of_parts(explainer, data, normalise, hop) if of_layout and explainer.model.cells.has_parts else "",
    )


def _own_statistics_help(explainer: Explainer, data: Dataset, normalise: str, hop: int) -> bool:
    """Say whether nothing is wrong once the data is z-scored by its own statistics; windows are taken as they are."""
    if normalise or data.kind is Kind.WINDOWS:
        return False
    still = {finding.code for finding in check_data(data, explainer.model, "recording")}
    share = share_of(explainer, data, "recording", hop)
    return WRONG_NORMALISATION not in still and (share is None or share <= MOST_SHARE)


def _order_of_parts(explainer: Explainer, data: Dataset, normalise: str, hop: int) -> str:
    if data.cells is None:
        return ""
    orders = fitting_orders(data.cells, explainer.model.cells)
    shares = ((order, share_in_order(explainer, data, normalise, hop, order)) for order in orders)
    return next((order for order, share in shares if share is not None and share <= MOST_SHARE), "")


# -- attribution ---------------------------------------------------------------------------------------------------


def _try(explainer: Explainer, data: Dataset, normalise: str, hop: int) -> tuple[Trial | None, list[Finding]]:
    try:
        return try_readings(explainer, data, normalise, hop), []
    except UnsupportedOperatorError as error:
        return None, [unexplained(str(error).split(";")[0])]


def _check_attribution(trial: Trial | None, best: Tried | None, model: Model) -> list[Finding]:
    if trial is None:
        return []
    declared = trial.declared
    if model.cells.has_parts:
        attribution = trial.now.attribution.reshape(-1, *model.cells.shape)
        return check_null_share(model.cells.fold(attribution), attribution, model.cells)
    if declared is None:  # engineered features are no tones, and of a layout without nulls nothing is missing
        unknown = model.cells.cell_order != FEATURE and model.table.is_unknown
        return [_layout_unknown(trial, model)] if unknown else []
    physical = best or declared
    shares = [tried.share_now or 0.0 for tried in (declared, physical)]
    if max(shares) > MOST_SHARE:
        return [_on_nulls(trial, declared, physical)]
    return _order_doubted(trial, declared)


def _on_nulls(trial: Trial, declared: Tried, physical: Tried) -> Finding:
    """Put a figure on what lies on tones that carry no signal, as the manifest names them and as the zeros do."""
    now = declared.share_now or 0.0
    message = (
        f"{now:.1%} of |input × gradient| over {len(trial.now.windows)} windows lies on rows that the manifest calls "
        f"null (by chance: {declared.null_cells:.0%})"
    )
    figures = {"null_tone_share": now, "null_cells": declared.null_cells}
    if physical is not declared:
        share = physical.share_now or 0.0
        where = f'in "{physical.reading.cell_order}", "{physical.reading.layout}", which the zeros fit,'
        message += f"; {where} {share:.1%} lies on tones that in truth carry none"
        message += "" if share else " (their cells are exactly zero)"
        figures["null_tone_share_as_read"] = share
    if len(by_node := _by_node(trial.now, physical)) > 1:
        figures |= {f"null_tone_share_node_{n}": s for n, s in by_node.items()}
    figures["null_tone_share_if_changed"] = physical.share_if_declared
    if not physical.fits_zeros:
        remedy = "see to input.cell_order, tones.layout and normalisation: no reading is known to fit the zeros"
    elif physical is declared:
        remedy = "null rows hold values although their tones carry no signal: normalise tone by tone, once"
    else:
        remedy = f"with the reading that fits declared, it is {physical.share_if_declared:.1%}"
    return Finding(NULL_TONE_SHARE, Severity.FAULT, message, remedy, figures)


def _by_node(now: Explained, tried: Tried) -> dict[int, float]:
    nodes = now.windows.node_ids
    null = tried.reading.null_cells
    return {int(node): null_share(now.attribution[nodes == node], null) for node in np.unique(nodes)}


def _order_doubted(trial: Trial, declared: Tried) -> list[Finding]:
    """Tell a model that keeps off the null tones of another order, and not off those of the declared one.

    Frames that are laid out here always fit; only the model knows in which order it was trained. One that was trained
    with signal nowhere on its null rows, and with decay of weights, hardly reacts there.
    """
    if declared.gradient_share < 0.5 * declared.null_cells:
        return []
    better = [t for t in trial.fitting if t.reading.cell_order != declared.reading.cell_order and t.is_sensible]
    better = [tried for tried in better if tried.gradient_share <= MOST_SHARE]
    if not better:
        return []
    other = better[0].reading.cell_order
    message = (
        f"{declared.gradient_share:.0%} of |gradient| lies on null tones (by chance: {declared.null_cells:.0%}); were "
        f'the cells in the order "{other}", {better[0].gradient_share:.1%}: the model was trained in that order'
    )
    figures = {"gradient_share": declared.gradient_share, "gradient_share_if_changed": better[0].gradient_share}
    return [Finding(ORDER_DOUBTED, Severity.FAULT, message, f'input.cell_order = "{other}"', figures)]


def _layout_unknown(trial: Trial, model: Model) -> Finding:
    fits = [f'"{t.reading.layout}"' for t in trial.fitting if t.reading.cell_order == model.cells.cell_order]
    fits = fits or [f'"{t.reading.layout}" in order "{t.reading.cell_order}"' for t in trial.fitting]
    known = f"the zeros are those of {' or '.join(fits)}" if fits else "the zeros fit no layout that is known"
    message = f'"{model.table.id}" names no null tone, so that nothing can be told of attribution on them; {known}'
    remedy = "state tones.layout" if fits else "state tones.layout, once it is known"
    return Finding(LAYOUT_UNKNOWN, Severity.WARNING if fits else Severity.NOTE, message, remedy)


# -- predictions and normalisation ---------------------------------------------------------------------------------


def _check_predictions(
    prediction: Prediction, windows: Windows, trial: Trial | None, model: Model, sound: bool
) -> list[Finding]:
    shape = (-1, *model.cells.shape)
    cells = np.zeros((0, *model.cells.shape), np.float32) if trial is None else trial.now.attribution.reshape(shape)
    answers = Answers(METHOD, model.cells.fold(cells), cells, prediction.class_index)
    # What lies on null tones is told apart, with what would be under every other reading.
    found = [f for f in check_answers(answers, model.manifest, model.cells, sound=sound) if f.code != NULL_TONE_SHARE]
    if windows.labels is None or prediction.class_index is None or prediction.probabilities is None:
        return found
    confidence, right = prediction.probabilities.max(axis=1), prediction.class_index == windows.labels
    return found + on_confidence(confidence, right) + too_few_labels(len(right), apart(confidence, right))


def _check_normalisation(
    explainer: Explainer, data: Dataset, prediction: Prediction, normalise: str, hop: int
) -> list[Finding]:
    """Tell answers that hang on a normalisation of which nothing is known."""
    model = explainer.model
    guessed = not normalise and not model.manifest.normalisation.states("kind") and data.is_raw
    if not guessed or prediction.class_index is None:
        return []
    other = explainer.predict(cut_windows(data, explainer, "recording", hop).cells)
    assert other.class_index is not None  # of the same model
    agreeing = float((prediction.class_index == other.class_index).mean())
    if agreeing >= 1 - MOST_DISAGREEING:
        return []
    message = (
        f"nothing says how the training data was normalised, and the answers hang on it: raw, the largest score is "
        f"{prediction.scores.max():.3g} and {_mostly(prediction)}; z-scored by the recording's own statistics, "
        f"{other.scores.max():.3g} and {_mostly(other)}; {agreeing:.0%} of the windows get the same answer"
    )
    figures = {
        "agreement": agreeing,
        "largest_score_raw": float(prediction.scores.max()),
        "largest_score_z_scored": float(other.scores.max()),
    }
    remedy = (
        'state normalisation.kind, with the training\'s mean and std ("manifest"); else z-scores of what is recorded'
    )
    return [Finding(NORMALISATION_UNKNOWN, Severity.WARNING, message, remedy, figures)]


def _mostly(prediction: Prediction) -> str:
    assert prediction.class_index is not None
    (index, count), *_ = Counter(prediction.class_index.tolist()).most_common(1)
    names = prediction.class_names
    name = f"'{names[index]}'" if index < len(names) else f"class {index}"
    return f"{count} of {len(prediction.class_index)} windows are {name}"


# -- manifest ------------------------------------------------------------------------------------------------------


def _guesses(model: Model, normalise: str) -> list[Finding]:
    """Note what the manifest leaves to guesses."""
    guesses = model.warnings_for(normalise)
    return [Finding(MANIFEST_GUESSED, Severity.NOTE, text, "state it in model.toml") for text in guesses]


def _weights_agree(on_weights: Sequence[Finding], weights: RowWeights | None, model: Model) -> bool | None:
    if any(finding.code == NULL_ROWS_TRAINED for finding in on_weights):
        return False
    null = model.table.null_mask
    tells = weights is not None and min(null.sum(), (~null).sum()) >= FEWEST_ROWS
    return True if tells else None
