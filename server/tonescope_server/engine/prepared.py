"""A request, checked and compiled: one method, target and set of parameters on one model, ready to run on windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tonescope_server.engine.plan import Plan
from tonescope_server.engine.prediction import OUTPUT, predictions
from tonescope_server.engine.targets import Resolved, predicted_as_elements, resolve
from tonescope_server.errors import MethodNotApplicableError, PluginError, TonescopeError
from tonescope_server.plugin.api import (
    Estimate,
    GraphMethod,
    Method,
    Parameters,
    ProceduralMethod,
    Windows,
)
from tonescope_server.types import (
    Attribution,
    FloatArray,
    IntArray,
    Prediction,
    ResultWarning,
    Target,
    TargetKind,
)

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer

Check = Callable[[], None]
"""Called between chunks of evaluations; raises to stop: a deadline passed, a caller gone."""

# Model evaluations in one run of ONNX Runtime. Per window a batch buys at most 1.5 ×, and memory grows with it.
EVALUATIONS_PER_RUN = 256
NULL_SHARE_LIMIT = 0.01


def never() -> None:
    """Check nothing: no deadline, no cancellation."""


class Prepared:
    """One request, ready to run. Make it with ``Explainer.prepare``.

    Attributes:
        method: the method.
        target: the target, with its defaults filled in.
        parameters: every parameter, defaults filled in, as plain values.
        input_shape: of one window.
    """

    def __init__(self, explainer: Explainer, method: Method, resolved: Resolved, parameters: Parameters) -> None:
        self._explainer = explainer
        self._resolved = resolved
        self._checked = parameters
        self.method = method
        self.target: Target = resolved.target
        self.parameters: Mapping[str, Any] = parameters.model_dump(mode="json")
        self.input_shape = explainer.model.input.shape[1:]
        self._plan = self._graph_plan() if isinstance(method, GraphMethod) else None

    @cached_property
    def seconds_per_window(self) -> float:
        """What one window costs, measured: the second of two runs on zeros."""
        shape = tuple(max(d, 1) for d in self.input_shape)
        zeros = np.zeros((1, *shape), np.dtype(self._explainer.model.input.dtype))
        self.run(zeros)
        start = perf_counter()
        self.run(zeros)
        return perf_counter() - start

    def run(self, x: FloatArray, check: Check = never) -> Attribution:
        """Explain windows.

        Args:
            x: (batch, *input shape), as ``engine.windows.checked`` returns it.
            check: called between chunks of evaluations; what it raises ends the run.

        Raises:
            MethodNotApplicableError: the method gave nothing that this model's tones can be read from.
            PluginError: the method raised something of its own, or gave a result of the wrong shape.
        """
        start = perf_counter()
        with _blamed_on(self.method):
            estimate, prediction, score, evaluations = (
                self._run_graph(x, check) if self._plan is not None else self._run_procedure(x, check)
            )
        return self._attribution(x, estimate, prediction, score, evaluations, perf_counter() - start)

    # -- graph methods ------------------------------------------------------------------------------------------

    def _graph_plan(self) -> Plan:
        method = self.method
        assert isinstance(method, GraphMethod)  # the caller has looked
        with _blamed_on(method):
            key = ("method", method.name, method.graph_key(self._checked))
            return self._explainer.compiled(key, self._resolved, lambda tape: method.describe(tape, self._checked))

    def _run_graph(self, x: FloatArray, check: Check) -> tuple[Estimate, Prediction, FloatArray, int]:
        method, plan = self.method, self._plan
        assert isinstance(method, GraphMethod)  # the caller has looked
        assert plan is not None  # a graph method always has one
        points = method.points(self._checked)
        parts = []
        spent = 0
        for rows in _chunks(len(x), max(EVALUATIONS_PER_RUN // points, 1)):
            windows = self._windows(x, rows)
            shared = {self._explainer.model.input.name: windows.x, **self._resolved.feeds(rows, len(x))}
            totals: dict[str, npt.NDArray[Any]] = {}
            spent = 0
            for fed in method.feeds(windows, self._checked):
                check()
                results = plan.session.run({**shared, **fed})
                _accumulate(totals, results)
                spent += points
            parts.append((method.finish(totals, windows, self._checked), totals))
        prediction = predictions(self._explainer.model, _joined([t for _, t in parts], OUTPUT))
        score = np.concatenate([t["score"] for _, t in parts])
        return _join([e for e, _ in parts]), prediction, score, spent

    # -- procedural methods -------------------------------------------------------------------------------------

    def _run_procedure(self, x: FloatArray, check: Check) -> tuple[Estimate, Prediction, FloatArray, int]:
        method = self.method
        if not isinstance(method, ProceduralMethod):
            raise MethodNotApplicableError(f"method '{method.name}' is neither a GraphMethod nor a ProceduralMethod")
        prediction = self._explainer.predict(x)
        target = predicted_as_elements(self.target, _classes(prediction))
        access = _Access(self._explainer, resolve(target, self._explainer.model), len(x), check)
        estimate = method.attribute(access, self._windows(x, slice(0, len(x))), self._checked)
        score = access.score(x, np.arange(len(x), dtype=np.int64))
        return estimate, prediction, score, -(-access.spent // len(x))

    # -- results ------------------------------------------------------------------------------------------------

    def _windows(self, x: FloatArray, rows: slice) -> Windows:
        cells = self._explainer.model.cells
        part = x[rows]
        part.flags.writeable = False  # a view: the caller's array stays what it was, whatever a method does
        return Windows(
            part,
            cells.tone_of_cell,
            cells.frame_of_cell,
            cells.n_tones,
            self._baseline,
            np.arange(len(x), dtype=np.int64)[rows],
        )

    @cached_property
    def _baseline(self) -> FloatArray:
        """The manifest's baseline: one value per tone, or one for every cell."""
        model = self._explainer.model
        stated, dtype = model.manifest.baseline, np.dtype(model.input.dtype)
        if stated.tones:
            baseline = np.asarray(stated.tones, dtype)[model.cells.tone_of_cell].reshape((1, *self.input_shape))
        else:
            baseline = np.full((1, *self.input_shape), stated.value, dtype)
        baseline.flags.writeable = False  # it serves later requests too
        return baseline

    def _attribution(
        self,
        x: FloatArray,
        estimate: Estimate,
        prediction: Prediction,
        score: FloatArray,
        evaluations: int,
        seconds: float,
    ) -> Attribution:
        model = self._explainer.model
        tones = self._tones(x, estimate)
        share = self._null_share(estimate.cells, tones)
        result = Attribution(
            prediction=prediction,
            score=score,
            tones=tones,
            tone_layout=model.table.id,
            cells=estimate.cells,
            convergence_delta=estimate.convergence_delta,
            null_tone_share=share,
            method=self.method.name,
            parameters=self.parameters,
            target=self._settled(prediction),
            rule_set=self._plan.rule_set if self._plan is not None else "",
            evaluations=evaluations,
            compute_s=seconds,
            model_digest=model.digest,
            units=estimate.units,
            standard_error=estimate.standard_error,
        )
        found = tuple(_warnings(result))
        return replace(result, warnings=found) if found else result

    def _tones(self, x: FloatArray, estimate: Estimate) -> FloatArray:
        """Return the attribution per tone, folded from the cells where the method gives none itself."""
        cells, tones = estimate.cells, estimate.tones
        if cells is not None and cells.shape != x.shape:
            raise PluginError(f"method '{self.method.name}': expected cells of shape {x.shape}, got {cells.shape}")
        if tones is None:
            if cells is None:
                raise PluginError(f"method '{self.method.name}' gave neither cells nor tones")
            tones = self._explainer.model.cells.fold(cells)
        expected = (len(x), self._explainer.model.cells.n_tones)
        if tones.shape != expected:
            raise PluginError(f"method '{self.method.name}': expected tones of shape {expected}, got {tones.shape}")
        return tones.astype(np.float32, copy=False)

    def _null_share(self, cells: FloatArray | None, tones: FloatArray) -> FloatArray | None:
        """Return the part of Σ|attribution| on tones that carry no signal; by cell where there are cells."""
        model = self._explainer.model
        if not model.table.knows_nulls:
            return None
        if cells is None:
            mass, null = np.abs(tones), model.table.null_mask
        else:
            mass, null = np.abs(cells.reshape(len(cells), -1)), model.cells.null_cells
        total = mass.sum(axis=1)
        on_null = mass @ null.astype(mass.dtype)
        share: FloatArray = np.divide(on_null, total, out=np.zeros_like(total), where=total > 0)
        return share.astype(np.float32, copy=False)

    def _settled(self, prediction: Prediction) -> Target:
        if not _is_open(self.target):
            return self.target
        return predicted_as_elements(self.target, _classes(prediction))


@contextmanager
def _blamed_on(method: Method) -> Iterator[None]:
    """Turn whatever a method raises into one line of a PluginError; errors of our own pass."""
    try:
        yield
    except TonescopeError:
        raise
    except Exception as error:
        raise PluginError(
            f"method '{method.name}' failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error


class _Access:
    """The target's value at any points, for a procedural method."""

    def __init__(self, explainer: Explainer, resolved: Resolved, batch: int, check: Check) -> None:
        self._explainer = explainer
        self._weights = resolved.feeds(slice(0, batch), batch)
        self._plan = explainer.scoring(resolved)
        self._check = check
        self._evaluations = 0

    @property
    def spent(self) -> int:
        """Model evaluations so far."""
        return self._evaluations

    def score(self, points: FloatArray, window: IntArray) -> FloatArray:
        """Return the target's value at points, ``(n,)``."""
        name, dtype = self._explainer.model.input.name, np.dtype(self._explainer.model.input.dtype)
        found = []
        for rows in _chunks(len(points), EVALUATIONS_PER_RUN):
            self._check()
            feeds = {key: weights[window[rows]] for key, weights in self._weights.items()}
            feeds[name] = np.ascontiguousarray(points[rows], dtype)
            found.append(self._plan.session.run(feeds)["score"])
        self._evaluations += len(points)
        return np.concatenate(found)


def _chunks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _accumulate(totals: dict[str, npt.NDArray[Any]], results: Mapping[str, npt.NDArray[Any]]) -> None:
    """Sum what the method named; predictions and the score are the same in every run."""
    for name, value in results.items():
        if name not in totals or name == "score" or name.startswith(OUTPUT):
            totals[name] = value
        else:
            totals[name] = totals[name] + value


def _joined(parts: list[dict[str, npt.NDArray[Any]]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    names = [name for name in parts[0] if name.startswith(prefix)]
    if len(parts) == 1:
        return {name: parts[0][name] for name in names}
    return {name: np.concatenate([p[name] for p in parts]) for name in names}


def _join(estimates: list[Estimate]) -> Estimate:
    if len(estimates) == 1:
        return estimates[0]

    def along(field: str) -> Any:
        values = [getattr(e, field) for e in estimates]
        return None if values[0] is None else np.concatenate(values)

    return Estimate(*(along(f) for f in ("cells", "tones", "convergence_delta", "units", "standard_error")))


def _classes(prediction: Prediction) -> dict[str, IntArray]:
    """Return the largest element of every output per window: what "predicted" means on it."""
    return {
        name: values.reshape(len(values), -1).argmax(axis=1).astype(np.int64)
        for name, values in prediction.outputs.items()
    }


def _is_open(target: Target) -> bool:
    if target.kind is TargetKind.DIFFERENCE:
        return any(t is not None and _is_open(t) for t in (target.plus, target.minus))
    likelihood = target.kind in (TargetKind.LOG_PROBABILITY, TargetKind.NEGATIVE_LOG_LIKELIHOOD)
    return target.kind is TargetKind.PREDICTED or (likelihood and target.index is None)


def _warnings(result: Attribution) -> Iterator[ResultWarning]:
    share = result.null_tone_share
    if share is not None:
        for row in np.flatnonzero(share > NULL_SHARE_LIMIT):
            yield ResultWarning(
                "NULL_TONE_SHARE",
                f"{share[row]:.1%} of the attribution lies on tones that carry no signal (expected at most "
                f"{NULL_SHARE_LIMIT:.0%}): the tone layout, the cell order or the normalisation is wrong",
                int(row),
            )
    untrained = result.prediction.untrained
    classes = result.prediction.class_index
    if untrained is not None and classes is not None:
        for row in np.flatnonzero(untrained):
            yield ResultWarning(
                "CLASS_NEVER_TRAINED",
                f"class {classes[row]} was predicted, and the manifest says that it never occurred in training",
                int(row),
            )
