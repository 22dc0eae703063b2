"""Methods that get better with time, whose right answer is known: what the tests of progressive explanations run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import Field

from tonescope_server import plugin
from tonescope_server.plugin.host import PluginHost
from tonescope_server.types import FloatArray


class Samples(plugin.Parameters):
    """How much of it there is."""

    samples: int = Field(64, ge=0, description="Samples to take; zero means no end.")
    spread: float = Field(0.5, ge=0, description="Standard deviation of a sample's factor.")
    points: int = Field(1, ge=1, description="Model evaluations that a sample costs.")


def factors(parameters: Samples) -> Iterator[float]:
    """Yield random factors of mean 1, the same in every call."""
    generator, taken = np.random.default_rng(3), 0
    while not parameters.samples or taken < parameters.samples:
        yield float(1 + parameters.spread * generator.standard_normal())
        taken += 1


def error_of(total: FloatArray, squares: FloatArray, count: int) -> FloatArray | None:
    """Return the standard error of a mean; None of one sample."""
    if count < 2:
        return None
    variance = np.maximum(squares - total**2 / count, 0) / (count - 1)
    error: FloatArray = np.sqrt(variance / count).astype(np.float32)
    return error


class ScaledInOneGraph(plugin.GraphMethod):
    """The mean of the gradient times random factors: a run each."""

    name = "scaled_graph"
    summary = "The gradient, times factors of mean 1."
    Parameters = Samples

    def describe(self, tape: Any, parameters: Any) -> None:
        """Scale the gradient by a factor that is fed."""
        factor = tape.feed_var("factor", (1,) * len(tape.x.shape))
        cells = tape.evaluate().gradient * factor
        tones = tape.sum_over_tones(cells)
        tape.result("cells", cells)
        tape.result("tones", tones)
        tape.result("squares", tones * tones)
        tape.result("count", factor * 0.0 + 1.0)

    def feeds(self, windows: plugin.Windows, parameters: Any) -> Any:
        """Feed one factor after another."""
        for factor in factors(parameters):
            yield {"factor": np.full((1,) * windows.x.ndim, factor, np.float32)}

    def finish(self, totals: Any, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Take the means."""
        count = round(totals["count"].item())
        error = error_of(totals["tones"], totals["squares"], count)
        return plugin.Estimate(totals["cells"] / count, standard_error=error, batches=count)

    def progress(self, totals: Any, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Take the means so far."""
        return self.finish(totals, windows, parameters)


class ScaledByCalls(plugin.ProceduralMethod):
    """The same, asked for sample by sample; it shows the last factor, and attributes the two halves of the window."""

    name = "scaled_calls"
    summary = "The gradient, times factors of mean 1, by calls."
    requirement = plugin.Requirement.GRADIENTS
    Parameters = Samples

    def attribute(self, model: Any, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Return the last refinement."""
        *_, last = self.refine(model, windows, parameters)
        return last

    def refine(self, model: Any, windows: plugin.Windows, parameters: Any) -> Iterator[plugin.Estimate]:
        """Yield the means after each sample."""
        batch, count = len(windows.x), 0
        window = np.repeat(np.arange(batch), parameters.points)
        total = squares = np.zeros((batch, windows.n_tones), np.float32)
        cells = np.zeros_like(windows.x)
        for factor in factors(parameters):
            gradient = model.gradient(np.repeat(windows.x, parameters.points, axis=0), window)
            sample = gradient[:: parameters.points] * np.float32(factor)
            tones = np.stack([np.bincount(windows.tone_of_cell, each.ravel(), windows.n_tones) for each in sample])
            cells, total, squares, count = cells + sample, total + tones, squares + tones**2, count + 1
            error = error_of(total, squares, count)
            found = cells / count
            halves = np.stack([half.reshape(batch, -1).sum(axis=1) for half in np.array_split(found, 2, axis=1)], 1)
            shown = {"factor": np.full((batch, 1), factor, np.float32)}
            yield plugin.Estimate(found, units=halves, standard_error=error, batches=count, maps=shown)


class NestedTrapezoid(plugin.ProceduralMethod):
    """Integrated gradients from zero, by the trapezoid rule at twice as many intervals each time."""

    name = "nested_trapezoid"
    summary = "Integrated gradients that get better."
    requirement = plugin.Requirement.GRADIENTS
    complete = True

    class Parameters(plugin.Parameters):
        """How far to go."""

        levels: int = Field(8, ge=1, description="Doublings.")

    def attribute(self, model: Any, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Return the last refinement."""
        *_, last = self.refine(model, windows, parameters)
        return last

    def refine(self, model: Any, windows: plugin.Windows, parameters: Any) -> Iterator[plugin.Estimate]:
        """Yield the integral at 1, 2, 4, … intervals; nodes are used again."""
        x, window = windows.x, np.arange(len(windows.x))
        change = model.score(x, window) - model.score(np.zeros_like(x), window)
        mean = (model.gradient(np.zeros_like(x), window) + model.gradient(x, window)) / 2
        for level in range(parameters.levels):
            if level:
                n = 2 ** (level - 1)
                middles = [model.gradient(x * np.float32((k + 0.5) / n), window) for k in range(n)]
                mean = mean / 2 + np.sum(middles, axis=0) / (2 * n)
            cells = (x * mean).astype(np.float32)
            yield plugin.Estimate(cells, convergence_delta=cells.reshape(len(x), -1).sum(axis=1) - change)


METHODS = (ScaledInOneGraph(), ScaledByCalls(), NestedTrapezoid())


def anytime_host() -> PluginHost:
    """Return the installed plugins, and these methods."""
    host = PluginHost.load()
    for method in METHODS:
        host.methods[method.name] = method
        host._origins["methods", method.name] = host.origin("methods", "occlusion")
    return host
