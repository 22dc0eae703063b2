"""Which coalitions are asked for: all of them, draws by the kernel of Shapley values, and permutations.

The one sampler of all methods that play with coalitions. Draws depend on a seed and a number, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from tonescope_plugins._game import Coalitions, Float64Array
from tonescope_server import plugin
from tonescope_server.errors import ParameterError

MOST_ENUMERATED = 16
BATCHES = 16
# A stream asks for the same coalitions again and again: batches of so many entries are kept, and no larger ones.
KEPT_ENTRIES = 2**15


@lru_cache(maxsize=4)
def every_coalition(players: int) -> Coalitions:
    """Return all coalitions, ``(2^players, players)``, read-only: the empty one first, the full one last."""
    number = np.arange(2**players)
    found: Coalitions = (number[:, None] >> np.arange(players)) & 1 == 1
    found.setflags(write=False)
    return found


def check_enumerable(players: int, method: str) -> None:
    """Refuse to enumerate too many.

    Raises:
        ParameterError: more than 16 players.
    """
    if players > MOST_ENUMERATED:
        raise ParameterError(
            f"parameter 'players': {method} takes at most {MOST_ENUMERATED} players, got {players}: "
            "make them fewer (players='band', band_size), or take kernel_shap"
        )


@dataclass(frozen=True)
class KernelPlan:
    """Which coalitions are enumerated, and how the others are drawn.

    Coalitions of one player, and of all but one, are always enumerated: with them no least squares are singular. So
    are other sizes, from the outside in, where there are no more of them than draws they would get.

    Attributes:
        players: how many there are.
        enumerated: these coalitions once each, with their weights under the kernel.
        weights: ``(enumerated,)``.
        sizes: of the coalitions that are drawn; empty where all are enumerated.
        share: the weight of all that is drawn; with ``weights`` it sums to 1.
        batches: how many draws there are in each batch: pairs where they are paired.
        paired: whether each draw comes with its complement.
    """

    players: int
    enumerated: Coalitions
    weights: Float64Array
    sizes: npt.NDArray[np.int64]
    share: float
    batches: tuple[int, ...]
    paired: bool

    def is_enough(self, batches: int) -> bool:
        """Say whether so many batches tell how far they are off: with fewer rows than these, they look too sure."""
        drawn = sum(self.batches[:batches]) * (2 if self.paired else 1)
        return batches > 1 and len(self.enumerated) + drawn >= 4 * self.players

    def draw(self, seed: int, batch: int) -> Coalitions:
        """Return the coalitions of one batch, read-only: their sizes by the kernel, who is in them evenly."""
        count = self.batches[batch]
        make = _drawn if count * self.players <= KEPT_ENTRIES else _drawn.__wrapped__
        return make(self.players, tuple(self.sizes.tolist()), count, self.paired, seed, batch)


@lru_cache(maxsize=4 * BATCHES)
def _drawn(players: int, sizes: tuple[int, ...], count: int, paired: bool, seed: int, batch: int) -> Coalitions:
    random, open_ = plugin.generator(seed, "coalitions", batch), np.array(sizes, np.int64)
    mass = 1.0 / (open_ * (players - open_))
    chosen = random.choice(open_, size=count, p=mass / mass.sum())
    keys = random.random((count, players))
    found: Coalitions = keys <= np.take_along_axis(np.sort(keys, axis=1), chosen[:, None] - 1, axis=1)
    if paired:
        found = np.concatenate([found, ~found])
    found.setflags(write=False)  # later requests get them too
    return found


def kernel_plan(players: int, budget: int, *, paired: bool) -> KernelPlan:
    """Plan how a budget of coalitions is spent; the empty and the full one are not counted.

    Raises:
        ParameterError: a budget too small for least squares that say how sure they are.
    """
    every = 2**players - 2
    least = min(4 * players, every)
    if budget < least:
        raise ParameterError(f"parameter 'budget': expected at least {least} for {players} players, got {budget}")
    half = range(1, players // 2 + 1)
    mass = {size: (1 if 2 * size == players else 2) / (size * (players - size)) for size in half}
    total, left, taken = sum(mass.values()), budget, []
    for size in half:
        count = comb(players, size) * (1 if 2 * size == players else 2)
        others = sum(mass[s] for s in half if s >= size)
        if budget < every and size > 1 and (count > left * mass[size] / others or left - count < 2 * BATCHES):
            break
        taken.append(size)
        left -= count
    rest = [size for size in half if size not in taken]
    sizes = sorted({*rest, *(players - size for size in rest)})
    enumerated = np.concatenate([_of_size(players, size) for size in taken] or [np.zeros((0, players), bool)])
    inside = enumerated.sum(axis=1)
    weights = np.array([1.0 / (s * (players - s) * comb(players, int(s))) for s in inside]) / (total or 1.0)
    draws = (left // 2 if paired else left) if sizes else 0
    runs = [run.stop - run.start for run in plugin.even_runs(draws, -(-draws // min(BATCHES, draws)))] if draws else []
    share = sum(mass[size] for size in rest) / (total or 1.0)
    return KernelPlan(players, enumerated, weights, np.array(sizes, np.int64), share, tuple(runs), paired)


def _of_size(players: int, size: int) -> Coalitions:
    """Return all coalitions of a size, and their complements."""
    count = comb(players, size)
    members = np.fromiter((i for each in combinations(range(players), size) for i in each), np.int64, count * size)
    found = np.zeros((count, players), bool)
    found[np.repeat(np.arange(count), size), members] = True
    return found if 2 * size == players else np.concatenate([found, ~found])


def permutations(players: int, count: int, seed: int, number: int) -> npt.NDArray[np.int64]:
    """Return the place of each player in random orders, ``(count, players)``."""
    random = plugin.generator(seed, "permutations", number)
    return random.random((count, players)).argsort(axis=1).argsort(axis=1)


def neighbours(players: int) -> Iterator[list[int]]:
    """Yield orders in which all pairs of players are neighbours equally often: once, or twice for an odd number.

    Source: Walecki's decomposition of the complete graph into paths (Lucas 1883): 0, 1, −1, 2, −2, … and its turns.
    """
    zigzag = [(step + 1) // 2 * (1 if step % 2 else -1) for step in range(players)]
    for turn in range(players if players % 2 else players // 2):
        yield [(turn + step) % players for step in zigzag]
