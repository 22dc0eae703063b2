"""Plain values that every layer shares. Nothing here imports the project, or computes more than it is asked for.

Tones and frames live in ``csi``; what a method is lives in ``plugin.api``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def frozen(cls: type[T], **fields: Any) -> T:
    """Make a frozen dataclass of fields that are known to be right; what is not given is as the class has it.

    For the way of every window: its own constructor sets each field by a call, which for an ``Attribution`` takes 4 µs.
    A field whose default is made by a factory must be given.
    """
    made = object.__new__(cls)
    made.__dict__.update(fields)
    return made


class TargetKind(StrEnum):
    """What a scalar target is made of."""

    PREDICTED = "predicted"
    ELEMENT = "element"
    MEAN = "mean"
    SUM = "sum"
    LOG_PROBABILITY = "log_probability"
    NEGATIVE_LOG_LIKELIHOOD = "negative_log_likelihood"
    DIFFERENCE = "difference"


@dataclass(frozen=True)
class Target:
    """The scalar per window that is explained.

    Attributes:
        kind: how the scalar is formed.
        output: name of the model output; None means the model's first output.
        index: for ELEMENT, LOG_PROBABILITY and NEGATIVE_LOG_LIKELIHOOD: a class name, a flat index, a position in
            the output's shape (tuple), or one flat index per window (int64 array, shape ``(batch,)``). None, for the
            two likelihoods, means the predicted class. For MEAN and SUM: a sequence of flat indices, or None for
            every element of the output.
        minus: for DIFFERENCE: ``plus - minus``; both are targets themselves.
        plus: see ``minus``.
    """

    kind: TargetKind = TargetKind.PREDICTED
    output: str | None = None
    index: int | str | tuple[int, ...] | Sequence[int] | IntArray | None = None
    plus: Target | None = None
    minus: Target | None = None

    @classmethod
    def predicted(cls, output: str | None = None) -> Target:
        """The logit of the predicted class: the largest element of ``output``."""
        return cls(TargetKind.PREDICTED, output)

    @classmethod
    def element(cls, index: int | str | tuple[int, ...] | IntArray, output: str | None = None) -> Target:
        """One element of ``output``: a class, by index or name, or any position."""
        return cls(TargetKind.ELEMENT, output, index)

    @classmethod
    def mean(cls, index: Sequence[int] | None = None, output: str | None = None) -> Target:
        """The mean of several elements of ``output`` (keypoints, say), or of all of them."""
        return cls(TargetKind.MEAN, output, index)

    @classmethod
    def sum(cls, index: Sequence[int] | None = None, output: str | None = None) -> Target:
        """The sum of several elements of ``output``, or of all of them."""
        return cls(TargetKind.SUM, output, index)

    @classmethod
    def log_probability(cls, label: int | str | IntArray | None = None, output: str | None = None) -> Target:
        """Log p of a label under a softmax over ``output``; of the predicted class where ``label`` is None."""
        return cls(TargetKind.LOG_PROBABILITY, output, label)

    @classmethod
    def negative_log_likelihood(cls, label: int | str | IntArray | None = None, output: str | None = None) -> Target:
        """−log p of a label under a softmax over ``output``; of the predicted class where ``label`` is None."""
        return cls(TargetKind.NEGATIVE_LOG_LIKELIHOOD, output, label)

    @classmethod
    def difference(cls, plus: Target, minus: Target) -> Target:
        """``plus − minus``."""
        return cls(TargetKind.DIFFERENCE, None, None, plus, minus)


@dataclass(frozen=True)
class Prediction:
    """What the model said of a batch of windows.

    Attributes:
        outputs: every model output by name, each of shape ``(batch, …)``.
        scores: the class scores the prediction is read from (the first output), ``(batch, n)``.
        class_index: the largest class score per window, ``(batch,)``; None for a regression model.
        class_names: names by class index; empty where the manifest has none.
        temperature: of the softmax over the scores; None where the scores are probabilities, or values, already.
        untrained: per window, whether the predicted class is one that the manifest says was never trained; None where
            it does not say which classes were.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    scores: FloatArray
    class_index: IntArray | None = None
    class_names: tuple[str, ...] = ()
    temperature: float | None = None
    untrained: BoolArray | None = None

    @cached_property
    def probabilities(self) -> FloatArray | None:
        """Probabilities of the classes, ``(batch, n)``: softmax at the temperature, or the model's own.

        None for regression. Worked out when first asked for: it costs a tenth of a whole small explanation.
        """
        if self.class_index is None or self.temperature is None:
            return None if self.class_index is None else self.scores
        below = self.scores - np.maximum.reduce(self.scores, axis=1, keepdims=True)
        powers = np.exp(below if self.temperature == 1 else below / self.temperature)
        result: FloatArray = (powers / np.add.reduce(powers, axis=1, keepdims=True)).astype(np.float32, copy=False)
        return result


@dataclass(frozen=True)
class ResultWarning:
    """Something a user should know before believing a result.

    Attributes:
        code: a stable word, such as ``NULL_TONE_SHARE``.
        message: one line: what was seen, and what to change.
        window: the window in the batch that it is about; None for all of them.
        is_fault: whether answers about tones are wrong until something is changed; else it is a warning.
    """

    code: str
    message: str
    window: int | None = None
    is_fault: bool = False


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
