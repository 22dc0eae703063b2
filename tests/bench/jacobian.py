"""(f) Jacobians: several targets from one forward pass, against one gradient for each."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests import families
from tests.bench.gradients import Subject
from tests.bench.measure import Row, Section, local, medians, microseconds, one_core

NETWORKS = ("CountNet", "ResNet", "Transformer", "depthwise", "LSTM", "GRU")
TARGETS = 8
ROUNDS, TIMES = 9, {1: 10, 32: 2}
# A forward pass and eight backward ones; the backward pass of a network takes about twice the forward's time.
AIM = 0.75


@one_core()
def measure() -> Section:
    """Time each network at each batch."""
    with tempfile.TemporaryDirectory() as made:
        subjects = [Subject(name, Path(made)) for name in NETWORKS]
        rows = [_row(subject, batch) for subject in subjects for batch in TIMES]
    return Section(rows, _NOTES)


def _row(subject: Subject, batch: int) -> Row:
    explainer, x = subject.explainer, subject.x[:batch]
    targets = [number % families.CLASSES for number in range(TARGETS)]
    found, each = explainer.jacobian(x, targets), np.stack([explainer.gradient(x, target) for target in targets])
    assert np.abs(found - each).max() <= 1e-5 * np.abs(each).max()  # else two different things would be timed
    seconds = medians(
        {
            "jacobian": local(lambda: explainer.jacobian(x, targets)),
            "gradients": local(lambda: [explainer.gradient(x, target) for target in targets]),
        },
        rounds=ROUNDS,
        times=TIMES[batch],
    )
    ratio = seconds["jacobian"] / seconds["gradients"]
    return Row(
        f"(f) {subject.name}, {TARGETS} targets, batch {batch}",
        microseconds(seconds["jacobian"]),
        f"{TARGETS} gradients {microseconds(seconds['gradients'])}",
        f"{ratio:.2f}",
        f"≤ {AIM:g}",
        ratio <= AIM,
    )


_NOTES = (
    f"`Explainer.jacobian` of {TARGETS} targets against `Explainer.gradient` called {TARGETS} times, on the networks "
    "of (e), everything in between included. One or two windows fold the targets into the batch of one backward pass; "
    "more take one backward pass for each target, in a graph that holds the forward pass once."
)
