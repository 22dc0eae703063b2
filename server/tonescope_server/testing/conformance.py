"""The rules that hold for every attribution method, each a function and a row of the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.explainer import Explainer, installed_plugins
from tonescope_server.errors import (
    InvalidInputError,
    MethodNotApplicableError,
    TonescopeError,
    UnsupportedOperatorError,
)
from tonescope_server.models.model import Model
from tonescope_server.plugin import GraphMethod, Method, Parameters, ProceduralMethod, Requirement
from tonescope_server.testing.models import tiny_models, tiny_windows
from tonescope_server.types import FloatArray

# Sums in float32 come out differently by a few units in the last place when ONNX Runtime picks another kernel for
# another batch size. Relative to the window's largest value that stays below the first of these; a difference of two
# scores also keeps their rounding, relative to the scores.
BATCH_TOLERANCE = 1e-5
ROUNDING = 1e-6
# What a method calls its convergence delta may differ from the one recomputed here by rounding, relative to the scores.
DELTA_TOLERANCE = 1e-4
# How far a complete method may be off on a smooth model with its own default parameters, relative to what it divides.
COMPLETENESS = 1e-3


class ConformanceError(AssertionError):
    """A method that breaks rules. ``faults`` lists each: the check, the model it was seen on, and what was seen."""

    def __init__(self, method: str, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"method '{method}' breaks {len(faults)} rules:\n" + "\n".join(f"- {f}" for f in faults))


def check_method(
    method: Method, parameters: Mapping[str, Any] | None = None, *, models: Mapping[str, Model] | None = None
) -> None:
    """Check that an attribution method keeps the rules that hold for every method.

    It says what it is; its parameters have defaults, descriptions and a JSON Schema, and others are refused; results
    are finite, of the right shapes and types, and not scaled per window; tones are the sum of their cells; an answer
    depends neither on the rest of the batch, nor on what was asked before, nor on chance; the windows it was given are
    unchanged; the last estimate of a method that gets better is its answer; and where it calls itself complete, it is.

    Args:
        method: the method; it need not be registered.
        parameters: instead of its defaults, to make a dear method cheap, say.
        models: instead of ``tiny_models()``. Those that the method says it cannot explain are passed over, but not all
            of them may be.

    Raises:
        ConformanceError: with every fault that was found.
    """
    faults = [f"statements: {fault}" for fault in _statements(method)]
    if not faults:
        faults = [f"parameters: {fault}" for fault in _parameters(method)]
    if not faults:
        faults = list(_on_models(method, dict(parameters or {}), models or tiny_models()))
    if faults:
        raise ConformanceError(str(getattr(method, "name", method)), faults)


def _statements(method: Method) -> Iterator[str]:
    if not isinstance(method, GraphMethod | ProceduralMethod):
        yield f"expected a GraphMethod or a ProceduralMethod, got {type(method).__name__}"
        return
    for attribute in ("name", "summary"):
        if not isinstance(getattr(method, attribute, None), str):
            yield f"expected '{attribute}' to be text"
            return
    if not re.fullmatch(r"[a-z][a-z0-9_]*", method.name):
        yield f"expected a name in lower case, digits and underscores, got '{method.name}'"
    if not method.summary.strip() or "\n" in method.summary:
        yield f"expected a summary of one line, got {method.summary!r}"
    if not isinstance(method.requirement, Requirement):
        yield f"expected 'requirement' to be a Requirement, got {method.requirement!r}"
    if not (isinstance(method.Parameters, type) and issubclass(method.Parameters, Parameters)):
        yield f"expected 'Parameters' to be a subclass of tonescope_server.plugin.Parameters, got {method.Parameters!r}"


def _parameters(method: Method) -> Iterator[str]:
    stated = method.Parameters
    for name, field in stated.model_fields.items():
        if not field.description:
            yield f"'{name}' has no description"
    try:
        defaults = stated().model_dump(mode="json")
    except ValidationError:
        yield "every parameter needs a default: a stream may name none"
        return
    schema = stated.model_json_schema()
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(defaults)
    except (jsonschema.SchemaError, jsonschema.ValidationError) as error:
        yield f"the defaults {defaults} do not fit the JSON Schema: {error.message}"
    try:
        stated.model_validate({"no_such_parameter": 1})
        yield "an unknown parameter is accepted"
    except ValidationError:
        pass
    if not stated.model_config.get("frozen"):
        yield "parameters can be changed once checked: keep frozen=True"


@dataclass(frozen=True)
class _Case:
    """A method on one model, asked once."""

    method: Method
    parameters: Mapping[str, Any]
    model: Model
    x: FloatArray
    explainer: Explainer
    result: Attribution

    def ask(self, x: FloatArray, *, fresh: bool = False, **more: Any) -> Attribution:
        explainer = _explainer(self.method, self.model) if fresh else self.explainer
        return explainer.explain(x, self.method.name, **{**self.parameters, **more})


def _explainer(method: Method, model: Model) -> Explainer:
    return Explainer(model, replace(installed_plugins(), methods={method.name: method}))


def _on_models(method: Method, parameters: Mapping[str, Any], models: Mapping[str, Model]) -> Iterator[str]:
    applicable = 0
    for name, model in models.items():
        explainer, x = _explainer(method, model), tiny_windows(model)
        given = x.copy()
        try:
            case = _Case(method, parameters, model, x, explainer, explainer.explain(x, method.name, **parameters))
        except (MethodNotApplicableError, UnsupportedOperatorError):
            continue
        except TonescopeError as error:
            yield f"runs: on {name}: {error}"
            continue
        applicable += 1
        if given.tobytes() != x.tobytes():
            yield f"input: on {name}: the windows it was given have changed"
        yield from (f"{fault.check}: on {name}: {fault.text}" for fault in _judged(case))
    if not applicable:
        yield f"runs: it can explain none of {', '.join(models)}"


@dataclass(frozen=True)
class _Fault:
    check: str
    text: str


def _judged(case: _Case) -> Iterator[_Fault]:
    wrong_shapes = [_Fault("shapes", text) for text in _shapes(case)]
    yield from wrong_shapes
    if wrong_shapes:
        return  # the other checks compare arrays of these shapes
    for check, look in _CHECKS.items():
        try:
            yield from (_Fault(check, text) for text in look(case))
        except TonescopeError as error:
            yield _Fault(check, str(error))


def _arrays(result: Attribution) -> dict[str, npt.NDArray[Any]]:
    names = ("cells", "tones", "units", "standard_error", "convergence_delta")
    found = {name: getattr(result, name) for name in names}
    given = {name: array for name, array in found.items() if array is not None}
    return given | {f"map '{name}'": array for name, array in result.maps.items()}


def _shapes(case: _Case) -> Iterator[str]:
    batch, tones = len(case.x), case.model.cells.n_tones
    expected = {
        "cells": case.x.shape,
        "tones": (batch, tones),
        "standard_error": (batch, tones),
        "convergence_delta": (batch,),
    }
    for name, array in _arrays(case.result).items():
        if array.dtype != np.float32:
            yield f"expected {name} of float32, got {array.dtype}"
        if name not in expected:
            if len(array) != batch or (name == "units" and array.ndim != 2):
                yield f"expected {name} of shape ({batch}, …), got {array.shape}"
        elif array.shape != expected[name]:
            yield f"expected {name} of shape {expected[name]}, got {array.shape}"


def _finite(case: _Case) -> Iterator[str]:
    for name, array in _arrays(case.result).items():
        if not np.isfinite(array).all():
            yield f"{name} are not finite"


def _unscaled(case: _Case) -> Iterator[str]:
    """Refuse values that were scaled by themselves: then windows can no longer be compared or averaged."""
    if case.method.sums_to_one:
        return
    for name in ("cells", "tones"):
        array = getattr(case.result, name)
        if array is None:
            continue
        rows = np.abs(array.reshape(len(array), -1).astype(np.float64))
        measures = {"maximum": rows.max(axis=1), "sum": rows.sum(axis=1), "norm": np.sqrt((rows**2).sum(axis=1))}
        for measure, values in measures.items():
            if rows.shape[1] > 1 and np.allclose(values, 1.0, rtol=0, atol=1e-5):
                yield f"the {measure} of |{name}| is 1 in every window: results must be raw"


def _folding(case: _Case) -> Iterator[str]:
    cells, tones = case.result.cells, case.result.tones
    if cells is None:
        return
    folded = case.model.cells.fold(cells.astype(np.float64))
    off = np.abs(folded - tones).max() / max(np.abs(folded).max(), 1e-30)
    if off > BATCH_TOLERANCE:
        yield f"tones are not the sums of their cells: off by {off:.1e} of the largest"


def _batch(case: _Case) -> Iterator[str]:
    whole = _arrays(case.result)
    for row in range(len(case.x)):
        alone = _arrays(case.ask(case.x[row : row + 1]))
        for name, array in alone.items():
            expected = whole[name][row]
            off = np.abs(array[0] - expected).max()
            if off > BATCH_TOLERANCE * np.abs(expected).max() + ROUNDING * _scale(case):
                yield f"{name} of window {row} differ by {off:.1e} when it is asked alone"
                return


def _determinism(case: _Case) -> Iterator[str]:
    for how, fresh in (("asked again", False), ("asked of a fresh explainer", True)):
        again = _arrays(case.ask(case.x, fresh=fresh))
        for name, array in _arrays(case.result).items():
            if again[name].tobytes() != array.tobytes():
                yield f"{name} differ when {how}"
                return


def _memory(case: _Case) -> Iterator[str]:
    """Ask with other parameters after the defaults: a parameter left out of ``graph_key`` gives the old graph."""
    for more in _variants(case.method.Parameters, case.parameters):
        try:
            fresh = _arrays(case.ask(case.x, fresh=True, **more))
        except InvalidInputError:
            continue  # a value that this model does not go with
        for name, array in _arrays(case.ask(case.x, **more)).items():
            if array.tobytes() != fresh[name].tobytes():
                yield f"{name} with {more} depend on what was asked before: is it in graph_key()?"
                break


def _variants(stated: type[Parameters], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield other values of one parameter at a time, as far as the JSON Schema tells."""
    defaults = {**stated().model_dump(mode="json"), **given}
    for name, schema in stated.model_json_schema().get("properties", {}).items():
        default = defaults[name]
        values: list[Any] = []
        for kind in schema.get("anyOf", [schema]):
            values += kind.get("enum", [])
            if kind.get("type") == "boolean":
                values += [True, False]
            elif kind.get("type") in ("integer", "number"):
                number = default if isinstance(default, int | float) else 1
                values += [number + 1, number - 1]
        for value in values:
            try:
                stated.model_validate({**given, name: value})
            except ValidationError:
                continue
            if value != default:
                yield {name: value}


def _progress(case: _Case) -> Iterator[str]:
    """Ask for what it finds as it gets better: the last has to be the answer, and none to look surer than it is."""
    x = case.x[:1]
    updates = [found for found, _ in case.explainer.prepare(case.method.name, None, case.parameters).progress(x)]
    if not updates:
        yield "refine() yields nothing"
        return
    last = _arrays(updates[-1])
    for name, array in _arrays(case.ask(x)).items():
        if name not in last or last[name].tobytes() != array.tobytes():
            yield f"{name} of the last estimate are not those of the answer"
            return
    sampled = [found.standard_error is not None for found in updates]
    if any(sampled) and not all(yet or found.batches is not None for yet, found in zip(sampled, updates, strict=True)):
        yield "an estimate has no standard error yet, and does not say so: give 'batches' with every estimate"
    spent = [found.evaluations for found in updates]
    if spent != sorted(spent):
        yield f"the evaluations it has spent fall: {spent}"


def _prediction(case: _Case) -> Iterator[str]:
    """Compare what is reported beside the attribution with the model itself: a path has to be anchored at ``x``."""
    prediction, score = case.explainer.predict(case.x), case.explainer.score(case.x)
    if not np.allclose(case.result.prediction.scores, prediction.scores, rtol=DELTA_TOLERANCE, atol=1e-6):
        yield "the prediction it reports is not that of the windows"
    if not np.allclose(case.result.score, score, rtol=DELTA_TOLERANCE, atol=1e-6):
        yield "the score it reports is not that of the windows"


def _completeness(case: _Case) -> Iterator[str]:
    if not case.method.complete:
        return
    result = case.result
    if result.cells is None or result.convergence_delta is None:
        yield "it is called complete, and gives no cells or no convergence delta"
        return
    baseline = _baseline(case)
    change = result.score.astype(np.float64) - case.explainer.score(baseline, result.target)
    delta = result.cells.reshape(len(case.x), -1).sum(axis=1, dtype=np.float64) - change
    if np.abs(delta - result.convergence_delta).max() > DELTA_TOLERANCE * _scale(case):
        yield f"its convergence delta is {result.convergence_delta.tolist()}, and {delta.tolist()} when recomputed"
    smooth = not {"Relu", "MaxPool"} & {op for op, _, _ in case.explainer.operators()}
    if smooth and np.abs(delta).max() > COMPLETENESS * np.abs(change).max():
        yield f"its cells sum to {np.abs(delta).max():.1e} beside the change of the target, {np.abs(change).max():.1e}"


def _baseline(case: _Case) -> FloatArray:
    stated, shape = case.model.manifest.baseline, case.x.shape
    if not stated.tones:
        return np.full(shape, stated.value, np.float32)
    cells = np.asarray(stated.tones, np.float32)[case.model.cells.tone_of_cell]
    return np.broadcast_to(cells.reshape(shape[1:]), shape)


def _scale(case: _Case) -> float:
    return float(np.abs(case.result.score).max())


_CHECKS: Mapping[str, Callable[[_Case], Iterator[str]]] = {
    "finite": _finite,
    "raw": _unscaled,
    "folding": _folding,
    "batch": _batch,
    "determinism": _determinism,
    "memory": _memory,
    "progress": _progress,
    "prediction": _prediction,
    "completeness": _completeness,
}
