"""Where it is known which features matter: whether an attribution lies on them. All go by |φ|, and by no sign."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_plugins.metrics._shares import shares
from tonescope_server.plugin import Judged, Measured, Metric, Need, hookimpl
from tonescope_server.plugin.metric import Float64Array
from tonescope_server.types import BoolArray


class _Planted(Metric):
    """What they share. Of features with equal |φ| each is as likely to come first, so zero has the value of chance."""

    higher_is_better = True
    needs = frozenset({Need.PLANTED_TRUTH})


class RelevanceMass(_Planted):
    """The share of Σ|φ| on planted features; their share of all features for an attribution of zero.

    Source: Arras et al., "CLEVR-XAI", 2022. Departure: of |φ|, where the paper takes what is positive, because a tone
    that matters may speak against the target.
    """

    name = "relevance_mass"
    summary = "The share of the absolute attribution that lies on the features known to matter."
    source = "Arras et al. 2022"

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Add up the shares."""
        return Measured(shares(judged.attribution)[:, planted(judged)].sum(axis=1))


class RelevanceRankAccuracy(_Planted):
    """Of the k features with the largest |φ|, k as many as are planted, the share that is.

    Source: Arras et al. 2022. Departure: of |φ|.
    """

    name = "relevance_rank_accuracy"
    summary = "Of as many top features as are known to matter, the share that does."
    source = "Arras et al. 2022"

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Count the planted among the largest."""
        truth = planted(judged)
        return Measured(_planted_of_largest(np.abs(judged.attribution), truth, int(truth.sum())) / truth.sum())


class RelevanceAuc(_Planted):
    """The probability that a planted feature has a larger |φ| than one that is not: the area under the ROC curve.

    0.5 for an attribution of zero, and where all features are planted.

    Source: Fawcett, "An introduction to ROC analysis", 2006, by the ranks (Mann–Whitney).
    """

    name = "relevance_auc"
    summary = "The probability that a feature known to matter ranks above one that does not."
    source = "Fawcett 2006"

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Compare every planted feature with every other."""
        truth, size = planted(judged), np.abs(judged.attribution)
        if truth.all():
            return Measured(np.full(len(size), 0.5))
        inside, outside = size[:, truth], size[:, ~truth]
        ordered = np.sort(outside, axis=1)
        pairs = zip(ordered, inside, strict=True)
        below = [np.searchsorted(row, each, "left") + np.searchsorted(row, each, "right") for row, each in pairs]
        return Measured(np.stack(below).mean(axis=1) / (2 * outside.shape[1]))


class PointingGame(_Planted):
    """1 where the feature with the largest |φ| is planted, else 0; of several largest, the share that is.

    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", 2016.
    """

    name = "pointing_game"
    summary = "Whether the feature with the largest absolute attribution is known to matter."
    source = "Zhang et al. 2016"

    def measure(self, judged: Judged, parameters: Any) -> Measured:
        """Look at the largest."""
        return Measured(_planted_of_largest(np.abs(judged.attribution), planted(judged), 1))


def planted(judged: Judged) -> BoolArray:
    """Return which features are planted: the judgement has them, for these metrics need them."""
    assert judged.planted is not None
    return judged.planted


def _planted_of_largest(size: Float64Array, truth: BoolArray, k: int) -> Float64Array:
    """Count the planted among the k largest of each row; of those that tie for the last places, their share."""
    least: npt.NDArray[np.float64] = np.sort(size, axis=1)[:, -k, None]
    above, tied = size > least, size == least
    places = k - above.sum(axis=1)
    return np.asarray((above & truth).sum(axis=1) + places * (tied & truth).sum(axis=1) / tied.sum(axis=1), np.float64)


@hookimpl
def tonescope_diagnostics() -> list[Metric]:
    """Offer the four."""
    return [RelevanceMass(), RelevanceRankAccuracy(), RelevanceAuc(), PointingGame()]
