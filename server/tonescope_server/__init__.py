"""The tonescope daemon, and its use without one: ``Explainer.load(path).explain(x)``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer
    from tonescope_server.types import Target

__all__ = ["Explainer", "Target"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's ``--help`` needs neither ONNX Runtime nor any model."""
    if name == "Explainer":
        from tonescope_server.engine.explainer import Explainer

        return Explainer
    if name == "Target":
        from tonescope_server.types import Target

        return Target
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
