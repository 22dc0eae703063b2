"""The oldest opset whose operators the rules read. Conversion is the loader's, in ``models``."""

from __future__ import annotations

import onnx_ir as ir

from tonescope_server.errors import UnsupportedOperatorError

OLDEST_OPSET = 18
"""From here on reductions have their axes as an input, Pad its axes, Split its count."""


def check_opset(model: ir.Model) -> None:
    """Check that the rules read the model's operators as they are meant.

    Raises:
        UnsupportedOperatorError: an older opset. A ReduceSum that has its axes as an attribute would seem to sum over
            everything.
    """
    version = model.opset_imports.get("", OLDEST_OPSET)
    if version < OLDEST_OPSET:
        raise UnsupportedOperatorError(
            f"opset {version}: expected {OLDEST_OPSET} or newer; models loaded from files are converted, "
            "a graph of your own by onnx.version_converter"
        )
