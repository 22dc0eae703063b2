"""An attribution method: the gradient times each cell's distance from a reference."""

from typing import Any

from pydantic import Field

from tonescope_server import plugin
from tonescope_server.gradients.tape import Tape


class MyMethodParameters(plugin.Parameters):
    """What a request may set: everything has a default and a description."""

    reference: float = Field(0.0, description="The value that every cell is compared with.")


class MyMethod(plugin.GraphMethod):
    """Arithmetic on the model's own graph: it is compiled once, and runs in one call."""

    name = "my_method"
    summary = "Each cell's distance from a reference, times the target's reaction to it."
    Parameters = MyMethodParameters

    def describe(self, tape: Tape, parameters: Any) -> None:
        """Describe what each cell gets; tones are summed from the cells."""
        tape.result("cells", (tape.x - parameters.reference) * tape.evaluate().gradient)

    def graph_key(self, parameters: Any) -> tuple[Any, ...]:
        """Name every parameter that ``describe`` reads: the graph is compiled once for each."""
        return (parameters.reference,)


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer the method. The entry point in pyproject.toml names this module."""
    return [MyMethod()]
