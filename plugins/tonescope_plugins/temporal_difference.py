"""Temporal difference: what changed the prediction between two windows that follow each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from tonescope_plugins.integrated_gradients import IntegratedGradients, PathParameters
from tonescope_server import plugin
from tonescope_server.errors import ShapeError
from tonescope_server.types import ResultWarning


class TemporalDifferenceParameters(PathParameters):
    """Parameters of the temporal difference."""

    previous: Annotated[list[Any] | None, BeforeValidator(plugin.as_lists)] = Field(
        None,
        description="The window before: an array of the input's shape, with or without a leading axis of 1 or of the "
        "batch. Absent means, in a live stream, the last window of the same node that was explained.",
    )


class TemporalDifference(IntegratedGradients):
    """Integrated gradients from the window before to this one: the cells sum to ``f(x) − f(previous)``.

    For a predicted target, f is the score of the class that is predicted now. Cells are compared place by place: where
    windows overlap, each value is compared with the one that stood in its place before.

    In a live stream the window before is the last one of the same node that was explained, so that the differences of
    a stream add up, dropped windows or not. A window before which there is none is compared with itself: its cells are
    zero, and a warning says why. A request for many windows names what is before each in ``previous``; the windows of
    a batch are never taken to follow each other, for then an answer would depend on its neighbours.

    Source: Sundararajan et al. (2017), equation 3, with the window before as the baseline. Kim et al., "Delta-XAI: A
    Unified Framework for Explaining Prediction Changes in Online Time Series Monitoring" (2025) ask the same question;
    their SWING goes there along the windows in between, this along the straight line.
    """

    name = "temporal_difference"
    summary = "Each cell's share in the change of the target since the window before."
    source = "Sundararajan et al. 2017, arXiv:1703.01365; Kim et al. 2025, arXiv:2511.23036"
    # Complete, but against the window before, not against the baseline.
    complete = False
    uses_previous = True
    Parameters = TemporalDifferenceParameters

    def compared_with(self, windows: plugin.Windows, parameters: Any) -> npt.NDArray[Any]:
        """Return the window before each; the window itself where there is none."""
        previous = _previous(windows, parameters)
        if previous is None:
            return windows.x
        unknown = _unknown(previous).reshape(-1, *[1] * (windows.x.ndim - 1))
        return np.where(unknown, windows.x, previous)

    def finish(self, totals: plugin.Totals, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Report the delta, and the windows before which there is none."""
        found = super().finish(totals, windows, parameters)
        previous = _previous(windows, parameters)
        alone = np.ones(len(windows.x), bool) if previous is None else _unknown(previous)
        warnings = (_alone(row) for row in plugin.windows_where(alone))
        return replace(found, warnings=(*found.warnings, *warnings))


def _previous(windows: plugin.Windows, parameters: Any) -> npt.NDArray[Any] | None:
    """Return the windows before, one or one for each: as the request names them, or as the stream has them."""
    if parameters.previous is None:
        return windows.previous
    array, shape = plugin.as_numbers(parameters.previous, windows, "previous"), windows.x.shape[1:]
    if array.shape == shape:
        return windows.input("previous", array[None])
    if array.shape[1:] == shape and len(array) == 1:
        return windows.input("previous", array)
    if array.shape[1:] == shape and len(array) > int(windows.rows.max()):
        return array[windows.rows]
    raise ShapeError(
        f"parameter 'previous': expected {shape}, alone or with a leading axis of 1 or of the batch; got {array.shape}"
    )


def _unknown(previous: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell the windows before which there is none: a stream leaves them not a number."""
    result: npt.NDArray[np.bool_] = np.isnan(previous.reshape(len(previous), -1)).any(axis=1)
    return result


def _alone(row: int) -> ResultWarning:
    return ResultWarning(
        "NO_PREVIOUS_WINDOW",
        "no window before this one is known, so it is compared with itself and nothing changed: name it in the "
        "parameter 'previous', or wait for the stream's next window",
        row,
    )


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer the temporal difference."""
    return [TemporalDifference()]
