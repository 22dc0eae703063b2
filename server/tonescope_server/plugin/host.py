"""The host: finds plugins by their entry points and loads them one by one. One that fails takes nothing with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import pluggy

from tonescope_server.csi.decoders import Decoder
from tonescope_server.errors import NotFoundError, PluginError, PluginTimeoutError, UnknownMethodError
from tonescope_server.gradients.rule_set import RuleSet
from tonescope_server.marker import NAME
from tonescope_server.models.architectures import Architecture
from tonescope_server.plugin import hookspecs
from tonescope_server.plugin.api import Method
from tonescope_server.plugin.conduct import Conduct, Kind, said_by
from tonescope_server.plugin.metric import Metric
from tonescope_server.plugin.statements import check_statements


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be loaded, and why, in one line."""

    plugin: str
    message: str


@dataclass(frozen=True)
class Origin:
    """Where something comes from: the plugin, its distribution and version."""

    plugin: str
    distribution: str
    version: str


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass
class PluginHost:
    """Everything that plugins offer, by kind and name.

    Attributes:
        methods: attribution methods.
        rule_sets: backward rule sets.
        architectures: what turns safetensors weights into graphs.
        decoders: CSI formats.
        normalisers: of windows.
        diagnostics: of a model over data: metrics that judge explanations.
        sinks: places that explanations are also sent to.
        failures: plugins that could not be loaded.
        conduct: what methods did wrong since.
    """

    methods: dict[str, Method] = field(default_factory=dict)
    rule_sets: dict[str, RuleSet] = field(default_factory=dict)
    architectures: dict[str, Architecture] = field(default_factory=dict)
    decoders: dict[str, Decoder] = field(default_factory=dict)
    normalisers: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Metric] = field(default_factory=dict)
    sinks: dict[str, Any] = field(default_factory=dict)
    failures: list[PluginFailure] = field(default_factory=list)
    conduct: Conduct = field(default_factory=Conduct)
    _origins: dict[tuple[str, str], Origin] = field(default_factory=dict)

    @classmethod
    def load(cls, points: Iterable[EntryPoint] | None = None) -> PluginHost:
        """Load every plugin of the entry-point group ``tonescope``, or the given ones.

        A plugin that raises while it is imported or asked, that implements an unknown hook, or that offers a name
        already taken or a method that does not say what it is, is recorded in ``failures``; whatever else it and
        others offer is kept.
        """
        host = cls()
        for point in sorted(entry_points(group=NAME) if points is None else points, key=_builtin_first):
            host._load_one(point)
        return host

    def method(self, name: str) -> Method:
        """Return a method by name.

        Raises:
            UnknownMethodError: there is none; the message lists those there are.
        """
        if name not in self.methods:
            raise UnknownMethodError(f"no method named '{name}'; there are {', '.join(sorted(self.methods))}")
        return self.methods[name]

    def rule_set(self, name: str) -> RuleSet:
        """Return a rule set by name.

        Raises:
            NotFoundError: there is none; the message lists those there are.
        """
        if name not in self.rule_sets:
            raise NotFoundError(f"no rule set named '{name}'; there are {', '.join(sorted(self.rule_sets))}")
        return self.rule_sets[name]

    def metric(self, name: str) -> Metric:
        """Return a metric of explanations by name.

        Raises:
            NotFoundError: there is none; the message lists those there are.
        """
        if name not in self.diagnostics:
            raise NotFoundError(f"no metric named '{name}'; there are {', '.join(sorted(self.diagnostics))}")
        return self.diagnostics[name]

    def origin(self, kind: str, name: str) -> Origin:
        """Tell which plugin offers ``name``; ``kind`` is a field of this class, such as ``methods``."""
        return self._origins[kind, name]

    def named(self, method: Method) -> str:
        """Name a method, and the plugin that it comes from, where it was loaded as one."""
        plugin = self.plugin_of(method.name)
        return f"method '{method.name}' of plugin '{plugin}'" if plugin else f"method '{method.name}'"

    def blame(self, method: Method, error: BaseException) -> PluginError:
        """Put whatever a method raised into one line, and note it."""
        blamed = PluginError(f"{self.named(method)} failed: {said_by(error)}")
        self.conduct.note(self.plugin_of(method.name), method.name, Kind.FAILED, str(blamed), error)
        return blamed

    def hung(self, method: str, limit_s: float) -> PluginTimeoutError:
        """Note that a method did not come back, and return the error that says so."""
        error = PluginTimeoutError(
            f"{self.named(self.method(method))} hung: its code did not come back within {limit_s:g} s"
        )
        self.conduct.note(self.plugin_of(method), method, Kind.HUNG, str(error))
        return error

    def refuse_quarantined(self, method: str) -> None:
        """Refuse a method that was quarantined for what it did.

        Raises:
            PluginError: it was; the message says why.
        """
        if method in self.conduct.quarantined:
            self.conduct.refuse(method, self.named(self.method(method)))

    def plugin_of(self, method: str) -> str:
        """Return the plugin that a method comes from; "" where it was not loaded as one."""
        origin = self._origins.get(("methods", method))
        return origin.plugin if origin is not None else ""

    def _load_one(self, point: EntryPoint) -> None:
        manager = pluggy.PluginManager(NAME)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(point.load(), name=point.name)
            manager.check_pending()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it raises must not take the daemon down
            self._failed(point, error)
            return
        for kind, table in self._tables().items():
            hook: Callable[[], list[list[_Named]]] = getattr(manager.hook, f"tonescope_{kind}")
            try:
                offered = [item for items in hook() for item in items]
            except (Exception, SystemExit) as error:  # noqa: BLE001  as above
                self._failed(point, error)
                continue
            for item in offered:
                try:
                    self._take(kind, table, item, point)
                except (Exception, SystemExit) as error:  # noqa: BLE001  as above
                    self._failed(point, error)

    def _take(self, kind: str, table: dict[str, Any], item: _Named, point: EntryPoint) -> None:
        if kind == "methods":
            check_statements(item)
        if item.name in table:
            taken = self._origins[kind, item.name].plugin
            raise ValueError(f"{kind} '{item.name}' is already offered by plugin '{taken}'")
        table[item.name] = item
        distribution = point.dist
        self._origins[kind, item.name] = Origin(
            point.name,
            distribution.name if distribution else "",
            distribution.version if distribution else "",
        )

    def _failed(self, point: EntryPoint, error: BaseException) -> None:
        self.failures.append(PluginFailure(point.name, said_by(error)))

    def _tables(self) -> Mapping[str, dict[str, Any]]:
        return {
            "methods": self.methods,
            "rule_sets": self.rule_sets,
            "architectures": self.architectures,
            "decoders": self.decoders,
            "normalisers": self.normalisers,
            "diagnostics": self.diagnostics,
            "sinks": self.sinks,
        }


def _builtin_first(point: EntryPoint) -> tuple[bool, str]:
    """Load the project's own plugins first, so that no other can take one of their names."""
    return (not point.module.startswith(("tonescope_server.", "tonescope_plugins.")), point.name)
