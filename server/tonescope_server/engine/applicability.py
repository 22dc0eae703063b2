"""Which methods can explain a model: each is asked by describing itself, and nothing is compiled or run."""

from __future__ import annotations

from collections.abc import Callable

from tonescope_server.errors import TonescopeError
from tonescope_server.gradients.tape import Tape
from tonescope_server.plugin.api import GraphMethod, Method
from tonescope_server.plugin.conduct import said_by
from tonescope_server.plugin.watch import in_plugin


def why_not(method: Method, tape: Callable[[], Tape]) -> str:
    """Return why a method, with its defaults, cannot explain what a tape was made for; "" where it can.

    A table of rules does not tell: a rule may refuse a node for its attributes, or for what its operands depend on.

    Args:
        method: the method; one that is no graph asks for predictions only, and always can.
        tape: makes a tape to describe the method on.
    """
    if not isinstance(method, GraphMethod):
        return ""
    try:
        with in_plugin(method.name):
            method.describe(tape(), method.Parameters())
    except TonescopeError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a plugin may raise anything; the others are still asked
        return f"method '{method.name}' failed: {said_by(error)}"
    return ""
