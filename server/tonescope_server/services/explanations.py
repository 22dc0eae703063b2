"""Writes explanations: the one place that fills in the ``Explanation`` message, for single calls and for streams.

This is the hot path of the daemon: what is the same for every window of a stream is built once, and the rest is set
without a detour.
"""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope.v1 import attribution_pb2, error_pb2, tensor_pb2
from tonescope_server.engine.attribution import Attribution
from tonescope_server.engine.prepared import Prepared
from tonescope_server.errors import TonescopeError
from tonescope_server.live.messages import Answer, Job, Running, Wanted
from tonescope_server.models.model import Model
from tonescope_server.services.convert import struct_of, tensor_of
from tonescope_server.services.status import problem_of
from tonescope_server.types import FloatArray, Prediction, Target, TargetKind

_FLOAT32 = tensor_pb2.DATA_TYPE_FLOAT32


class ExplanationWriter:
    """Writes the explanations of one request or stream.

    Args:
        model: the model that answers.
        prepared: the plan that explains.
        want: what explanations carry beside the attribution per tone.
    """

    def __init__(self, model: Model, prepared: Prepared, want: Wanted) -> None:
        self._want = want
        self._cells = model.cells
        self._tones_shape = (model.cells.n_tones,)
        self._first_output = model.outputs[0].name
        self._same = attribution_pb2.Explanation(
            tone_layout=model.table.id,
            model_digest=model.digest,
            method=method_call(prepared),
        )

    def write(self, answer: Answer, into: attribution_pb2.Explanation) -> None:
        """Fill in the explanation of one window, or its problem."""
        outcome, job = answer.outcome, answer.job
        if isinstance(outcome, TonescopeError):
            into.problem.CopyFrom(problem_of(outcome))
            into.problem.message = f"window {job.index}: {into.problem.message}"
        else:
            into.CopyFrom(self._same)
            self._write_result(outcome, answer.row, into)
            into.normalisation = job.normalisation
            if answer.running is not None:
                self._write_running(answer.running, into.running)
        into.compute_ms = answer.compute_s * 1e3
        into.queue_ms = answer.queue_s * 1e3
        into.dropped_before = answer.dropped_before
        _identify(job, into)

    def _write_result(self, result: Attribution, row: int, into: attribution_pb2.Explanation) -> None:
        write_prediction(result.prediction, row, self._first_output, into.prediction)
        write_target(result.target, row, into.target)
        into.score = result.score[row]
        tones = result.tones[row]
        self._write_tones(tones, into.tones)
        strongest = np.abs(tones).argsort(kind="stable")[::-1][: self._want.top_k]
        add = into.top.add
        for tone, value in zip(strongest.tolist(), tones[strongest].tolist(), strict=True):
            add(row=tone, attribution=value)
        if result.cells is not None:
            self._write_cells(result.cells[row], into)
        if result.convergence_delta is not None:
            into.convergence_delta = result.convergence_delta[row]
        if result.null_tone_share is not None and not isnan(share := result.null_tone_share[row]):
            into.null_tone_share = share
        if result.standard_error is not None:
            self._write_tones(result.standard_error[row], into.standard_error)
        if result.batches is not None:
            into.batches = result.batches
        if self._want.units and result.units is not None:
            into.units.CopyFrom(_float32(result.units[row]))
        if self._want.maps:
            for name, values in result.maps.items():
                into.maps[name].CopyFrom(_float32(values[row]))
        for warning in result.warnings:
            if warning.window is None or warning.window == row:
                told = into.warnings.add(code=warning.code, message=warning.message)
                if warning.is_fault:
                    told.severity = error_pb2.SEVERITY_FAULT
        into.rule_set = result.rule_set
        into.evaluations = result.evaluations

    def _write_cells(self, cells: FloatArray, into: attribution_pb2.Explanation) -> None:
        """Fill in what is asked for of the attribution per cell: itself, and other folds of it."""
        if self._want.cells:
            into.cells.CopyFrom(_float32(cells))
        if self._want.declared_rows and self._cells.declared_axis is not None:
            into.declared_rows.CopyFrom(_float32(self._cells.fold_declared(cells[None])[0]))
        if self._want.parts:
            into.parts.CopyFrom(_float32(self._cells.fold_parts(cells[None])[0]))

    def _write_running(self, running: Running, into: attribution_pb2.RunningStatistics) -> None:
        into.count = running.count
        self._write_tones(running.mean, into.mean)
        if running.standard_error is not None:
            self._write_tones(running.standard_error, into.standard_error)

    def _write_tones(self, values: FloatArray, into: tensor_pb2.Tensor) -> None:
        into.dtype = _FLOAT32
        into.shape.extend(self._tones_shape)
        into.data = values.tobytes()


def _float32(values: npt.NDArray[Any]) -> tensor_pb2.Tensor:
    return tensor_of(values.astype(np.float32, copy=False))


def method_call(prepared: Prepared) -> attribution_pb2.MethodCall:
    """Return a method with every parameter resolved, as the wire has it."""
    return attribution_pb2.MethodCall(name=prepared.method.name, parameters=struct_of(prepared.parameters))


def write_prediction(said: Prediction, row: int, first_output: str, into: attribution_pb2.Prediction) -> None:
    """Fill in what the model said of one window."""
    into.scores.extend(said.scores[row].tolist())
    if said.class_index is not None:
        index = int(said.class_index[row])
        into.class_index = index
        if index < len(said.class_names):
            into.class_name = said.class_names[index]
        if said.probabilities is not None:
            into.probability = said.probabilities[row, index]
    if said.untrained is not None:
        into.class_never_trained = bool(said.untrained[row])
    for name, values in said.outputs.items():
        if name != first_output:
            into.outputs[name].CopyFrom(tensor_of(values[row]))


def write_target(target: Target, row: int, into: attribution_pb2.Target) -> None:
    """Fill in a resolved target as it holds for one window: where it was "predicted", the class that it was."""
    into.output = target.output or ""
    kind, index = target.kind, _index(target.index, row)
    if kind is TargetKind.DIFFERENCE and target.plus is not None and target.minus is not None:
        write_target(target.plus, row, into.difference.plus)
        write_target(target.minus, row, into.difference.minus)
    elif kind is TargetKind.ELEMENT:
        _write_element(index, into)
    elif kind in (TargetKind.MEAN, TargetKind.SUM):
        elements = into.mean if kind is TargetKind.MEAN else into.sum
        elements.SetInParent()
        elements.indices.extend(int(i) for i in index or ())
    elif kind in (TargetKind.LOG_PROBABILITY, TargetKind.NEGATIVE_LOG_LIKELIHOOD):
        likely = kind is TargetKind.LOG_PROBABILITY
        label = into.log_probability if likely else into.negative_log_likelihood
        label.SetInParent()
        if isinstance(index, str):
            label.class_name = index
        elif index is not None:
            label.index = int(index)
    else:
        into.predicted.SetInParent()


def _write_element(index: Any, into: attribution_pb2.Target) -> None:
    if isinstance(index, str):
        into.class_name = index
    elif isinstance(index, tuple | list):
        into.position.indices.extend(int(i) for i in index)
    else:
        into.index = int(index)


def _index(index: Any, row: int) -> Any:
    """Return a target's index for one window; arrays hold one for each."""
    if not isinstance(index, np.ndarray):
        return index
    flat = index.reshape(-1)
    return int(flat[row] if len(flat) > 1 else flat[0])


def _identify(job: Job, into: attribution_pb2.Explanation) -> None:
    into.node_id = job.node_id
    into.window_index = job.index
    if job.first_sequence is not None:
        into.first_sequence = job.first_sequence
    if job.last_sequence is not None:
        into.last_sequence = job.last_sequence
    if job.capture_time_ns is not None:
        into.capture_time_ns = job.capture_time_ns
    into.transmitter = job.transmitter
    if job.link is not None:
        into.link = job.link
