"""What runs of a plan give, put together: the runs of one part of a batch summed, the parts of a batch joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.engine import null_sums
from tonescope_server.engine.prediction import OUTPUT
from tonescope_server.plugin.api import Estimate
from tonescope_server.types import ResultWarning

Results = dict[str, npt.NDArray[Any]]
Part = tuple[Estimate, Results, int]
"""What one part of a batch gave, the plan's results, and model evaluations per window."""


def summed(totals: Mapping[str, npt.NDArray[Any]], results: Mapping[str, npt.NDArray[Any]]) -> Results:
    """Add what the method named; predictions and the score are the same in every run."""
    same = set(_per_window(results))
    return {name: value if name in same else totals[name] + value for name, value in results.items()}


def joined(parts: list[Part]) -> Part:
    """Put the parts of a batch together: estimates, predictions and scores."""

    def along(field: str) -> Any:
        values = [getattr(estimate, field) for estimate, _, _ in parts]
        return None if values[0] is None else np.concatenate(values)

    arrays = {f: along(f) for f in ("cells", "tones", "convergence_delta", "units", "standard_error")}
    maps = {name: np.concatenate([estimate.maps[name] for estimate, _, _ in parts]) for name in parts[0][0].maps}
    warnings = tuple(_moved_warnings(parts))
    estimate = Estimate(**arrays, batches=parts[0][0].batches, maps=maps, warnings=warnings)
    names = _per_window(parts[0][1])
    totals = {name: np.concatenate([t[name] for _, t, _ in parts]) for name in names}
    return estimate, totals, max(runs for _, _, runs in parts)


def _moved_warnings(parts: list[Part]) -> Iterator[ResultWarning]:
    """Yield the warnings of all parts; the windows that they are about count from the first of the whole batch."""
    first = 0
    for estimate, results, _ in parts:
        for warning in estimate.warnings:
            yield replace(warning, window=None if warning.window is None else first + warning.window)
        first += len(results["score"])


def _per_window(results: Iterable[str]) -> list[str]:
    """Name the results that say something of a window, whichever run they come from."""
    return [name for name in results if name in ("score", null_sums.RESULT) or name.startswith(OUTPUT)]
