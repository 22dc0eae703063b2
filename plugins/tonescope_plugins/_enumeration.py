"""Shapley values and interactions from the values of all coalitions, each a few products of matrices."""

from __future__ import annotations

from math import factorial

import numpy as np

from tonescope_plugins._coalitions import every_coalition
from tonescope_plugins._game import Float64Array


def shapley_values(values: Float64Array, players: int) -> Float64Array:
    """Return each player's share: ``(batch, 2^players)`` → ``(batch, players)``.

    A coalition counts for those in it by p(s − 1), and against the others by p(s), where s is its size and
    p(s) = s! (M − s − 1)! / M!.
    """
    coalitions = every_coalition(players).astype(np.float64)
    sizes = every_coalition(players).sum(axis=1)
    p = _weights(players, players)
    against, both = p[sizes + 1], p[sizes] + p[sizes + 1]
    centred = values - values[:, :1]  # the empty coalition's value counts for nothing: what is large cancels here
    shares: Float64Array = (centred * both) @ coalitions - (centred @ against)[:, None]
    return shares


def interactions(values: Float64Array, players: int) -> Float64Array:
    """Return the Shapley interaction index of each pair: ``(batch, 2^players)`` → ``(batch, players, players)``.

    A coalition counts for a pair by q(s − 2) with both in it, by q(s) with none, and against it by q(s − 1) with one,
    where q(s) = s! (M − s − 2)! / (M − 1)!; the diagonal is zero.
    """
    if players == 1:
        return np.zeros((len(values), 1, 1))
    coalitions = every_coalition(players).astype(np.float64)
    sizes = every_coalition(players).sum(axis=1)
    q = _weights(players, players - 1)
    none, one, both = q[sizes + 2], q[sizes + 1], q[sizes]
    centred = values - values[:, :1]
    single = (centred * (none + one)) @ coalitions
    found = np.empty((len(values), players, players))
    for row, weighted in enumerate(centred * (both + none + 2 * one)):
        found[row] = coalitions.T @ (weighted[:, None] * coalitions)
    found += (centred @ none)[:, None, None] - single[:, :, None] - single[:, None, :]
    found[:, np.arange(players), np.arange(players)] = 0.0
    return found


def _weights(players: int, among: int) -> Float64Array:
    """Return s! (among − s − 1)! / among! for s from −2 to ``players``, at index s + players − among + 1; else 0."""
    shift = players - among + 1
    found = np.zeros(players + 3)
    for size in range(among):
        found[size + shift] = factorial(size) * factorial(among - size - 1) / factorial(among)
    return found
