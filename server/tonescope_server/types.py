"""Plain values that every layer shares. Nothing here imports the project, or computes more than it is asked for.

Tones and frames live in ``csi``; what a method is lives in ``plugin.api``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
