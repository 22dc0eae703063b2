"""Movement: how far a cell is from its tone's mean over the window, times the target's reaction to it."""

from pydantic import Field

from tonescope_server import plugin


class MovementParameters(plugin.Parameters):
    still: float = Field(1.0, ge=0, le=1, description="The part of a tone's mean that counts as standing still.")


class Movement(plugin.GraphMethod):
    name = "movement"
    summary = "What each cell's distance from its tone's mean contributes, to first order."
    Parameters = MovementParameters

    def describe(self, tape, parameters):
        still = tape.cells_of_tones(tape.mean_over_tones(tape.x)) * parameters.still
        tape.result("cells", (tape.x - still) * tape.evaluate().gradient)

    def graph_key(self, parameters):
        return (parameters.still,)


@plugin.hookimpl
def tonescope_methods():
    return [Movement()]
