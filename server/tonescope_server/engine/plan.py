"""Plans: what is compiled once and run many times, and the bounded cache that keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import onnx_ir as ir

from tonescope_server.engine.session import Session
from tonescope_server.types import ResultWarning


@dataclass(frozen=True)
class Plan:
    """One compiled graph and how it was made.

    Attributes:
        graph: the graph itself, for export.
        session: the graph compiled.
        rule_set: the backward rule set, or "".
        settled: what parameters that were left open came to on this model, by name.
        warnings: what a user should know of every answer.
    """

    graph: ir.Model
    session: Session
    rule_set: str = ""
    settled: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[ResultWarning, ...] = ()


class PlanCache:
    """Plans by key, least recently used first out once their graphs exceed a number of bytes.

    Safe to use from several threads. One plan larger than the bound is kept while it is in use by whoever made it, and
    by nobody else.
    """

    def __init__(self, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: Hashable, make: Callable[[], Plan]) -> Plan:
        """Return the plan of ``key``, made where it is not there."""
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
        plan = make()
        with self._lock:
            if key not in self._plans:
                self._plans[key] = plan
                self._bytes += plan.session.weights_bytes
            while self._bytes > self.max_bytes:
                _, dropped = self._plans.popitem(last=False)
                self._bytes -= dropped.session.weights_bytes
            return plan
