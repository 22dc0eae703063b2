"""Requests as a client without a library would write them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tonescope.v1 import attribution_pb2, attribution_service_pb2, csi_pb2, live_pb2, model_pb2, tensor_pb2

Request = live_pb2.LiveRequest


Response = live_pb2.LiveResponse


BATCH = np.random.default_rng(5).normal(size=(6, 56, 4)).astype(np.float32)


def tensor(array: Any) -> tensor_pb2.Tensor:
    array = np.asarray(array, "<f4")
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())


def array(message: tensor_pb2.Tensor) -> Any:
    return np.frombuffer(message.data, "<f4").reshape(tuple(message.shape))


def window(values: Any, node: int = 0, **fields: Any) -> csi_pb2.Window:
    return csi_pb2.Window(values=tensor(values), node_id=node, **fields)


def options(model: str = "tiny", method: str = "", **parameters: Any) -> attribution_pb2.ExplainOptions:
    asked = attribution_pb2.ExplainOptions(model=model_pb2.ModelRef(name=model))
    asked.method.name = method
    asked.method.parameters.update(parameters)
    return asked


def explain_request(
    values: Any = BATCH[:1], asked: attribution_pb2.ExplainOptions | None = None, **fields: Any
) -> attribution_service_pb2.ExplainRequest:
    return attribution_service_pb2.ExplainRequest(
        options=asked or options(), windows=[window(each) for each in values], **fields
    )


def opening(asked: attribution_pb2.ExplainOptions | None = None, **fields: Any) -> Request:
    return Request(open=live_pb2.Open(options=asked or options(), **fields))


def windows(values: Any, **fields: Any) -> Request:
    return Request(windows=live_pb2.WindowBatch(windows=[window(each, **fields) for each in values]))


def frames(*messages: csi_pb2.Frame) -> Request:
    return Request(frames=live_pb2.FrameBatch(frames=messages))
