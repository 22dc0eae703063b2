"""What the weights betray: a model that was trained on rows without signal has not learnt to use them.

Where a row was always zero in training, its first-layer weights got no gradient: they stay as they were drawn, or
weight decay makes them smaller than those of live rows. Weights that are neither say that there was signal on those
rows in training, whatever the manifest calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.models.model import Model

NULL_ROWS_TRAINED = "NULL_ROWS_TRAINED"

SIGNIFICANT = 0.01
HARDLY_DRAWN = 0.005  # of fresh draws, for either of two tests: every accusation of one is false
FEWEST_ROWS = 3  # of either sort
FEWEST_FILTERS = 8
FEWEST_A_FILTER, ENOUGH_A_FILTER = (
    8,
    24,
)  # null weights: normalised, fewer look all alike
N_SIMULATED, FEWEST_SIMULATED = 100_000, 200  # weights, and filters at least
LEAST_ALIKE = 2.33  # standard errors of a correlation: one in a hundred exceeds it by chance
COARSEST_GRID = 0.2  # of the rms
ON_GRID = 0.01  # of a step: the rounding of float32, 127 steps from zero
_PASS_ON = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout"}

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowWeights:
    """The first layer's weights by row of the tone table.

    Attributes:
        layer: the layer's name, or its operator where it has none.
        values: for each tone, its weights by output filter, ``[n_filters, n]``.
    """

    layer: str
    values: tuple[Float64Array, ...]

    @property
    def rms(self) -> Float64Array:
        """Give the root mean square of each row's weights, ``[n_tones]``."""
        return np.array([np.sqrt(np.square(row).mean()) for row in self.values])


def check_weights(model: Model) -> list[Finding]:
    """Compare the first layer's weights on null rows with those on live ones (one-sided Mann–Whitney).

    Nothing is said of a model whose declared rows are not its tones, of one whose first layer has no weights of its
    own for each tone, and of weights on null rows that are as an initialiser draws them.
    """
    null = model.table.null_mask
    found = row_weights(model)
    if found is None or min(null.sum(), (~null).sum()) < FEWEST_ROWS:
        return []
    from scipy.stats import mannwhitneyu  # takes 0.6 s to import

    on_null, on_live = found.rms[null], found.rms[~null]
    p_value = float(mannwhitneyu(on_null, on_live, alternative="less").pvalue)
    weights = np.concatenate([row for row, is_null in zip(found.values, null, strict=True) if is_null], axis=1)
    if p_value < SIGNIFICANT or _is_untouched(weights):
        return []
    figures = {
        "rms_on_null_rows": float(np.median(on_null)),
        "rms_on_live_rows": float(np.median(on_live)),
        "p_value": p_value,
    }
    message = (
        f"the weights of '{found.layer}' on the {int(null.sum())} rows that carry no signal are as large as on live "
        f"rows (median rms {figures['rms_on_null_rows']:.3g} and {figures['rms_on_live_rows']:.3g}; Mann–Whitney "
        f"p = {p_value:.2g} for smaller) and not as an initialiser draws them: the model was trained with signal there"
    )
    remedy = "find out how the training windows were laid out (input.cell_order, tones.layout); else train anew"
    return [Finding(NULL_ROWS_TRAINED, Severity.WARNING, message, remedy, figures)]


def _is_untouched(weights: Float64Array) -> bool:
    """Say whether weights may well be a fresh draw about zero, of any size: normal, cut at two deviations, or uniform.

    These are what PyTorch, Keras and Flax draw from. Two tests at ``HARDLY_DRAWN``: Kolmogorov–Smirnov's, and that of
    the fourth moment, which sees sooner what training adds to a draw with sharp ends. The size is taken from the
    weights themselves: one for all, or, as a batch normalisation that was folded into the layer scales each of its
    filters by a factor of its own, one for each filter.

    Shapes:
        weights: ``[n_filters, n]``.
    """
    if not weights.any():
        return True
    weights = _off_the_grid(weights)
    of_filters = weights[weights.any(axis=1)]
    if _differ_in_size(of_filters):
        return _is_draw_by_filter(of_filters)
    # Of so few weights a filter that its size is not well known, they may differ all the same.
    few = FEWEST_A_FILTER <= weights.shape[1] < ENOUGH_A_FILTER
    return _is_one_draw(weights.ravel()) or (few and _is_draw_by_filter(of_filters))


def _off_the_grid(weights: Float64Array) -> Float64Array:
    """Spread weights that lie on the grid of a quantisation over its steps: by its grid alone a large draw is told.

    Floating-point numbers lie on a grid as well: theirs is so fine that this changes nothing. A grid as coarse as the
    weights themselves (binary, ternary) is left alone, since spread over its steps anything looks uniform.
    """
    distinct = np.unique(weights)
    step = float(np.diff(distinct).min()) if distinct.size > 1 else 0.0
    if step == 0 or step > COARSEST_GRID * np.sqrt(np.square(weights).mean()):
        return weights
    places = distinct / step
    if np.abs(places - np.round(places)).max() > ON_GRID:
        return weights
    spread: Float64Array = weights + np.random.default_rng(0).uniform(-step / 2, step / 2, weights.shape)
    return spread


def _is_one_draw(weights: Float64Array) -> bool:
    """Test all weights against draws of one size."""
    from scipy.stats import kstest

    standard = weights / np.sqrt(np.square(weights).mean())
    fourth = float((standard**4).mean())
    return any(
        abs(fourth - draw.fourth) <= _farthest() * draw.fourth_error / np.sqrt(weights.size)
        and float(kstest(standard, draw.cumulative).pvalue) > HARDLY_DRAWN
        for draw in _draws()
    )


def _differ_in_size(weights: Float64Array) -> bool:
    """Say whether filters have a size of their own: one half of a filter's weights tells the size of the other.

    That they merely differ would not do: weights with long tails make some filters larger by chance.
    """
    n_filters, n = weights.shape
    if n_filters < FEWEST_FILTERS or n < FEWEST_A_FILTER:
        return False
    if not (weights[:, ::2].any(axis=1) & weights[:, 1::2].any(axis=1)).all():
        return False
    one, other = (sizes - sizes.mean() for sizes in (_log_rms(weights[:, ::2]), _log_rms(weights[:, 1::2])))
    spread = float(np.sqrt((one @ one) * (other @ other)))
    return bool(float(one @ other) * np.sqrt(n_filters - 1) > LEAST_ALIKE * spread)


def _is_draw_by_filter(weights: Float64Array) -> bool:
    return any(_is_like(weights, expected) for expected in _simulated(weights.shape[1]))


@lru_cache(maxsize=1)
def _simulated(n: int) -> tuple[Float64Array, ...]:
    """Draw filters of so many weights from each distribution, and bring them to unit rms.

    A few weights that are divided by their own rms are not distributed as they were drawn: none of n exceeds √n.
    """
    n_filters = max(FEWEST_SIMULATED, N_SIMULATED // n)
    return tuple(_unit_rms(draw.of((n_filters, n), np.random.default_rng(i))) for i, draw in enumerate(_draws()))


def _is_like(weights: Float64Array, expected: Float64Array) -> bool:
    """Test weights, brought to unit rms filter by filter, against simulated ones.

    Weights of one filter depend on each other then, by which Kolmogorov–Smirnov's test errs on the side of a draw; the
    fourth moments of filters do not.
    """
    from scipy.stats import ks_2samp

    found = _unit_rms(weights)
    fourth, fourths = (found**4).mean(axis=1), (expected**4).mean(axis=1)
    error = float(fourths.std()) * np.sqrt(1 / len(fourth) + 1 / len(fourths))
    if abs(float(fourth.mean() - fourths.mean())) > _farthest() * error:
        return False
    return float(ks_2samp(found.ravel(), expected.ravel(), method="asymp").pvalue) > HARDLY_DRAWN


def _log_rms(weights: Float64Array) -> Float64Array:
    logarithms: Float64Array = 0.5 * np.log(np.square(weights).mean(axis=1))
    return logarithms


def _unit_rms(weights: Float64Array) -> Float64Array:
    scaled: Float64Array = weights / np.sqrt(np.square(weights).mean(axis=1, keepdims=True))
    return scaled


@cache
def _farthest() -> float:
    """Return how many standard errors a fourth moment may be off."""
    from scipy.stats import norm

    return float(norm.isf(HARDLY_DRAWN / 2))


@dataclass(frozen=True)
class _Draw:
    """A distribution of unit variance that weights are drawn from.

    Attributes:
        cumulative: its distribution function.
        of: draws an array of it, given its shape and a generator.
        fourth: its fourth moment.
        fourth_error: the standard deviation of ``√n · Σz⁴/n / (Σz²/n)²`` over large draws (delta method).
    """

    cumulative: Callable[..., Any]
    of: Callable[[tuple[int, int], np.random.Generator], Float64Array]
    fourth: float
    fourth_error: float


@cache
def _draws() -> tuple[_Draw, ...]:
    from scipy.stats import norm, truncnorm, uniform

    cut, end = 1 / float(truncnorm(-2, 2).std()), float(np.sqrt(3.0))
    made = []
    for distribution in (norm(), truncnorm(-2, 2, scale=cut), uniform(-end, 2 * end)):
        fourth, sixth, eighth = (float(distribution.moment(k)) for k in (4, 6, 8))
        variance = eighth - 4 * fourth * sixth + 4 * fourth**3 - fourth**2
        made.append(_Draw(distribution.cdf, partial(_drawn, distribution), fourth, float(np.sqrt(variance))))
    return tuple(made)


def _drawn(distribution: Any, shape: tuple[int, int], random: np.random.Generator) -> Float64Array:
    values: Float64Array = distribution.rvs(shape, random_state=random)
    return values


def row_weights(model: Model) -> RowWeights | None:
    """Split the first layer's weights by tone; None where it has none for each."""
    node = _first_layer(model)
    weight = _weight(node) if node is not None and model.cells.rows_are_tones else None
    if node is None or weight is None:
        return None
    values = _by_tone(node, weight, model)
    return None if values is None else RowWeights(node.name or node.op_type, tuple(values))


def _first_layer(model: Model) -> ir.Node | None:
    """Return the only layer that reads the input, through whatever merely reshapes it."""
    value = next((v for v in model.graph.graph.inputs if v.name == model.input.name), None)
    while value is not None:
        readers = [use.node for use in value.uses()]
        if len(readers) != 1:
            return None
        node = readers[0]
        if node.op_type not in _PASS_ON:
            return node
        value = node.outputs[0]
    return None


def _weight(node: ir.Node) -> Float64Array | None:
    """Return a layer's weights with the results along the first axis for Conv, along the last for products."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    constant = ir.convenience.get_const_tensor(node.inputs[1])
    if constant is None:
        return None
    weight = constant.numpy().astype(np.float64)
    if node.op_type == "Gemm" and (b := node.attributes.get("transB")) is not None and b.as_int():
        weight = weight.T
    return weight


def _by_tone(node: ir.Node, weight: Float64Array, model: Model) -> list[Float64Array] | None:
    """Split a layer's weights by the tone that they read, each ``[n_filters, n]``."""
    cells = model.cells
    if node.op_type == "Conv":
        by_channel = cells.declared_axis == 0 and weight.shape[1] == cells.n_tones
        return [weight[:, row].reshape(len(weight), -1) for row in range(cells.n_tones)] if by_channel else None
    if weight.ndim != 2:
        return None
    if weight.shape[0] == cells.n_cells:
        return [weight[cells.tone_of_cell == row].T for row in range(cells.n_tones)]
    last = cells.declared_axis == len(cells.shape) - 1 and weight.shape[0] == cells.n_tones
    return [weight[row, :, None] for row in range(cells.n_tones)] if last else None
