"""Shares of an attribution's absolute values."""

from __future__ import annotations

import numpy as np

from tonescope_server.plugin.metric import Float64Array


def shares(attribution: Float64Array) -> Float64Array:
    """Return |φ| / Σ|φ| row by row; even shares where a row is zero: it says nothing of where."""
    size = np.abs(attribution)
    largest = size.max(axis=1, keepdims=True)
    size = np.where(largest > 0, size / np.where(largest > 0, largest, 1.0), 1.0)  # first, so that no sum overflows
    return np.asarray(size / size.sum(axis=1, keepdims=True))


def entropy(attribution: Float64Array) -> Float64Array:
    """Return the Shannon entropy of the shares, in nats: ln of the number of features for a row of zeros."""
    share = shares(attribution)
    return np.asarray(-(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1))
