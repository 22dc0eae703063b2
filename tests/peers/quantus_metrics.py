"""Metrics of Quantus on cases in a file: ``python quantus_metrics.py cases.npz out.npz``, where Quantus is installed.

The network is written out here, in NumPy, so that both sides judge the same one; nothing of Quantus is imported before
it is asked for.
"""

from __future__ import annotations

import sys

import numpy as np

TONES, FRAMES = 6, 4
SUBSET, RUNS = 6, 4000


def network(points):
    """Two scores of windows ``(n, TONES, FRAMES)``, smooth and not linear."""
    draws = np.random.default_rng(11)
    flat = points.reshape(len(points), -1)
    first, second = draws.standard_normal((flat.shape[1], 10)) / 3, draws.standard_normal((10, 2))
    return np.tanh(flat @ first) @ second


def explain(points):
    """Something that changes with the window: (n, TONES × FRAMES)."""
    return np.sin(3 * points.reshape(len(points), -1)) + 0.2


class Network:
    """What Quantus's batches ask of a model."""

    def shape_input(self, x, shape, channel_first=None, batched=False):
        return x

    def predict(self, x):
        return network(x.reshape(len(x), TONES, FRAMES))

    def get_model(self):
        return self


def main(cases, out):
    import quantus

    given = np.load(cases)
    x, a = given["x"][:, None].astype(np.float64), given["attribution"].reshape(-1, 1, TONES, FRAMES)
    truth = np.broadcast_to(given["planted"].reshape(1, 1, TONES, FRAMES), a.shape)
    label = np.zeros(len(x), int)
    plain = {"normalise": False, "disable_warnings": True}
    zero = {"perturb_baseline": 0.0}  # its "black" is each window's smallest value
    flipping = quantus.PixelFlipping(features_in_step=1, perturb_func_kwargs=zero, abs=False, **plain)
    correlation = quantus.FaithfulnessCorrelation(
        nr_runs=RUNS, subset_size=SUBSET, perturb_func_kwargs=zero, abs=False, **plain
    )
    points = iter(given["noisy"])

    def noisy(arr, indices, **_):
        return next(points).reshape(arr.shape)

    sensitivity = quantus.MaxSensitivity(
        nr_samples=len(given["noisy"]), perturb_func=noisy, abs=False, return_nan_when_prediction_changes=False, **plain
    )
    sensitivity.explain_func = lambda model, inputs, targets: explain(inputs).reshape(inputs.shape)
    sensitivity.explain_func_kwargs = {}
    np.random.seed(3)  # it draws from NumPy's own state
    size, places = np.abs(a), {"s_batch": truth}
    found = {
        "flipping": flipping.evaluate_batch(Network(), x, label, a.copy()),
        "faithfulness_correlation": correlation.evaluate_batch(Network(), x, label, a.copy()),
        "max_sensitivity": sensitivity.evaluate_batch(Network(), x, label, explain(x)),
        "sparseness": quantus.Sparseness(**plain).evaluate_batch(x_batch=x, a_batch=size.copy()),
        "complexity": quantus.Complexity(**plain).evaluate_batch(x_batch=x, a_batch=size.copy()),
        "relevance_mass": quantus.RelevanceMassAccuracy(**plain).evaluate_batch(a_batch=size.copy(), **places),
        "relevance_rank_accuracy": quantus.RelevanceRankAccuracy(**plain).evaluate_batch(a_batch=size.copy(), **places),
        "relevance_auc": quantus.AUC(**plain).evaluate_batch(a_batch=size.copy(), **places),
        "pointing_game": quantus.PointingGame(**plain).evaluate_batch(a_batch=size.copy(), **places),
    }
    np.savez(out, **{name: np.asarray(values, np.float64) for name, values in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
