"""Random sets of features that are removed together, and what the target loses by it."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tonescope_server.plugin import Judged, Parameters
from tonescope_server.plugin.metric import Float64Array
from tonescope_server.types import BoolArray


class SubsetParameters(Parameters):
    """Parameters of metrics that remove random sets of features."""

    n: int = Field(100, ge=2, le=10_000, description="How many sets are drawn: the same for every window.")
    share: float = Field(0.25, gt=0, lt=1, description="The share of the features that a set has; at least one.")


def draw_subsets(judged: Judged, n: int, share: float) -> BoolArray:
    """Draw sets of features: ``(n, features)``."""
    size = max(round(share * judged.n_features), 1)
    drawn = np.zeros((n, judged.n_features), np.bool_)
    for number, row in enumerate(drawn):
        row[judged.generator("subset", number).permutation(judged.n_features)[:size]] = True
    return drawn


def lost_without(judged: Judged, subsets: BoolArray) -> Float64Array:
    """Return what the target of each window loses without each set: ``(n windows, n sets)``."""
    intact = judged.score(judged.x, judged.everyone)
    wanted = np.broadcast_to(subsets, (len(judged.x), *subsets.shape))
    return intact[:, None] - judged.score_without(wanted)
