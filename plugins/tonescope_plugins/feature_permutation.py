"""Feature permutation: what the target loses when a part's values are put out of order, or are another window's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tonescope_plugins import _parts
from tonescope_plugins._game import AnytimeMethod, Float64Array, Step
from tonescope_plugins._masking import masked_losses
from tonescope_server import plugin
from tonescope_server.errors import ParameterError
from tonescope_server.types import FloatArray


class FeaturePermutationParameters(plugin.Parameters):
    """Parameters of feature permutation."""

    along: Literal["tone", "band", "link"] = Field(
        "tone",
        description="What is permuted: each tone, each band of tones that are neighbours in frequency, each antenna "
        "link. Cells of one part go together.",
    )
    size: int = Field(1, ge=1, description="Tones that are permuted together; tones in a band.")
    among: Literal["frames", "background"] | None = Field(
        None,
        description="Where the values come from: from other frames of the same window, in a random order; or from the "
        "same places in a random window of the background. Absent means the frames, where a window has several.",
    )
    background: plugin.Background = None
    n: int = Field(16, ge=2, le=65536, description="How often each part is permuted.")
    seed: plugin.Seed = 0


class FeaturePermutation(AnytimeMethod):
    """``f(x) − E f(x with the values of a part permuted)``, over random permutations.

    Breiman permutes a feature among the rows of a data set, and looks at the loss. Here it is the target of one window,
    and the values come from its own frames, or from a background that is given or that the manifest states: never from
    the other windows of a request, so that no answer depends on them. Permuting frames keeps what a tone holds and not
    when: a part that the model only averages over time is worth nothing by it. A part's value is shared evenly
    among its cells; ``units`` holds it. ``batches`` counts the permutations, and the standard error is over them.

    Source: Breiman, "Random Forests" (2001), section 10; Fisher, Rudin & Dominici (2019).
    """

    name = "feature_permutation"
    summary = "What the target loses when the values of a tone, a band or a link are put out of order."
    source = "Breiman 2001, doi:10.1023/A:1010933404324; Fisher et al. 2019, arXiv:1801.01489"
    Parameters = FeaturePermutationParameters

    def steps(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[Step]:
        """Permute every part once a step."""
        masks = _masks(windows, parameters)
        losses: list[FloatArray] = []
        for number in range(parameters.n):
            other = _permuted(windows, parameters, number)
            losses.append(masked_losses(model, windows, masks, other))
            yield partial(_estimate, windows, masks, losses)

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the permutations of every part, and the intact window beside each."""
        return int(parameters.n) * (len(_masks(windows, parameters)) + 1)


def _masks(windows: plugin.Windows, parameters: FeaturePermutationParameters) -> _parts.Masks:
    if parameters.along == "link":
        return _parts.of_links(windows, parameters.size, parameters.size)
    of = _parts.of_bands if parameters.along == "band" else _parts.of_tones
    return of(windows, parameters.size, parameters.size)


def _permuted(windows: plugin.Windows, parameters: FeaturePermutationParameters, number: int) -> FloatArray:
    """Return what cells hold once permuted, broadcastable to ``(batch, cells)``: the same draw for all windows."""
    random = plugin.generator(parameters.seed, "permuted", number)
    cells = _parts.cells_of_series(windows)
    among = parameters.among or ("frames" if cells.shape[1] > 1 else "background")
    if among == "background":
        background = plugin.background_of(windows, parameters.background)
        chosen: FloatArray = background[random.integers(len(background))].reshape(1, -1)
        return chosen
    if cells.shape[1] < 2:
        raise ParameterError("parameter 'among': windows of one frame have no order to change: expected 'background'")
    flat = windows.x.reshape(len(windows.x), -1)
    found = np.empty_like(flat)
    found[:, cells] = flat[:, cells[:, random.permutation(cells.shape[1])]]
    return found


def _estimate(windows: plugin.Windows, masks: _parts.Masks, losses: list[FloatArray]) -> plugin.Estimate:
    """Return the mean loss of each part, divided evenly among its cells, and the standard error of tones."""
    shares: Float64Array = masks / np.maximum(masks.sum(axis=1), 1)[:, None]
    of_tones = np.stack([np.bincount(windows.tone_of_cell, row, windows.n_tones) for row in shares])
    values = np.stack(losses).astype(np.float64)
    mean, tones = values.mean(axis=0), values @ of_tones
    error = np.sqrt(tones.var(axis=0, ddof=1) / len(tones)).astype(np.float32) if len(tones) > 1 else None
    cells = (mean @ shares).astype(np.float32).reshape(windows.x.shape)
    return plugin.Estimate(cells, units=mean.astype(np.float32), standard_error=error, batches=len(tones))


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer feature permutation."""
    return [FeaturePermutation()]
