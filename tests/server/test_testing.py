"""The conformance check, seen to catch: each method here breaks one rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pydantic import BaseModel, Field

from tonescope_server import plugin
from tonescope_server.errors import MethodNotApplicableError
from tonescope_server.testing import ConformanceError, check_method, tiny_models, tiny_windows


class Good(plugin.ProceduralMethod):
    """Hides one cell at a time: right, and plain enough to break in every way."""

    name = "good"
    summary = "What the target loses without each cell."

    def attribute(self, model, windows, parameters):
        x = windows.x
        flat = x.reshape(len(x), -1)
        everyone = np.arange(len(x))
        intact = model.score(x, everyone)
        cells = np.zeros_like(flat)
        for i in range(min(flat.shape[1], 40)):
            hidden = flat.copy()
            hidden[:, i] = 0
            cells[:, i] = intact - model.score(hidden.reshape(x.shape), everyone)
        return self.estimate(cells.reshape(x.shape), windows)

    def estimate(self, cells, windows):
        return plugin.Estimate(cells)


class Gradient(plugin.GraphMethod):
    name = "gradient"
    summary = "The gradient."

    def describe(self, tape, parameters):
        tape.result("cells", tape.evaluate().gradient)


def folded(cells, windows):
    one_hot = np.eye(windows.n_tones, dtype=np.float32)[windows.tone_of_cell]
    return cells.reshape(len(cells), -1) @ one_hot


def procedure(change):
    """Make a method that is good but for what ``change(cells, windows)`` does to its estimate."""
    return type("Broken", (Good,), {"estimate": lambda self, cells, windows: change(cells, windows)})()


class WithParameter(Gradient):
    """Scales the gradient, and forgets to say that the factor is part of the graph."""

    class Parameters(plugin.Parameters):
        factor: float = Field(2.0, description="What the gradient is multiplied by.")

    def describe(self, tape, parameters):
        tape.result("cells", tape.evaluate().gradient * parameters.factor)


class CalledComplete(plugin.GraphMethod):
    """Input x gradient, which is complete on linear models only."""

    name = "called_complete"
    summary = "Input x gradient."
    complete = True

    def describe(self, tape, parameters):
        tape.result("cells", tape.x * tape.evaluate().gradient)

    def finish(self, totals, windows, parameters):
        return plugin.Estimate(totals["cells"], convergence_delta=np.zeros(len(windows.x), np.float32))


class CompleteWithoutDelta(CalledComplete):
    def finish(self, totals, windows, parameters):
        return plugin.Estimate(totals["cells"])


class Mutating(Good):
    def attribute(self, model, windows, parameters):
        windows.x.flags.writeable = True
        windows.x[:] = np.abs(windows.x)
        return super().attribute(model, windows, parameters)


class CentredOnTheBatch(Good):
    """A classic: a statistic taken over the batch."""

    def attribute(self, model, windows, parameters):
        found = super().attribute(model, windows, parameters)
        return plugin.Estimate(found.cells - found.cells.mean(axis=0))


class Random(Good):
    counter = itertools.count()

    def estimate(self, cells, windows):
        noise = np.random.default_rng(next(self.counter)).standard_normal((1, *cells.shape[1:]))
        return plugin.Estimate((cells + 1e-7 * noise).astype(np.float32))


class AnchoredElsewhere(plugin.GraphMethod):
    """Reads predictions at the first point of its path, which is not the window."""

    name = "anchored_elsewhere"
    summary = "The gradient at the window, by way of a path."

    def describe(self, tape, parameters):
        ones = (1,) * len(tape.x.shape)
        alphas, weights = tape.feed_var("alphas", (-1, *ones)), tape.feed_var("shares", (-1, *ones))
        found = tape.evaluate_path(tape.x.unsqueeze(0) * alphas, anchor=0)
        tape.result("cells", (found.gradient * weights).sum(0))

    def feeds(self, windows, parameters):
        shape = (1, 2, *[1] * (windows.x.ndim - 1))
        points = np.array([0, 1], np.float32).reshape(shape)
        yield {"alphas": points, "shares": points}

    def points(self, parameters):
        return 2


class NoDescription(Gradient):
    class Parameters(plugin.Parameters):
        factor: float = 1.0


class NoDefault(Gradient):
    class Parameters(plugin.Parameters):
        factor: float = Field(description="What it is multiplied by.")


class DefaultOutOfRange(Gradient):
    class Parameters(plugin.Parameters):
        factor: float = Field(-1.0, ge=0, description="What it is multiplied by.")


class AcceptsAnything(Gradient):
    class Parameters(plugin.Parameters, extra="ignore"):
        factor: float = Field(1.0, description="What it is multiplied by.")


class Thawed(Gradient):
    class Parameters(plugin.Parameters, frozen=False):
        factor: float = Field(1.0, description="What it is multiplied by.")


class NotOurParameters(Gradient):
    class Parameters(BaseModel):
        factor: float = 1.0


class NoName(Gradient):
    name = "My Method"


class LongSummary(Gradient):
    summary = "Two\nlines."


class OddRequirement(Gradient):
    requirement = "luck"


class StopsShort(Good):
    """Refines, and never gets to its answer."""

    def refine(self, model, windows, parameters):
        found = self.attribute(model, windows, parameters)
        yield plugin.Estimate(found.cells / 2)


class SureOfOneSample(Good):
    """Samples, and does not say of its first estimate that it is one sample."""

    def attribute(self, model, windows, parameters):
        *_, last = self.refine(model, windows, parameters)
        return last

    def refine(self, model, windows, parameters):
        found = super().attribute(model, windows, parameters)
        yield found
        yield plugin.Estimate(found.cells, standard_error=folded(found.cells, windows) * 0, batches=2)


class NeverApplies(Good):
    def attribute(self, model, windows, parameters):
        raise MethodNotApplicableError("not this one either")


class Raises(Good):
    def attribute(self, model, windows, parameters):
        raise RuntimeError("boom")


BROKEN = {
    "statements: expected a GraphMethod": object(),
    "statements: expected a name in lower case": NoName(),
    "statements: expected a summary of one line": LongSummary(),
    "statements: expected 'requirement'": OddRequirement(),
    "statements: expected 'Parameters' to be a subclass": NotOurParameters(),
    "parameters: 'factor' has no description": NoDescription(),
    "parameters: every parameter needs a default": NoDefault(),
    "parameters: the defaults": DefaultOutOfRange(),
    "parameters: an unknown parameter is accepted": AcceptsAnything(),
    "parameters: parameters can be changed": Thawed(),
    "runs: on conv_1d: method 'good' failed: RuntimeError: boom": Raises(),
    "runs: it can explain none of conv_1d": NeverApplies(),
    "input: on conv_1d: the windows it was given have changed": Mutating(),
    "shapes: on conv_1d: expected cells of float32": procedure(
        lambda cells, windows: plugin.Estimate(cells.astype(np.float64))
    ),
    "runs: on conv_1d: method 'good': expected units of shape": procedure(
        lambda cells, windows: plugin.Estimate(cells, units=np.zeros((1, 3), np.float32))
    ),
    "runs: on conv_1d: method 'good': expected standard_error of shape": procedure(
        lambda cells, windows: plugin.Estimate(cells, standard_error=np.zeros((len(cells), 1), np.float32))
    ),
    "runs: on conv_1d: method 'good': expected cells of shape": procedure(
        lambda cells, windows: plugin.Estimate(cells.reshape(len(cells), -1))
    ),
    "runs: on conv_1d: method 'good': cells of window": procedure(
        lambda cells, windows: plugin.Estimate(np.where(cells == cells.max(), np.float32(np.nan), cells))
    ),
    "raw: on conv_1d: the maximum of |cells|": procedure(
        lambda cells, windows: (
            plugin.Estimate(cells / np.abs(cells).reshape(len(cells), -1).max(axis=1)[:, None, None])
            if cells.ndim == 3
            else plugin.Estimate(cells)
        )
    ),
    "raw: on mlp: the sum of |tones|": procedure(
        lambda cells, windows: plugin.Estimate(
            None, folded(cells, windows) / np.abs(folded(cells, windows)).sum(1)[:, None]
        )
    ),
    "folding: on scrambled: tones": procedure(
        # Folded by the declared shape, not by the order of cells.
        lambda cells, windows: plugin.Estimate(cells, cells.reshape(len(cells), windows.n_tones, -1).sum(2))
    ),
    "batch: on mlp: cells of window": CentredOnTheBatch(),
    "determinism: on mlp: cells differ when asked again": Random(),
    "memory: on mlp: cells with {'factor': 3.0} depend on what was asked before": WithParameter(),
    "progress: on conv_1d: cells of the last estimate are not": StopsShort(),
    "progress: on conv_1d: an estimate has no standard error yet": SureOfOneSample(),
    "prediction: on scrambled: the prediction it reports": AnchoredElsewhere(),
    "completeness: on conv_1d: its convergence delta is": CalledComplete(),
    "completeness: on mlp: its cells sum to": CalledComplete(),
    "completeness: on mlp: it is called complete": CompleteWithoutDelta(),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_method_is_caught(fault):
    with pytest.raises(ConformanceError) as caught:
        check_method(BROKEN[fault])
    assert any(found.startswith(fault) for found in caught.value.faults), caught.value


@pytest.mark.parametrize("method", [Good(), Gradient()])
def test_a_plain_method_passes(method):
    check_method(method)


def test_every_fault_is_listed_in_one_error():
    class Two(Gradient):
        name = "Two Names"
        summary = ""

    with pytest.raises(ConformanceError, match="breaks 2 rules") as caught:
        check_method(Two())
    assert len(caught.value.faults) == 2


def test_parameters_may_be_given_to_make_a_method_cheap():
    class Dear(Gradient):
        class Parameters(plugin.Parameters):
            effort: str = Field("great", description="How hard it tries.")

        def describe(self, tape, parameters):
            assert parameters.effort == "small"
            super().describe(tape, parameters)

    with pytest.raises(ConformanceError, match="AssertionError"):
        check_method(Dear())
    check_method(Dear(), {"effort": "small"})


def test_tiny_models_are_of_the_kinds_that_are_served():
    models = tiny_models()
    orders = {"tone_frame", "frame_tone", "feature", "link_frame_component_tone"}
    assert {m.manifest.input.cell_order for m in models.values()} == orders
    assert {len(m.input.shape) for m in models.values()} == {2, 3, 4, 5}
    assert models["complex"].cells.has_parts
    assert not models["scrambled"].cells.rows_are_tones
    assert models["conv_1d"].table.knows_nulls
    for model in models.values():
        assert tiny_windows(model).shape[1:] == model.input.shape[1:]


def test_tiny_models_and_windows_are_the_same_every_time():
    again = tiny_models.__wrapped__()
    assert {n: m.digest for n, m in again.items()} == {n: m.digest for n, m in tiny_models().items()}
    model = again["mlp"]
    assert tiny_windows(model).tobytes() == tiny_windows(model).tobytes()
    assert tiny_windows(model, seed=2).tobytes() != tiny_windows(model).tobytes()
