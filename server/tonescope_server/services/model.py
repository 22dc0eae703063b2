"""``ModelService``: the models in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from tonescope.v1 import model_pb2, tensor_pb2
from tonescope.v1 import model_service_pb2 as service_pb2
from tonescope.v1 import model_service_pb2_grpc as service_grpc
from tonescope_server.engine.explainer import Explainer
from tonescope_server.errors import UnavailableError
from tonescope_server.live.session import Drain
from tonescope_server.models.model import Model, TensorSpec
from tonescope_server.models.store import Entry, ModelState
from tonescope_server.services.convert import row_table_of
from tonescope_server.services.explainers import Explainers

_STATES = {
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.FAILED: model_pb2.MODEL_STATE_FAILED,
    ModelState.UNLOADED: model_pb2.MODEL_STATE_UNLOADED,
}
_DTYPES = {
    "float32": tensor_pb2.DATA_TYPE_FLOAT32,
    "float16": tensor_pb2.DATA_TYPE_FLOAT16,
    "float64": tensor_pb2.DATA_TYPE_FLOAT64,
    "int8": tensor_pb2.DATA_TYPE_INT8,
    "int64": tensor_pb2.DATA_TYPE_INT64,
}
T = TypeVar("T")


class StoreWatch:
    """Tells those who watch the store that something in it has changed."""

    def __init__(self) -> None:
        self._changes = 0
        self._changed = asyncio.Condition()

    async def tell(self) -> None:
        """Say that there was a change."""
        async with self._changed:
            self._changes += 1
            self._changed.notify_all()

    async def after(self, seen: int) -> int:
        """Wait for a change later than ``seen`` (0 at first), and return its number."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._changes > seen)
            return self._changes


class ModelService(service_grpc.ModelServiceServicer):
    """The daemon's model store."""

    def __init__(self, explainers: Explainers, watch: StoreWatch, drain: Drain) -> None:
        self._explainers = explainers
        self._store = explainers.store
        self._watch = watch
        self._drain = drain

    async def ListModels(  # noqa: N802  the contract's name, here and below
        self,
        request: service_pb2.ListModelsRequest,
        context: Any,
    ) -> service_pb2.ListModelsResponse:
        """List the models in the store."""
        return service_pb2.ListModelsResponse(models=await self._summaries())

    async def GetModel(  # noqa: N802
        self,
        request: service_pb2.GetModelRequest,
        context: Any,
    ) -> service_pb2.GetModelResponse:
        """Describe one model."""
        model = await self._explainers.get(request.model.name, request.model.version)
        detail = await self._off_the_loop(lambda: detail_of(model.explainer))
        return service_pb2.GetModelResponse(model=detail)

    async def LoadModel(  # noqa: N802
        self,
        request: service_pb2.LoadModelRequest,
        context: Any,
    ) -> service_pb2.LoadModelResponse:
        """Load, or load again, a model of the store."""
        asked = request.model
        await self._off_the_loop(self._store.refresh)
        model = await self._off_the_loop(lambda: self._store.load(asked.name, asked.version))
        await self._watch.tell()
        return service_pb2.LoadModelResponse(model=summary_of_model(model))

    async def UnloadModel(  # noqa: N802
        self,
        request: service_pb2.UnloadModelRequest,
        context: Any,
    ) -> service_pb2.UnloadModelResponse:
        """Unload a model; streams that use it keep it until they end."""
        asked = request.model
        entry = await self._off_the_loop(lambda: self._store.unload(asked.name, asked.version))
        self._explainers.forget(entry.name, entry.version)
        await self._watch.tell()
        return service_pb2.UnloadModelResponse(model=summary_of(entry))

    async def WatchModels(  # type: ignore[override]  # noqa: N802  a coroutine that writes, as the interceptor asks
        self,
        request: service_pb2.WatchModelsRequest,
        context: Any,
    ) -> None:
        """Send the list now and after every change, until the daemon drains."""
        drained = asyncio.create_task(self._drain.begun.wait())
        change = asyncio.create_task(self._watch.after(-1))
        try:
            while True:
                await asyncio.wait((change, drained), return_when=asyncio.FIRST_COMPLETED)
                if not change.done():
                    raise UnavailableError("the daemon is draining: connect elsewhere, or later")
                change = asyncio.create_task(self._watch.after(change.result()))
                await context.write(service_pb2.WatchModelsResponse(models=await self._summaries()))
        finally:
            # Whichever way the call ends, its client's going away included, nothing goes on waiting for it.
            change.cancel()
            drained.cancel()

    async def _summaries(self) -> list[model_pb2.ModelSummary]:
        return [summary_of(entry) for entry in await self._off_the_loop(self._store.list)]

    async def _off_the_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._explainers.executor, work)


def summary_of(entry: Entry) -> model_pb2.ModelSummary:
    """Return a store entry as the wire has it."""
    return model_pb2.ModelSummary(
        name=entry.name,
        version=entry.version,
        state=_STATES[entry.state],
        failure=entry.failure,
        digest=entry.digest,
        description=entry.description,
    )


def summary_of_model(model: Model) -> model_pb2.ModelSummary:
    """Return a loaded model as the wire has it."""
    return model_pb2.ModelSummary(
        name=model.name,
        version=model.version,
        state=model_pb2.MODEL_STATE_READY,
        digest=model.digest,
        description=model.manifest.model.description,
    )


def detail_of(explainer: Explainer) -> model_pb2.ModelDetail:
    """Return everything that is known about a model. Looks through its whole graph."""
    model = explainer.model
    return model_pb2.ModelDetail(
        summary=summary_of_model(model),
        manifest_json=model.manifest.model_dump_json(),
        input=spec_of(model.input),
        outputs=[_output_of(model, spec) for spec in model.outputs],
        layers=[spec_of(spec) for spec in explainer.layers()],
        operators=[
            model_pb2.OperatorCount(op_type=op_type, count=count, differentiable=differentiable)
            for op_type, count, differentiable in explainer.operators()
        ],
        methods=[
            model_pb2.MethodApplicability(method=name, applicable=not why_not, why_not=why_not)
            for name, why_not in explainer.applicability().items()
        ],
        tone_table=row_table_of(model),
        warnings=model.warnings,
    )


def spec_of(spec: TensorSpec) -> model_pb2.TensorSpec:
    """Return a value of a graph as the wire has it; types that the wire has not are left unspecified."""
    dtype = _DTYPES.get(spec.dtype, tensor_pb2.DATA_TYPE_UNSPECIFIED)
    return model_pb2.TensorSpec(name=spec.name, dtype=dtype, shape=spec.shape, op_type=spec.op_type)


def _output_of(model: Model, spec: TensorSpec) -> model_pb2.OutputSpec:
    stated = model.manifest.output(spec.name)
    return model_pb2.OutputSpec(
        tensor=spec_of(spec),
        kind=stated.kind,
        class_names=stated.class_names,
        trained_classes=stated.trained_classes,
    )
