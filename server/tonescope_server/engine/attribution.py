"""The answer for a batch of windows, as the engine gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonescope_server.csi.cells import CellMap
from tonescope_server.errors import ParameterError
from tonescope_server.types import FloatArray, Prediction, ResultWarning, Target, TargetKind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tonescope_server.pictures.answer import Answer


@dataclass(frozen=True)
class Attribution:
    """The answer for a batch of windows. Values are raw and signed: never scaled, never made absolute.

    Attributes:
        prediction: what the model said.
        score: the target's value per window, ``(batch,)``.
        tones: attribution per row of the tone table, ``(batch, n_tones)``, float32.
        tone_layout: id of the tone table whose rows ``tones`` has.
        cells: attribution per input cell, of the input's own shape ``(batch, …)``; None for a method that is defined
            per tone only.
        convergence_delta: ``Σ cells − (f(x) − f(baseline))`` per window; of relevance (``lrp``) ``Σ cells − f(x)``,
            the negative of what biases absorbed; None for a method that has none.
        null_tone_share: the part of Σ|attribution| on tones that carry no signal, per window, in [0, 1]; NaN where the
            attribution is zero everywhere; None where the tone table marks no tone as null.
        method: the method's name.
        parameters: every parameter as resolved, defaults filled in: with ``target`` they reproduce the result.
        target: the target as resolved.
        rule_set: the backward rule set, or "" where no gradient was taken.
        evaluations: model evaluations spent per window.
        compute_s: seconds spent computing the batch.
        model_digest: sha256 of the model that answered.
        warnings: what a user should know.
        units: attribution per group of cells, ``(batch, n_units)``, for a method that attributes groups (occluded
            slabs, say); None for others.
        standard_error: of ``tones``, for a sampled estimate; None for an exact method.
        batches: how many independent batches of samples the standard error was worked out from; None for an exact
            method.
        maps: what else the method has to show, by name, each ``(batch, …)``.
        windows: what was explained, ``(batch, *input shape)``; None where that was not kept.
        layout: how a window's cells lie; None where that was not kept.
    """

    prediction: Prediction
    score: FloatArray
    tones: FloatArray
    tone_layout: str
    cells: FloatArray | None
    convergence_delta: FloatArray | None
    null_tone_share: FloatArray | None
    method: str
    parameters: Mapping[str, Any]
    target: Target
    rule_set: str = ""
    evaluations: int = 1
    compute_s: float = 0.0
    model_digest: str = ""
    warnings: tuple[ResultWarning, ...] = field(default=())
    units: FloatArray | None = None
    standard_error: FloatArray | None = None
    batches: int | None = None
    maps: Mapping[str, FloatArray] = field(default_factory=dict)
    windows: FloatArray | None = field(default=None, repr=False)
    layout: CellMap | None = field(default=None, repr=False)

    def plot(self, window: int = 0, kind: str | None = None, path: str | PathLike[str] | None = None) -> Figure:
        """Draw the answer about one window; a notebook shows what is returned.

        Args:
            window: which of the batch.
            kind: ``band``, ``map`` (tones × frames over the window), ``parts`` (links and components), ``image``, or
                ``maps`` (attention, a class activation map, …); None draws what suits the model and the method.
            path: where to save it as well, in the format of its suffix.

        Raises:
            ParameterError: no such window, or nothing to draw of that kind.
            ConfigurationError: the file cannot be written.
        """
        from tonescope_server.pictures.drawing import answer_figure  # matplotlib takes its time to import
        from tonescope_server.pictures.files import save

        figure = answer_figure(self.answer(window), kind)
        if path is not None:
            save(figure, Path(path))
        return figure

    def answer(self, window: int = 0) -> Answer:
        """Return what pictures show of one window.

        Raises:
            ParameterError: no such window.
        """
        from tonescope_server.pictures.answer import Answer, title_of

        if not 0 <= window < len(self.tones):
            raise ParameterError(f"window: expected 0 to {len(self.tones) - 1}, got {window}")
        if self.layout is None:
            raise ParameterError("window: expected an answer that knows how its windows lie, as an explainer gives it")
        rows_are = self.layout.table.rows_are
        return Answer(
            title=title_of(self._said(window), rows_are, self.layout),
            subtitle=f"window {window} · {self.method} · target {self._targeted(window)} = {self.score[window]:.4g}",
            method=self.method,
            table=self.layout.table,
            layout=self.layout,
            tones=self.tones[window],
            error=None if self.standard_error is None else self.standard_error[window],
            cells=None if self.cells is None else self.cells[window],
            window=None if self.windows is None else self.windows[window],
            maps={name: np.asarray(values[window]) for name, values in self.maps.items()},
            parts=self._parts(window),
            alarms=self.null_tone_share is not None,
        )

    def _said(self, window: int) -> str:
        from tonescope_server.pictures.answer import said_of

        said = self.prediction
        if said.class_index is None:
            scores = said.scores[window]
            return said_of(None, "", None, float(np.mean(scores)) if scores.size else None)
        index = int(said.class_index[window])
        sure = said.probabilities
        return said_of(
            index,
            said.class_names[index] if index < len(said.class_names) else "",
            None if sure is None else float(sure[window, index]),
            None,
            said.untrained is not None and bool(said.untrained[window]),
        )

    def _targeted(self, window: int) -> str:
        target, index = self.target, self.target.index
        if isinstance(index, np.ndarray):
            index = int(index[window if len(index) > 1 else 0])
        kind = "index" if target.kind is TargetKind.ELEMENT else str(target.kind).replace("_", " ")
        return kind if index is None else f"{kind} {index}"

    def _parts(self, window: int) -> list[tuple[str, Any]]:
        layout = self.layout
        if layout is None or self.cells is None or not layout.has_parts:
            return []
        parts = layout.fold_parts(self.cells[window : window + 1])[0]
        return [
            (f"{link} {component}".strip(), parts[i, k])
            for i, link in enumerate(layout.links or ("",))
            for k, component in enumerate(layout.components or ("",))
        ]
