"""From the contract's messages to ``results``. Nothing is computed, and nothing is invented: absent stays None."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import json_format, struct_pb2

from tonescope import results as r
from tonescope.errors import from_problem
from tonescope.tensors import to_array
from tonescope.v1 import attribution_pb2, csi_pb2, error_pb2, live_pb2, method_service_pb2, model_pb2, tensor_pb2

_NO_TONES = np.zeros(0, dtype=np.float32)
_NO_TABLE = r.ToneTable("")
_KINDS = {
    csi_pb2.TONE_KIND_UNSPECIFIED: "unknown",
    csi_pb2.TONE_KIND_DATA: "data",
    csi_pb2.TONE_KIND_PILOT: "pilot",
    csi_pb2.TONE_KIND_NULL: "null",
}


def tone_table(message: csi_pb2.ToneTable) -> r.ToneTable:
    """Read a tone table."""
    return r.ToneTable(
        message.id,
        tuple(
            r.Tone(
                row=tone.row,
                subcarrier_index=tone.subcarrier_index if tone.HasField("subcarrier_index") else None,
                offset_hz=tone.offset_hz if tone.HasField("offset_hz") else None,
                kind=_KINDS.get(tone.kind, "unknown"),
                training_field=tone.training_field,
                frequency_mhz=tone.frequency_mhz if tone.HasField("frequency_mhz") else None,
                name=tone.name,
            )
            for tone in message.tones
        ),
        "features" if message.rows_are == csi_pb2.ROWS_ARE_FEATURES else "tones",
        message.centre_mhz if message.HasField("centre_mhz") else None,
        tuple(message.links),
        tuple(message.components),
    )


def plain(message: struct_pb2.Struct) -> dict[str, Any]:
    """Read a Struct: whole numbers come back as int."""
    return {name: _whole(value) for name, value in json_format.MessageToDict(message).items()}


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {name: _whole(each) for name, each in value.items()} if isinstance(value, dict) else value


def target(message: attribution_pb2.Target) -> dict[str, Any]:
    """Read a resolved target, such as ``{"index": 3}``."""
    read: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return {name: int(value) if name == "index" else value for name, value in read.items()}


def prediction(message: attribution_pb2.Prediction) -> r.Prediction:
    """Read a prediction."""
    return r.Prediction(
        class_index=message.class_index if message.HasField("class_index") else None,
        class_name=message.class_name,
        probability=message.probability if message.HasField("probability") else None,
        scores=np.array(message.scores, dtype=np.float32),
        class_never_trained=message.class_never_trained if message.HasField("class_never_trained") else None,
        outputs={name: to_array(tensor) for name, tensor in message.outputs.items()},
    )


def explanation(message: attribution_pb2.Explanation, table: r.ToneTable = _NO_TABLE) -> r.Explanation:
    """Read one explanation, whose rows are those of ``table``."""
    has = message.HasField
    return r.Explanation(
        node_id=message.node_id,
        first_sequence=message.first_sequence if has("first_sequence") else None,
        last_sequence=message.last_sequence if has("last_sequence") else None,
        capture_time_ns=message.capture_time_ns if has("capture_time_ns") else None,
        window_index=message.window_index,
        prediction=prediction(message.prediction),
        target=target(message.target),
        score=message.score if has("score") else None,
        tones=to_array(message.tones) if has("tones") else _NO_TONES,
        cells=_optional(message.cells) if has("cells") else None,
        top=tuple(_top(each, table) for each in message.top),
        tone_table=table if table.tones else r.ToneTable(message.tone_layout),
        convergence_delta=message.convergence_delta if has("convergence_delta") else None,
        null_tone_share=message.null_tone_share if has("null_tone_share") else None,
        warnings=tuple(r.ResultWarning(each.code, each.message) for each in message.warnings),
        running=_running(message.running) if has("running") else None,
        model_digest=message.model_digest,
        method=message.method.name,
        parameters=plain(message.method.parameters),
        rule_set=message.rule_set,
        normalisation=message.normalisation,
        queue_ms=message.queue_ms,
        compute_ms=message.compute_ms,
        dropped_before=message.dropped_before,
        evaluations=message.evaluations if has("evaluations") else None,
        standard_error=_optional(message.standard_error) if has("standard_error") else None,
        problem=from_problem(message.problem) if has("problem") else None,
        declared_rows=_optional(message.declared_rows) if has("declared_rows") else None,
        parts=_optional(message.parts) if has("parts") else None,
        transmitter=message.transmitter,
        link=message.link if has("link") else None,
        maps={name: to_array(tensor) for name, tensor in message.maps.items()},
        units=_optional(message.units) if has("units") else None,
        batches=message.batches if has("batches") else None,
    )


def _optional(tensor: tensor_pb2.Tensor) -> r.Array | None:
    return to_array(tensor) if tensor.dtype else None


def _top(message: attribution_pb2.TopTone, table: r.ToneTable) -> r.TopTone:
    known = table.tones[message.row] if message.row < len(table) else None
    return r.TopTone(message.row, message.attribution, known)


def _running(message: attribution_pb2.RunningStatistics) -> r.RunningStatistics:
    return r.RunningStatistics(message.count, to_array(message.mean), _optional(message.standard_error))


def model_info(message: model_pb2.ModelSummary) -> r.ModelInfo:
    """Read one line of the model list."""
    return r.ModelInfo(
        name=message.name,
        version=message.version,
        state=word(model_pb2.ModelState.Name(message.state), "MODEL_STATE_"),
        failure=message.failure,
        digest=message.digest,
        description=message.description,
    )


def tensor_info(message: model_pb2.TensorSpec) -> r.TensorInfo:
    """Read the description of a value in a graph."""
    dtype = word(tensor_pb2.DataType.Name(message.dtype), "DATA_TYPE_")
    return r.TensorInfo(message.name, dtype, tuple(message.shape), message.op_type)


def model_detail(message: model_pb2.ModelDetail) -> r.ModelDetail:
    """Read everything known about one model."""
    return r.ModelDetail(
        info=model_info(message.summary),
        manifest=json.loads(message.manifest_json or "{}"),
        input=tensor_info(message.input),
        outputs=tuple(
            r.OutputInfo(tensor_info(o.tensor), o.kind, tuple(o.class_names), tuple(o.trained_classes))
            for o in message.outputs
        ),
        layers=tuple(tensor_info(each) for each in message.layers),
        operators=tuple((each.op_type, each.count, each.differentiable) for each in message.operators),
        methods={each.method: "" if each.applicable else each.why_not for each in message.methods},
        tone_table=tone_table(message.tone_table),
        warnings=tuple(message.warnings),
    )


def methods(message: method_service_pb2.ListMethodsResponse) -> r.Methods:
    """Read the method list."""
    failures: dict[str, str] = {}
    for each in message.failures:  # a plugin may fail in several ways
        failures[each.plugin] = "; ".join(filter(None, (failures.get(each.plugin), each.message)))
    return r.Methods(
        tuple(_method(each) for each in message.methods),
        failures,
        tuple(_rule_set(each) for each in message.rule_sets),
    )


def _rule_set(message: method_service_pb2.RuleSet) -> r.RuleSetInfo:
    return r.RuleSetInfo(
        message.name,
        message.summary,
        message.source,
        message.plugin,
        message.version,
        message.reference,
        message.relevance,
    )


def _method(message: method_service_pb2.Method) -> r.MethodInfo:
    schema: Mapping[str, Any] = json.loads(message.parameters_json_schema or "{}")
    requirement = word(method_service_pb2.Requirement.Name(message.requirement), "REQUIREMENT_")
    return r.MethodInfo(
        message.name,
        message.summary,
        schema,
        requirement,
        message.source,
        message.plugin,
        message.version,
        message.complete,
        message.quarantined,
    )


def opened(message: live_pb2.Opened) -> r.Opened:
    """Read what was negotiated."""
    return r.Opened(
        stream_id=message.stream_id,
        model=message.model,
        model_version=message.model_version,
        model_digest=message.model_digest,
        tone_table=tone_table(message.tone_table),
        window_frames=message.windowing.window_frames,
        hop_frames=message.windowing.hop_frames,
        normalisation=word(csi_pb2.Normalisation.Name(message.normalisation), "NORMALISATION_"),
        method=message.method.name,
        parameters=plain(message.method.parameters),
        queue_windows=message.queue_windows,
        overload=word(live_pb2.OverloadPolicy.Name(message.overload_policy), "OVERLOAD_POLICY_"),
        inline=message.inline,
        window_shape=tuple(message.window_shape),
        frame_lengths=tuple(message.frame_lengths),
    )


def summary(message: live_pb2.Summary) -> r.Summary:
    """Read the daemon's counts of a stream."""
    return r.Summary(
        frames_received=message.frames_received,
        frames_used=message.frames_used,
        frames_skipped=dict(message.frames_skipped),
        windows=message.windows,
        explained=message.explained,
        dropped=message.dropped,
        failed=message.failed,
        gaps=message.gaps,
        reordered=message.reordered,
        duplicates=message.duplicates,
        findings=dict(message.findings),
    )


def warning(message: error_pb2.Warning) -> r.Notice:
    """Read a warning about a stream."""
    return r.Notice(
        kind="warning",
        code=message.code,
        message=message.message,
        severity=word(error_pb2.Severity.Name(message.severity), "SEVERITY_"),
        remedy=message.remedy,
        figures=dict(message.figures),
        node_id=message.node_id if message.HasField("node_id") else None,
    )


def word(name: str, prefix: str) -> str:
    """Turn an enum's name into the plain word: ``MODEL_STATE_READY`` → ``ready``."""
    word = name.removeprefix(prefix).lower()
    return "" if word == "unspecified" else word
