"""Metrics that Quantus defines too, on the same network and the same attributions. Skipped where none has Quantus.

Its infidelity removes patches one on top of the other and weighs attributions with the window's own values, and its
parameter randomisation needs a model of torch's or Keras's: these are not compared. Its completeness is yes or no.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.peers.quantus_metrics import FRAMES, SUBSET, TONES, explain, network
from tonescope_plugins.metrics.concentration import Complexity, Sparseness
from tonescope_plugins.metrics.faithfulness_correlation import FaithfulnessCorrelation
from tonescope_plugins.metrics.flipping import MOST, Deletion
from tonescope_plugins.metrics.max_sensitivity import MaxSensitivity
from tonescope_plugins.metrics.planted_truth import PointingGame, RelevanceAuc, RelevanceMass, RelevanceRankAccuracy
from tonescope_server.plugin import Judged

ROOT = Path(__file__).resolve().parents[2]
NEEDED = "import importlib.util as u, sys; sys.exit(u.find_spec('quantus') is None)"
N, CELLS, NOISY = 5, TONES * FRAMES, 7


def interpreter():
    """Return an interpreter that has Quantus, or None."""
    named = os.environ.get("TONESCOPE_QUANTUS_PYTHON")
    found = [Path(named)] if named else [Path(sys.executable), ROOT / ".venv-bench" / "bin" / "python"]
    has = (p for p in found if p.exists() and subprocess.run([p, "-c", NEEDED], check=False).returncode == 0)
    return next(has, None)


def judged(attribution, seen=None):
    def attribute(points, window):
        if seen is not None:
            seen.append(points)
        return explain(points)

    x = np.random.default_rng(2).standard_normal((N, TONES, FRAMES))
    return Judged(
        x=x,
        attribution=attribution,
        elsewhere=np.zeros(N),
        feature_of_cell=np.arange(CELLS),
        baseline=np.zeros((1, TONES, FRAMES)),
        seed=1,
        score=lambda points, window: network(points)[:, 0],
        attribute=attribute,
        randomised=lambda order, most, draw: iter(()),
        planted=np.arange(CELLS) % 5 == 0,
    )


ATTRIBUTION = np.random.default_rng(8).standard_normal((N, CELLS))
SUBJECT = judged(ATTRIBUTION)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    python = interpreter()
    if python is None:
        pytest.skip("needs Quantus: no interpreter has it (pip install 'tonescope[crosscheck]', or its path in "
                    "TONESCOPE_QUANTUS_PYTHON)")  # fmt: skip
    seen = []
    MaxSensitivity().measure(judged(explain(SUBJECT.x), seen), MaxSensitivity.Parameters(n=NOISY, radius=0.1))
    folder = tmp_path_factory.mktemp("quantus")
    cases, out = folder / "cases.npz", folder / "out.npz"
    np.savez(cases, x=SUBJECT.x, attribution=ATTRIBUTION, planted=SUBJECT.planted, noisy=np.stack(seen))
    command = [python, Path(__file__).with_name("quantus_metrics.py"), cases, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)


@pytest.mark.parametrize(
    "metric",
    [Complexity(), RelevanceMass(), RelevanceRankAccuracy(), RelevanceAuc(), PointingGame()],
    ids=lambda metric: metric.name,
)
def test_quantus_says_the_same(theirs, metric):
    ours = metric.measure(SUBJECT, metric.Parameters()).values
    np.testing.assert_allclose(ours, theirs[metric.name], rtol=1e-9, atol=1e-9)
    assert metric.name == "pointing_game" or np.ptp(ours) > 0


def test_quantus_says_the_same_of_sparseness(theirs):
    # It adds 1e-7 to every value of about 1.
    np.testing.assert_allclose(Sparseness().measure(SUBJECT, None).values, theirs["sparseness"], rtol=1e-6)


def test_quantus_flips_in_the_same_order_with_the_same_result(theirs):
    curve = Deletion().measure(SUBJECT, Deletion.Parameters()).curves[MOST]
    np.testing.assert_allclose(curve[:, 1:], theirs["flipping"], rtol=1e-12, atol=1e-12)  # it leaves the intact one out


def test_quantus_has_the_same_max_sensitivity_of_the_same_noisy_windows(theirs):
    subject = judged(explain(SUBJECT.x))
    ours = MaxSensitivity().measure(subject, MaxSensitivity.Parameters(n=NOISY, radius=0.1)).values
    np.testing.assert_allclose(ours, theirs["max_sensitivity"], rtol=1e-9)


def test_quantus_has_the_same_faithfulness_correlation_but_for_the_draws(theirs):
    parameters = FaithfulnessCorrelation.Parameters(n=4000, share=SUBSET / CELLS)
    ours = FaithfulnessCorrelation().measure(SUBJECT, parameters).values
    # Both draw 4,000 sets: each is known to 1/√4000 = 0.016, and their difference to 0.022; this is four times that.
    np.testing.assert_allclose(ours, theirs["faithfulness_correlation"], atol=0.09)
    assert np.ptp(ours) > 0.3
