"""Plugins that go wrong, each in its own way, as a host has them once it has loaded them."""

from __future__ import annotations

import time
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from tonescope_server import plugin
from tonescope_server.plugin.host import PluginHost

NAME = "misbehaving"


class Procedure(plugin.ProceduralMethod):
    summary = "Goes wrong."

    def attribute(self, model: Any, windows: Any, parameters: Any) -> plugin.Estimate:
        return plugin.Estimate(self.cells(model, windows, np.ones_like(windows.x)))

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        return cells


class Raises(Procedure):
    name = "raises"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        raise KeyError("no such\ntone")


class Leaves(Procedure):
    name = "leaves"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        raise SystemExit("goodbye")


class Loops(Procedure):
    """Never comes back, and catches what it can."""

    name = "loops"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        while True:
            try:
                model.score(windows.x, np.arange(len(windows.x)))
                while True:
                    sum(range(100))
            except Exception:  # noqa: BLE001  that is what it does wrong
                pass


class Sleeps(Procedure):
    """Waits where no exception reaches it."""

    name = "sleeps"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        time.sleep(30)
        return cells


class LoopsRefining(Procedure):
    name = "loops_refining"

    def refine(self, model: Any, windows: Any, parameters: Any) -> Any:
        yield self.attribute(model, windows, parameters)
        while True:
            sum(range(100))


class NotANumber(Procedure):
    """NaN in windows whose first cell is negative."""

    name = "not_a_number"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        cells[windows.x[:, 0, 0] < 0, 3, 1] = np.nan
        return cells


class Infinite(Procedure):
    name = "infinite"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        cells[:, 0, 0] = -np.inf
        return cells


class WrongShape(Procedure):
    name = "wrong_shape"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        return cells[:, :5]


class WrongType(Procedure):
    name = "wrong_type"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        return cells.astype(np.complex64)


class NoArray(Procedure):
    name = "no_array"

    def cells(self, model: Any, windows: Any, cells: Any) -> Any:
        return cells.tolist()


class WrongError(Procedure):
    name = "wrong_error"

    def attribute(self, model: Any, windows: Any, parameters: Any) -> plugin.Estimate:
        return plugin.Estimate(np.ones_like(windows.x), standard_error=np.ones((len(windows.x), 2), np.float32))


class WrongMap(Procedure):
    name = "wrong_map"

    def attribute(self, model: Any, windows: Any, parameters: Any) -> plugin.Estimate:
        return plugin.Estimate(np.ones_like(windows.x), maps={"layer": np.ones(0, np.float32)})


class WrongWarning(Procedure):
    name = "wrong_warning"

    def attribute(self, model: Any, windows: Any, parameters: Any) -> plugin.Estimate:
        return plugin.Estimate(np.ones_like(windows.x), warnings=("beware",))  # type: ignore[arg-type]


class Graph(plugin.GraphMethod):
    summary = "Goes wrong."

    def describe(self, tape: Any, parameters: Any) -> None:
        tape.result("cells", tape.x * tape.evaluate().gradient)


class BadDescribe(Graph):
    name = "bad_describe"

    def describe(self, tape: Any, parameters: Any) -> None:
        raise ZeroDivisionError("by zero")


class BadFeeds(Graph):
    name = "bad_feeds"

    def feeds(self, windows: Any, parameters: Any) -> Any:
        raise ValueError("nothing to feed")
        yield {}


class BadFinish(Graph):
    name = "bad_finish"

    def finish(self, totals: Any, windows: Any, parameters: Any) -> plugin.Estimate:
        return plugin.Estimate(totals["cells"] * np.float32(np.nan))


class BadBound(Graph):
    name = "bad_bound"

    def is_bounded(self, parameters: Any) -> bool:
        raise IndexError("out of bounds")


class HangsInFinish(Graph):
    name = "hangs_in_finish"

    def finish(self, totals: Any, windows: Any, parameters: Any) -> plugin.Estimate:
        while True:
            sum(range(100))


class HangsInDescribe(Graph):
    name = "hangs_in_describe"

    def describe(self, tape: Any, parameters: Any) -> None:
        while True:
            sum(range(100))


class BadParameters(Procedure):
    name = "bad_parameters"

    class Parameters(plugin.Parameters):
        def model_post_init(self, context: Any) -> None:
            raise RuntimeError("these are never right")


class NoParameters(Procedure):
    name = "no_parameters"
    Parameters = dict  # type: ignore[assignment]


class NoSummary(Procedure):
    name = "no_summary"
    summary = None  # type: ignore[assignment]


class Taken(Procedure):
    name = "input_x_gradient"


class Good(Procedure):
    name = "good"


@plugin.hookimpl
def tonescope_methods() -> list[Any]:
    made = [Taken, NoParameters, NoSummary, Raises, Leaves, Loops, Sleeps, LoopsRefining, NotANumber, Infinite]
    made += [WrongShape, WrongType, NoArray, WrongError, WrongMap, WrongWarning, BadDescribe, BadFeeds, BadFinish]
    made += [BadBound, HangsInFinish, HangsInDescribe, BadParameters, Good]
    return [each() for each in made]


@plugin.hookimpl
def tonescope_decoders() -> list[Any]:
    raise OSError("no licence")


class Here(EntryPoint):
    """An entry point that leads to this module, wherever it was imported from."""

    def load(self) -> Any:
        import sys

        return sys.modules[__name__]


def host() -> PluginHost:
    """Load what is installed, this plugin, and one that cannot be imported."""
    broken = EntryPoint("not_there", "no_such_module", "tonescope")
    return PluginHost.load([*entry_points(group="tonescope"), Here(NAME, __name__, "tonescope"), broken])
