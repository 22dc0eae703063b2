"""TIMING: against a replica that walks through points, masks and cells one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.linear import write_linear
from tonescope_server import Explainer, plugin
from tonescope_server.errors import ParameterError

METHOD = "timing"
TOLERANCE = 2e-4


def close(got, want, tolerance=TOLERANCE):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def stretches(oracle, n, segments, shortest, longest, seed):
    """Yield for each point which cells stay as they are: bool, of the input's shape."""
    frames = int(oracle.model.cells.frame_of_cell.max()) + 1
    for point in range(n):
        drawn = plugin.generator(seed, "segments", point)
        tones, starts = drawn.integers(oracle.n_tones, size=segments), drawn.integers(frames, size=segments)
        lengths = drawn.integers(shortest, (longest or frames) + 1, size=segments)
        kept = np.zeros(oracle.tone_of_cell.size, bool)
        for cell, (tone, frame) in enumerate(zip(oracle.tone_of_cell, oracle.model.cells.frame_of_cell, strict=True)):
            kept[cell] = any(
                tone == k and begin <= frame < begin + length
                for k, begin, length in zip(tones, starts, lengths, strict=True)
            )
        yield kept.reshape(oracle.x.shape[1:])


def replica(oracle, baseline, n, segments, shortest=1, longest=0, seed=0, index=1):
    """Return cells, and for each point what it adds per tone: (n, batch, tones)."""
    x = oracle.x.astype(np.float64)
    order = plugin.generator(seed, "path", 0).permutation(n)
    kept = list(stretches(oracle, n, segments, shortest, longest, seed))
    counts = n - np.sum(kept, axis=0)
    each = []
    for place, stays in zip(order, kept, strict=True):
        alpha = (place + 0.5) / n
        point = np.where(stays, x, baseline + alpha * (x - baseline))
        each.append(np.where(stays, 0.0, (x - baseline) * oracle.gradient(oracle.element(index), point)))
    weighted = [oracle.fold(one * n / np.maximum(counts, 1)) for one in each]
    return np.sum(each, axis=0) / np.maximum(counts, 1), np.array(weighted)


@pytest.mark.parametrize(("name", "segments", "shortest", "longest"), [("scrambled", 6, 2, 4), ("mlp", 3, 1, 0)])
def test_it_is_the_mean_over_the_points_that_leave_a_cell_free(oracles, name, segments, shortest, longest):
    oracle, n = oracles[name], 12
    want, each = replica(oracle, 0.3, n, segments, shortest, longest)
    options = {"n": n, "segments": segments, "min_frames": shortest, "max_frames": longest, "baseline": 0.3}
    found = oracle.explainer.explain(oracle.x, METHOD, 1, **options)
    close(found.cells, want)
    close(found.tones, oracle.fold(want))
    close(found.standard_error, each.std(axis=0, ddof=1) / np.sqrt(n), 1e-3)
    moved = oracle.output(oracle.x)[:, 1] - oracle.output(np.full_like(oracle.x, 0.3))[:, 1]
    close(found.convergence_delta, want.reshape(5, -1).sum(axis=1) - moved, 1e-3)


def test_all_parts_of_a_tone_stay_together(oracles):
    """I and Q of both links of a tone are kept in the same frames."""
    oracle = oracles["complex"]
    cells = oracle.model.cells
    for stays in stretches(oracle, 5, 20, 1, 0, 0):
        kept = {}
        for flag, tone, frame in zip(stays.ravel(), cells.tone_of_cell, cells.frame_of_cell, strict=True):
            kept.setdefault((tone, frame), set()).add(bool(flag))
        assert all(len(flags) == 1 for flags in kept.values())
    want, _ = replica(oracle, 0.0, 4, 20)
    close(oracle.explainer.explain(oracle.x, METHOD, 1, n=4, segments=20, baseline=0.0).cells, want)


def test_of_a_linear_model_it_is_the_weights_times_the_distance_from_the_baseline(tmp_path):
    weights = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    store = write_linear(tmp_path / "s" / "m", weights, '[input]\ncell_order = "tone_frame"\n')
    explainer = Explainer.load(store / "m")
    x = np.random.default_rng(3).standard_normal((3, 6, 5)).astype(np.float32)
    found = explainer.explain(x, METHOD, baseline=0.5)
    np.testing.assert_allclose(found.cells, weights * (x - 0.5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.convergence_delta, 0, atol=1e-4)


def test_a_cell_that_no_point_leaves_free_gets_nothing(oracles):
    oracle = oracles["scrambled"]
    found = oracle.explainer.explain(oracle.x, METHOD, 1, n=2, segments=2000, min_frames=5)
    np.testing.assert_array_equal(found.cells, 0)
    assert np.isfinite(found.standard_error).all()


def test_it_gets_better_run_by_run(oracles):
    oracle = oracles["mlp"]
    parameters = {"n": 128, "segments": 3}
    steps = [found for found, _ in oracle.explainer.prepare(METHOD, 1, parameters).progress(oracle.x[:1])]
    assert [step.batches for step in steps] == [32, 64, 96, 128]
    want = oracle.explainer.explain(oracle.x[:1], METHOD, 1, **parameters)
    assert steps[-1].cells.tobytes() == want.cells.tobytes()
    for step in steps[:-1]:
        assert (np.abs(step.tones - want.tones) <= 5 * step.standard_error).all()


def test_another_seed_draws_other_stretches(oracles):
    oracle = oracles["scrambled"]
    one, other, again = (oracle.explainer.explain(oracle.x, METHOD, 1, seed=seed).cells for seed in (0, 1, 0))
    assert one.tobytes() == again.tobytes()
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


@pytest.mark.parametrize("options", [{"min_frames": 6}, {"min_frames": 3, "max_frames": 2}])
def test_a_shortest_stretch_above_the_longest_is_refused(oracles, options):
    with pytest.raises(ParameterError, match="'min_frames': expected at most"):
        oracles["scrambled"].explainer.explain(oracles["scrambled"].x, METHOD, **options)
