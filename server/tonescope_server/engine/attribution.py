"""The answer for a batch of windows, as the engine gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tonescope_server.types import FloatArray, Prediction, ResultWarning, Target


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
