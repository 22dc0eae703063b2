"""All checks of answers in turn: what the model said of windows, and where its attributions lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tonescope_server.checks.attribution import check_null_share
from tonescope_server.checks.drift import check_attribution
from tonescope_server.checks.finding import Finding
from tonescope_server.checks.predictions import check_classes, check_variety
from tonescope_server.checks.series import Float64Array
from tonescope_server.csi.cells import CellMap
from tonescope_server.models.manifest import Manifest
from tonescope_server.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to windows of one node, or of all, in order.

    Attributes:
        method: the attribution method.
        tones: attribution per tone, ``[n_windows, n_tones]``.
        cells: per cell, ``[n_windows, *shape]``; None where there is none.
        classes: the predicted class, ``[n_windows]``; None for regression.
        start: the profile of the stream's first windows; None where these are the first.
        node_id: whose windows they are; None for all nodes.
        resolves_tones: whether what the method gives a tone is meant for that tone alone. Maps of internal layers are
            coarser: they spread over null tones whatever the layout.
    """

    method: str
    tones: FloatArray
    cells: FloatArray | None = None
    classes: IntArray | None = None
    start: Float64Array | None = None
    node_id: int | None = None
    resolves_tones: bool = True


def check_answers(answers: Answers, manifest: Manifest, cells: CellMap, *, sound: bool = True) -> list[Finding]:
    """Check answers.

    Args:
        answers: what was answered.
        manifest: says which classes were trained, and which tones had the attribution in training.
        cells: the model's map.
        sound: whether the data is; where it is not, attributions suffer from that, and only predictions are judged.
    """
    found: list[Finding] = []
    if answers.classes is not None and len(answers.classes):
        output = manifest.outputs[0] if manifest.outputs else None
        names = output.class_names if output else ()
        found += check_classes(answers.classes, output.trained_classes if output else (), names, answers.node_id)
        found += check_variety(answers.classes, names, answers.node_id)
    if not sound or not len(answers.tones):
        return found
    if answers.resolves_tones:
        found += check_null_share(answers.tones, answers.cells, cells, answers.node_id)
    return found + check_attribution(answers.tones, _reference(manifest, answers), answers.start, answers.node_id)


def _reference(manifest: Manifest, answers: Answers) -> Float64Array | None:
    """Return the training's attribution profile, where the manifest states one for this method."""
    stated = manifest.reference
    if stated.method != answers.method or len(stated.attribution) != answers.tones.shape[1]:
        return None
    shares = np.asarray(stated.attribution, dtype=np.float64)
    profile: Float64Array = shares / shares.sum()
    return profile
