"""A request, checked and compiled: one method, target and set of parameters on one model, ready to run on windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.spectrum import tone_groups
from tonescope_server.engine import null_sums
from tonescope_server.engine.access import EVALUATIONS_PER_RUN, Access, Check, Spend, chunks, free, never
from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.baselines import manifest_baseline, named_baselines
from tonescope_server.engine.plan import Plan
from tonescope_server.engine.runs import Part, Results, joined, summed
from tonescope_server.engine.targets import Resolved, is_open, predicted_as_elements, resolve
from tonescope_server.engine.vetting import fault_of, first_not_finite, is_finite, overflow, rows_not_finite
from tonescope_server.errors import MethodNotApplicableError, PluginError, TonescopeError
from tonescope_server.gradients.tape import Tape
from tonescope_server.plugin.api import (
    Estimate,
    Feeds,
    GraphMethod,
    Method,
    Parameters,
    ProceduralMethod,
    Windows,
)
from tonescope_server.plugin.conduct import Kind
from tonescope_server.plugin.watch import in_host, in_plugin, steps_of
from tonescope_server.types import (
    FloatArray,
    IntArray,
    Prediction,
    ResultWarning,
    Target,
    TargetKind,
    frozen,
)

if TYPE_CHECKING:
    from tonescope_server.engine.explainer import Explainer

_Found = tuple[Estimate, Prediction, FloatArray, int, FloatArray | None]
"""The estimate, what the model said, the target's value, evaluations per window, and the null-tone share if known."""

NULL_SHARE_LIMIT = 0.01
_FLOAT32 = np.dtype(np.float32)
# Runs that a plan's cost is measured by, cut short for a plan that is dear whatever the machine is doing.
TIMED_RUNS = 5
CLEARLY_DEAR_S = 0.02


STRAIGHT_THROUGH = ResultWarning(
    "STRAIGHT_THROUGH",
    "the model is quantised, and its gradient is a clipped straight-through estimate: rounding is passed through",
)
# Plugins whose own Python may run on the event loop: nothing could take the loop back from others'.
OURS = "tonescope_plugins"
COUPLED = ResultWarning(
    "BATCH_COUPLED",
    "what the model says of a window depends on the others in its batch: this is of the window alone, in its own batch",
)
RANDOM = ResultWarning(
    "MODEL_RANDOM",
    "the model draws at random, and what it says of a window differs from run to run: so does this",
)


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
        self._host = explainer.host
        self._name = explainer.host.named(method)
        self._resolved = resolved
        self._checked = parameters
        self.method = method
        self.target: Target = resolved.target
        self.input_shape = explainer.model.input.shape[1:]
        # A method that is all graph is never shown its windows: making them costs a twentieth of a small explanation.
        self._is_all_graph = _keeps(method, "feeds") and _keeps(method, "finish")
        self._points = 1
        self._plan = self._graph_plan(method) if isinstance(method, GraphMethod) else None
        self._is_fed = any(weights is not None for weights in resolved.weights)
        settled = {} if self._plan is None else self._plan.settled
        with self._blamed():
            self.parameters: Mapping[str, Any] = {**parameters.model_dump(mode="json"), **settled}
            self._is_steady = isinstance(method, GraphMethod) and bool(method.is_bounded(parameters))
        self._is_open = is_open(self.target)
        estimated = self._plan is not None and self._plan.rule_set != "" and explainer.is_quantised
        told = () if self._plan is None else self._plan.warnings
        model = explainer.model
        kinds = ((STRAIGHT_THROUGH, estimated), (COUPLED, model.is_coupled), (RANDOM, model.is_random))
        self._standing = (*(warning for warning, holds in kinds if holds), *told)
        self._said = {  # what every answer to this request says
            "tone_layout": explainer.model.table.id,
            "method": method.name,
            "parameters": self.parameters,
            "rule_set": self._plan.rule_set if self._plan is not None else "",
            "model_digest": explainer.model.digest,
            "layout": explainer.model.cells,
        }

    @property
    def is_bounded(self) -> bool:
        """Whether a window costs what others cost, whatever it holds: a graph does, a plugin's own code need not."""
        ours = type(self.method).__module__.partition(".")[0] == OURS
        return self._is_steady and (self._is_all_graph or ours)

    @property
    def resolved(self) -> Resolved:
        """The target, ready to run."""
        return self._resolved

    @property
    def checked(self) -> Parameters:
        """The parameters, as the method takes them."""
        return self._checked

    @property
    def plan(self) -> Plan:
        """What a graph method was compiled to.

        Raises:
            MethodNotApplicableError: the method is no graph.
        """
        if self._plan is None:
            raise MethodNotApplicableError(f"method '{self.method.name}' is no graph")
        return self._plan

    @property
    def standing_warnings(self) -> tuple[ResultWarning, ...]:
        """What a user should know of every answer, whatever the windows hold."""
        return self._standing

    def windows(self, x: FloatArray) -> Windows:
        """Return windows as the method is shown them."""
        return self._windows(x, slice(0, len(x)))

    @property
    def uses_previous(self) -> bool:
        """Whether the method asks for the window before each."""
        return bool(getattr(self.method, "uses_previous", False))

    @cached_property
    def seconds_per_window(self) -> float:
        """What one window costs, measured on zeros: the best of a few runs after the first.

        The best, because a busy machine only ever adds; and one slow moment must not send a cheap plan to the threads
        for good.
        """
        shape = tuple(max(d, 1) for d in self.input_shape)
        zeros = np.zeros((1, *shape), np.dtype(self._explainer.model.input.dtype))
        self.run(zeros)
        best = float("inf")
        for _ in range(TIMED_RUNS):
            start = perf_counter()
            self.run(zeros)
            best = min(best, perf_counter() - start)
            if best > CLEARLY_DEAR_S:
                break
        return best

    def run(self, x: FloatArray, check: Check = never, previous: FloatArray | None = None) -> Attribution:
        """Explain windows.

        Args:
            x: (batch, *input shape), as ``engine.windows.checked`` returns it.
            check: called between chunks of evaluations; what it raises ends the run.
            previous: the window before each, for a method that ``uses_previous``; NaN where there is none.

        Raises:
            MethodNotApplicableError: the method gave nothing that this model's tones can be read from.
            PluginError: the method raised something of its own, or gave a result of the wrong shape.
        """
        start = perf_counter()
        if not self._is_all_graph:
            self._host.conduct.refuse(self.method.name, self._name)
        try:
            run = self._run_graph if self._plan is not None else self._run_procedure
            return self._attribution(x, start, *run(x, check, previous))
        except (Exception, SystemExit) as error:  # noqa: BLE001  it is raised again
            self._blame(error)

    def progress(
        self, x: FloatArray, spend: Spend = free, *, row: int = 0, batch: int = 1
    ) -> Iterator[tuple[Attribution, bool]]:
        """Explain one window, and yield what is found as it gets better; the last is what ``run`` returns.

        Args:
            x: (1, *input shape), as ``engine.windows.checked`` returns it.
            spend: called before evaluations with how many they are; what it raises ends the work.
            row: the window's place among those of its request, for a target or a parameter that has one value for each.
            batch: how many windows the request has.

        Yields:
            What is found so far, and whether it is known to be the last. A procedural method is not asked ahead: its
            last may be known only by nothing following.

        Raises:
            MethodNotApplicableError, PluginError: as ``run``.
        """
        start = perf_counter()
        refine = self._refine_graph if self._plan is not None else self._refine_procedure
        with self._blamed():
            for found, last in refine(x, slice(row, row + 1), batch, spend):
                yield self._attribution(x, start, *found), last
                self._host.conduct.refuse(self.method.name, self._name)

    # -- graph methods ------------------------------------------------------------------------------------------

    def _graph_plan(self, method: GraphMethod) -> Plan:
        with self._blamed():
            with in_plugin(method.name):
                self._points = method.points(self._checked)
                shape_key = method.graph_key(self._checked)
            nulls = self._nulls if self._is_all_graph else None
            with in_plugin(method.name):
                taps = tuple(self._explainer.tapped(method, self._checked))
            shaped_by = (shape_key, nulls.key if nulls is not None else None)
            key = ("method", method.name, taps, *shaped_by)

            def describe(tape: Tape) -> None:
                with in_plugin(method.name):
                    method.describe(tape, self._checked)
                if nulls is not None:
                    nulls.describe(tape)

            return self._explainer.compiled(key, self._resolved, describe, keep=taps)

    def _run_graph(self, x: FloatArray, check: Check, previous: FloatArray | None) -> _Found:
        method = self.method
        assert isinstance(method, GraphMethod)  # the caller has looked
        alone = self._explainer.model.wants_windows_alone
        most = 1 if alone else max(EVALUATIONS_PER_RUN // self._points, 1)
        if len(x) <= most:
            estimate, totals, spent = self._run_part(method, x, slice(0, len(x)), check, previous)
        else:
            parts = [self._run_part(method, x, rows, check, previous) for rows in chunks(len(x), most)]
            estimate, totals, spent = joined(parts)
        prediction = self._explainer.read_prediction(totals)
        return estimate, prediction, totals["score"], spent, totals.get(null_sums.RESULT)

    def _run_part(
        self, method: GraphMethod, x: FloatArray, rows: slice, check: Check, previous: FloatArray | None
    ) -> Part:
        """Run the plan as often as the method asks, on windows that fit one run."""
        if self._is_all_graph:
            assert self._plan is not None  # a graph method always has one
            check()
            results = self._plan.session.run(self._shared(x[rows], rows, len(x)))
            estimate = frozen(Estimate, cells=results.get("cells"), tones=results.get("tones"), maps={})
            return estimate, results, self._points
        own = None if previous is None else previous[rows]
        windows = self._windows(x[rows], rows, own)
        with in_plugin(method.name):
            passes = self._passes(method, windows, rows, len(x), lambda _: check())
            totals, spent, _ = deque(passes, maxlen=1).pop()
            return self._vetted(method.finish(totals, windows, self._checked), windows.x), totals, spent

    def _refine_graph(self, x: FloatArray, rows: slice, batch: int, spend: Spend) -> Iterator[tuple[_Found, bool]]:
        """Yield what is found after each run that adds to the estimate."""
        method = self.method
        assert isinstance(method, GraphMethod)  # the caller has looked
        windows = self._windows(x, rows)
        for totals, spent, last in steps_of(method.name, self._passes(method, windows, rows, batch, spend)):
            step = method.finish if last else method.progress
            with in_plugin(method.name):
                estimate = step(totals, windows, self._checked)
            if estimate is not None or last:
                estimate = self._vetted(estimate, x)
                prediction, share = self._explainer.read_prediction(totals), totals.get(null_sums.RESULT)
                yield (estimate, prediction, totals["score"], spent, share), last

    def _passes(
        self, method: GraphMethod, windows: Windows, rows: slice, batch: int, spend: Spend
    ) -> Iterator[tuple[Results, int, bool]]:
        """Run the plan as often as the method asks; yield the results summed, evaluations, and if it was the last."""
        plan = self._plan
        assert plan is not None  # a graph method always has one
        shared = self._shared(windows.x, rows, batch)
        totals: Results = {}
        feeds = method.feeds(windows, self._checked)
        fed, spent = next(feeds, None), 0
        while fed is not None:
            points = method.points_of_run(fed, self._checked)
            with in_host():
                spend(points)
                results = plan.session.run({**shared, **fed})
            totals = summed(totals, results) if totals else results
            spent += points
            fed = _next(feeds, results)
            yield totals, spent, fed is None

    def _shared(self, part: FloatArray, rows: slice, batch: int) -> Results:
        """Return what every run on some of the windows is fed."""
        given = {self._explainer.model.input.name: part}
        return {**given, **self._resolved.feeds(rows, batch)} if self._is_fed else given

    # -- procedural methods -------------------------------------------------------------------------------------

    def _run_procedure(self, x: FloatArray, check: Check, previous: FloatArray | None) -> _Found:
        method, everyone = self._procedure(), slice(0, len(x))
        prediction = self._explainer.predict(x)
        access = Access(self._explainer, self._resolved_for(prediction), everyone, len(x), lambda _: check())
        windows = self._windows(x, everyone, previous)
        with in_plugin(method.name):
            estimate = method.attribute(access, windows, self._checked)
        self._vetted(estimate, x)
        score = access.score(x, np.arange(len(x), dtype=np.int64))
        return estimate, prediction, score, access.spent, None

    def _refine_procedure(self, x: FloatArray, rows: slice, batch: int, spend: Spend) -> Iterator[tuple[_Found, bool]]:
        """Yield what is found after each refinement."""
        method = self._procedure()
        prediction = self._explainer.predict(x)
        access = Access(self._explainer, self._resolved_for(prediction), rows, batch, spend)
        score = access.score(x, np.zeros(1, np.int64))
        only = type(method).refine is ProceduralMethod.refine
        with in_plugin(method.name):
            refined = iter(method.refine(access, self._windows(x, rows), self._checked))
        for estimate in steps_of(method.name, refined):
            yield (self._vetted(estimate, x), prediction, score, access.spent, None), only

    def _procedure(self) -> ProceduralMethod:
        if not isinstance(self.method, ProceduralMethod):
            name = self.method.name
            raise MethodNotApplicableError(f"method '{name}' is neither a GraphMethod nor a ProceduralMethod")
        return self.method

    def _resolved_for(self, prediction: Prediction) -> Resolved:
        """Resolve the target with the classes that were predicted: they stay what they are, wherever it is asked."""
        target = predicted_as_elements(self.target, partial(_classes, prediction))
        return resolve(target, self._explainer.model)

    @property
    def _nulls(self) -> null_sums.NullSums | None:
        """What sums attributions on null tones, where they say something of the layout."""
        return self._explainer.null_sums if self.method.resolves_tones else None

    # -- results ------------------------------------------------------------------------------------------------

    def _windows(self, part: FloatArray, rows: slice, previous: FloatArray | None = None) -> Windows:
        cells = self._explainer.model.cells
        part = part.view()
        part.flags.writeable = False  # a view: the caller's array stays what it was, whatever a method does
        return Windows(
            part,
            cells.tone_of_cell,
            cells.frame_of_cell,
            cells.n_tones,
            self._baseline,
            np.arange(rows.start, rows.stop, dtype=np.int64),
            self._tone_groups,
            self._named_baselines,
            self._explainer.model.background,
            previous,
            cells.link_of_cell,
            cells.component_of_cell,
        )

    @cached_property
    def _tone_groups(self) -> tuple[IntArray, ...]:
        return tone_groups(self._explainer.model.table)

    @cached_property
    def _baseline(self) -> FloatArray:
        return manifest_baseline(self._explainer.model)

    @cached_property
    def _named_baselines(self) -> Mapping[str, FloatArray]:
        return named_baselines(self._explainer.model)

    def _attribution(
        self,
        x: FloatArray,
        start: float,
        estimate: Estimate,
        prediction: Prediction,
        score: FloatArray,
        evaluations: int,
        share: FloatArray | None,
    ) -> Attribution:
        tones = self._tones(x, estimate)
        told = estimate.warnings
        if not (_is_part(share) or is_finite(tones)) or (estimate.tones is not None and not _is_finite(estimate.cells)):
            told = (*told, *self._overflows(x, estimate, tones, score))
        if share is None and (nulls := self._nulls) is not None:
            share = nulls.share(estimate.cells, tones)
        return frozen(
            Attribution,
            **self._said,
            prediction=prediction,
            score=score,
            tones=tones,
            cells=estimate.cells,
            convergence_delta=estimate.convergence_delta,
            null_tone_share=share,
            target=self._settled(prediction),
            evaluations=evaluations,
            warnings=(*self._standing, *told, *_warnings(prediction, share)),
            units=estimate.units,
            standard_error=estimate.standard_error,
            batches=estimate.batches,
            maps=estimate.maps,
            windows=x,
            compute_s=perf_counter() - start,
        )

    def _tones(self, x: FloatArray, estimate: Estimate) -> FloatArray:
        """Return the attribution per tone, folded from the cells where the method gives none itself."""
        cells, tones = estimate.cells, estimate.tones
        if cells is not None and cells.shape != x.shape:
            raise PluginError(f"{self._name}: expected cells of shape {x.shape}, got {cells.shape}")
        if tones is None:
            if cells is None:
                raise PluginError(f"{self._name} gave neither cells nor tones")
            tones = self._explainer.model.cells.fold(cells)
        expected = (len(x), self._explainer.model.cells.n_tones)
        if tones.shape != expected:
            raise PluginError(f"{self._name}: expected tones of shape {expected}, got {tones.shape}")
        return tones if tones.dtype is _FLOAT32 else tones.astype(np.float32)

    # -- what a plugin does wrong -------------------------------------------------------------------------------

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001  it is raised again
            self._blame(error)

    def _blame(self, error: BaseException) -> NoReturn:
        """Blame what was raised on the method, unless it is an error of ours; one that blames it already is noted."""
        if not isinstance(error, TonescopeError):
            raise self._host.blame(self.method, error) from error
        if isinstance(error, PluginError):
            name = self.method.name
            self._host.conduct.note(self._host.plugin_of(name), name, Kind.FAILED, str(error), error.__cause__)
        raise error

    def _vetted(self, estimate: Any, x: FloatArray) -> Estimate:
        """Return what a method's own code gave, where it is an estimate."""
        fault = fault_of(estimate, x.shape, self._explainer.model.cells.n_tones)
        if fault:
            raise PluginError(f"{self._name}: {fault}")
        found: Estimate = estimate
        return found

    def _overflows(
        self, x: FloatArray, estimate: Estimate, tones: FloatArray, score: FloatArray
    ) -> Iterator[ResultWarning]:
        """Yield a warning for each window on which the model itself is not finite; blame others on the method."""
        given = {"cells": estimate.cells, "tones": tones}
        bad = {name: rows_not_finite(values) for name, values in given.items() if values is not None}
        for row in sorted({int(row) for rows in bad.values() for row in rows}):
            if not np.isfinite(score[row]):
                yield overflow(row, "score")
            elif not self._has_finite_gradient(x, row):
                yield overflow(row, "gradient")
            else:
                name = next(name for name, rows in bad.items() if row in rows)
                values = given[name]
                assert values is not None  # it was looked at
                where = f" of window {row}" if len(x) > 1 else ""
                raise PluginError(
                    f"{self._name}: {name}{where} are not finite ({first_not_finite(values[row])}), "
                    "though the model's score and gradient are"
                )

    def _has_finite_gradient(self, x: FloatArray, row: int) -> bool:
        """Say whether the model's own gradient is finite on a window; where it has none, it is not to blame."""
        prediction = self._explainer.predict(x)
        everyone = slice(0, len(x))
        access = Access(self._explainer, self._resolved_for(prediction), everyone, len(x), free)
        try:
            gradient = access.gradient(x[row : row + 1], np.array([row], dtype=np.int64))
        except TonescopeError:
            return True
        return is_finite(gradient)

    def _settled(self, prediction: Prediction) -> Target:
        if not self._is_open:
            return self.target
        if self.target.kind is TargetKind.PREDICTED:
            output = self.target.output
            index = _classes(prediction, str(output))
            return frozen(Target, kind=TargetKind.ELEMENT, output=output, index=index)
        return predicted_as_elements(self.target, partial(_classes, prediction))


def _keeps(method: Method, name: str) -> bool:
    """Say whether a method keeps what a graph method does by default."""
    return getattr(type(method), name, None) is getattr(GraphMethod, name)


def _is_part(share: FloatArray | None) -> bool:
    """Say whether one window's share tells, for nothing, that Σ|attribution| is finite: of an infinite one it is 0."""
    return share is not None and len(share) == 1 and share.item() > 0


def _is_finite(values: FloatArray | None) -> bool:
    return values is None or is_finite(values)


def _next(feeds: Feeds, results: Results) -> Mapping[str, npt.NDArray[Any]] | None:
    """Hand a run's results over, and return what the next is fed; None where there is none."""
    try:
        return feeds.send(results)
    except StopIteration:
        return None


def _classes(prediction: Prediction, output: str) -> IntArray:
    """Return the largest element of an output per window: what "predicted" means on it."""
    values = prediction.outputs[output]
    if values is prediction.scores and prediction.class_index is not None:
        return prediction.class_index
    largest: IntArray = values.reshape(len(values), -1).argmax(axis=1)
    return largest


def _warnings(prediction: Prediction, share: FloatArray | None) -> Iterator[ResultWarning]:
    if share is not None:
        for row, part in enumerate(share.tolist()):
            if part > NULL_SHARE_LIMIT:
                yield ResultWarning(
                    "NULL_TONE_SHARE",
                    f"{part:.1%} of the attribution lies on tones that carry no signal (expected at most "
                    f"{NULL_SHARE_LIMIT:.0%}): the tone layout, the cell order or the normalisation is wrong",
                    row,
                    is_fault=True,
                )
    untrained, classes = prediction.untrained, prediction.class_index
    if untrained is not None and classes is not None and untrained.any():
        for row in np.flatnonzero(untrained).tolist():
            yield ResultWarning(
                "CLASS_NEVER_TRAINED",
                f"class {classes[row]} was predicted, and the manifest says that it never occurred in training",
                row,
            )
