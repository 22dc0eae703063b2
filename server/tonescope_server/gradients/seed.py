"""What is differentiated: the scalar per sample, as a weighted sum of (log-softmaxed) output elements.

Which weights a target means is decided in ``engine``; here is only what shapes the graph.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One term of a seed: ``scale · Σ_j w_j · t_j(output)`` per sample.

    Attributes:
        output: name of the output.
        log_softmax: whether ``t`` is a log-softmax over the flattened output; else the identity.
        predicted: whether ``w`` is one at the largest element of the output and zero elsewhere; else ``w`` is fed at
            run time.
        scale: a constant factor.
    """

    output: str
    log_softmax: bool = False
    predicted: bool = False
    scale: float = 1.0


Seed = tuple[Term, ...]
"""The sum of its terms. Frozen and hashable: it is part of what a compiled plan is cached by."""


def weights_name(index: int) -> str:
    """Name the run-time input that holds the weights of a seed's term, shape ``(batch, elements)``."""
    return f"weights:{index}"
