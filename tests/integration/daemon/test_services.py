"""The other services: models, methods, health and reflection."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tonescope.v1 import (
    method_service_pb2,
    method_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tonescope_server.engine.explainer import installed_plugins

from .messages import BATCH, opening, windows
from .talk import Conversation


def test_models_are_listed_with_why_one_cannot_be_used(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    models = {each.name: each for each in stub.ListModels(model_service_pb2.ListModelsRequest()).models}
    assert set(models) == {"tiny", "ruleless", "broken"}
    assert models["tiny"].state == model_pb2.MODEL_STATE_READY
    assert models["tiny"].description == "a tiny classifier"
    assert models["broken"].state == model_pb2.MODEL_STATE_FAILED
    assert "model.onnx" in models["broken"].failure


def test_a_model_tells_what_it_is_and_what_applies_to_it(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)

    def get(name: str) -> model_pb2.ModelDetail:
        request = model_service_pb2.GetModelRequest(model=model_pb2.ModelRef(name=name))
        return stub.GetModel(request).model

    tiny = get("tiny")
    assert (tiny.input.name, tuple(tiny.input.shape), tiny.input.dtype) == ("x", (-1, 56, 4), 1)
    assert list(tiny.outputs[0].class_names) == ["empty", "one", "two"]
    assert list(tiny.outputs[0].trained_classes) == [0, 1]
    assert {each.op_type for each in tiny.operators} == {"Flatten", "MatMul", "Relu"}
    # It has no convolution and no attention, and only methods that read one of these do not apply.
    methods = installed_plugins().methods
    refused = {each.method for each in tiny.methods if not each.applicable}
    assert refused == {name for name, method in methods.items() if method.requirement in ("layer", "attention")}
    assert tiny.tone_table.id == "ruview56"
    assert "cell_order" in tiny.manifest_json
    assert "hidden" in [layer.name for layer in tiny.layers]
    why = {each.method: each.why_not for each in get("ruleless").methods}
    assert "Hardmax" in why["saliency"]
    assert why["occlusion"] == ""


def test_a_model_is_unloaded_and_loaded_while_a_stream_keeps_it(start_daemon: Any) -> None:
    with grpc.insecure_channel(start_daemon().address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        ref = model_pb2.ModelRef(name="tiny")
        talk = Conversation(channel, opening())
        watch = stub.WatchModels(model_service_pb2.WatchModelsRequest())
        states = ({m.name: m.state for m in each.models}["tiny"] for each in watch)
        assert next(states) == model_pb2.MODEL_STATE_READY
        unloaded = stub.UnloadModel(model_service_pb2.UnloadModelRequest(model=ref)).model
        assert unloaded.state == model_pb2.MODEL_STATE_UNLOADED
        assert next(states) == model_pb2.MODEL_STATE_UNLOADED
        talk.say(windows(BATCH[:1]))
        assert talk.next("explanations").explanations.explanations[0].model_digest == unloaded.digest
        loaded = stub.LoadModel(model_service_pb2.LoadModelRequest(model=ref)).model
        assert loaded.state == model_pb2.MODEL_STATE_READY
        assert next(states) == model_pb2.MODEL_STATE_READY
        watch.cancel()
        talk.end()


def test_methods_are_listed_with_their_parameters_as_json_schema(channel: grpc.Channel) -> None:
    stub = method_service_pb2_grpc.MethodServiceStub(channel)
    response = stub.ListMethods(method_service_pb2.ListMethodsRequest())
    methods = {each.name: each for each in response.methods}
    assert {"saliency", "input_x_gradient", "integrated_gradients", "occlusion", "subcarrier_saliency"} <= set(methods)
    assert '"n_steps"' in methods["integrated_gradients"].parameters_json_schema
    assert methods["integrated_gradients"].complete
    assert methods["occlusion"].requirement == method_service_pb2.REQUIREMENT_PREDICTIONS
    assert all(each.plugin and each.version and each.summary for each in methods.values())
    assert not response.failures


def test_health_and_reflection_name_every_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "tonescope.v1.AttributionService", "tonescope.v1.ModelService", "tonescope.v1.MethodService"):
        status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    names = {s.name for r in reflect.ServerReflectionInfo(iter([request])) for s in r.list_services_response.service}
    assert {"tonescope.v1.AttributionService", "grpc.health.v1.Health"} <= names
