"""The models in use, each with its explainer and its prepared requests, shared by every call.

Loading and compiling take long: both happen on the executor, once, while other calls go on.
"""

from __future__ import annotations

import asyncio
import marshal
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from hashlib import sha256
from operator import itemgetter
from threading import Lock
from typing import Any

from tonescope_server.csi.cells import cell_map
from tonescope_server.engine.explainer import Explainer
from tonescope_server.engine.plan import PlanCache
from tonescope_server.engine.prepared import Prepared
from tonescope_server.models.model import Model
from tonescope_server.models.rows import row_table
from tonescope_server.models.store import ModelStore
from tonescope_server.plugin.host import PluginHost
from tonescope_server.types import Target

DEFAULT_METHOD = "input_x_gradient"
# Explainers kept: one a model and tone layout that was asked for.
MAX_EXPLAINERS = 64
# Requests kept ready for each of them.
MAX_PREPARED = 64


class ModelInUse:
    """One model under one tone layout, and the requests prepared on it."""

    def __init__(self, explainer: Explainer, source: Model) -> None:
        self.explainer = explainer
        self.source = source
        self._prepared: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._lock = Lock()

    @property
    def model(self) -> Model:
        """The model, its tones as they were asked for."""
        return self.explainer.model

    def prepare(
        self, method: str, target: Target | None, parameters: Mapping[str, Any], timed: bool = True
    ) -> Prepared:
        """Return a request ready to run; its cost measured, where ``timed``. Blocks: call it on the executor.

        To measure it is to run it to its end, which who wants what comes before the end does not wait for; and what one
        window costs says nothing of another where the cost is not bounded.

        Raises:
            TonescopeError: what is wrong with the method, the target or a parameter.
        """
        # Of a hundred thousand numbers JSON would hold every other thread up for tens of milliseconds, and the memory.
        given = sha256(marshal.dumps(sorted(parameters.items(), key=itemgetter(0)))).digest()
        key = (method or DEFAULT_METHOD, target, given)
        self.explainer.host.refuse_quarantined(key[0])
        with self._lock:
            prepared = self._prepared.get(key)
            if prepared is not None:
                self._prepared.move_to_end(key)
        if prepared is None:
            prepared = self.explainer.prepare(key[0], target, parameters)
        if timed and prepared.is_bounded:
            _ = prepared.seconds_per_window  # measured here, where it may take its time, and once
        with self._lock:
            self._prepared[key] = prepared
            if len(self._prepared) > MAX_PREPARED:
                self._prepared.popitem(last=False)
        return prepared


class Explainers:
    """Models in use, by name, version and tone layout.

    Args:
        store: where models come from.
        host: methods, decoders and normalisers.
        executor: where loading and compiling happen.
        threads: of ONNX Runtime within one run.
        plan_cache_bytes: the most that compiled plans may take, for each model.
    """

    def __init__(
        self, store: ModelStore, host: PluginHost, executor: Executor, threads: int, plan_cache_bytes: int
    ) -> None:
        self.store = store
        self.host = host
        self.executor = executor
        self._threads = threads
        self._plan_cache_bytes = plan_cache_bytes
        self._in_use: OrderedDict[tuple[str, str, str], ModelInUse] = OrderedDict()
        self._lock = Lock()

    async def get(self, name: str, version: str = "", tone_layout: str = "") -> ModelInUse:
        """Return a model ready for use.

        Raises:
            StorePathError, UnknownModelError, ModelError: there is no such model, or it cannot be loaded.
            UnknownToneLayoutError, ShapeError: a tone layout that is not known, or of another length.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self._get, name, version, tone_layout)

    async def prepare(
        self, model: ModelInUse, method: str, target: Target | None, parameters: Mapping[str, Any], timed: bool = True
    ) -> Prepared:
        """Return a request ready to run; arguments and errors are those of ``ModelInUse.prepare``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, model.prepare, method, target, parameters, timed)

    def forget(self, name: str, version: str) -> None:
        """Let go of a model under every tone layout; calls that use it keep it until they end."""
        with self._lock:
            for key in [key for key in self._in_use if key[:2] == (name, version)]:
                del self._in_use[key]

    def _get(self, name: str, version: str, tone_layout: str) -> ModelInUse:
        model = self.store.get(name, version)
        key = (model.name, model.version, tone_layout)
        with self._lock:
            found = self._in_use.get(key)
            if found is not None and found.source is model:
                self._in_use.move_to_end(key)
                return found
            relabelled = with_tones(model, tone_layout)
            cache = PlanCache(self._plan_cache_bytes)
            made = ModelInUse(Explainer(relabelled, self.host, threads=self._threads, cache=cache), model)
            self._in_use[key] = made
            self._in_use.move_to_end(key)
            if len(self._in_use) > MAX_EXPLAINERS:
                self._in_use.popitem(last=False)
            return made


def with_tones(model: Model, tone_layout: str) -> Model:
    """Return a model whose rows are the tones of another layout; the model itself where none is named.

    Raises:
        UnknownToneLayoutError: no layout of that id.
        ShapeError: a layout of another number of rows.
    """
    if tone_layout in ("", model.table.id):
        return model
    table = row_table(model.manifest, tone_layout)
    cells = model.cells
    relabelled = cell_map(cells.shape, table, cells.cell_order, cells.n_frames, cells.links, cells.components)
    return replace(model, table=table, cells=relabelled)
