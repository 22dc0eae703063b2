"""What Prometheus may read. Nothing is counted here: the streams' own totals are read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tonescope_server.live.progressive import ProgressiveTotals
from tonescope_server.live.session import Totals
from tonescope_server.plugin.host import PluginHost


class StreamCollector(Collector):
    """Reads the totals over all live streams, and what plugins did wrong."""

    def __init__(self, totals: Totals, host: PluginHost) -> None:
        self._totals = totals
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """Return every metric as it is now."""
        totals = self._totals
        yield GaugeMetricFamily("tonescope_streams_open", "Live streams now.", totals.open_streams)
        yield CounterMetricFamily("tonescope_streams", "Live streams since the start.", totals.streams)
        windows = CounterMetricFamily("tonescope_windows", "Windows, by what became of them.", labels=["outcome"])
        windows.add_metric(["explained"], totals.explained)
        windows.add_metric(["failed"], totals.failed)
        windows.add_metric(["dropped"], totals.dropped)
        yield windows
        findings = CounterMetricFamily(
            "tonescope_findings", "What the checks of live streams found, node by node.", labels=["code"]
        )
        for code, count in sorted(totals.findings.items()):
            findings.add_metric([code], count)
        yield findings
        yield from _progressive(totals.progressive)
        yield from _plugins(self._host)
        yield CounterMetricFamily("tonescope_compute_seconds", "Time spent explaining.", totals.compute_s)
        yield CounterMetricFamily("tonescope_queue_seconds", "Time windows waited.", totals.queue_s)


def _progressive(totals: ProgressiveTotals) -> Iterator[Metric]:
    """Return the metrics of explanations that get better with time."""
    yield GaugeMetricFamily("tonescope_progressive_open", "Progressive calls now.", totals.open_calls)
    yield CounterMetricFamily("tonescope_progressive", "Progressive calls since the start.", totals.calls)
    updates = CounterMetricFamily(
        "tonescope_progressive_updates", "Estimates that got better, and those that were sent.", labels=["outcome"]
    )
    updates.add_metric(["found"], totals.updates)
    updates.add_metric(["sent"], totals.sent)
    yield updates
    windows = CounterMetricFamily(
        "tonescope_progressive_windows", "Windows of progressive calls, by why the work on them ended.", labels=["why"]
    )
    for why, count in sorted(totals.ended.items()):
        windows.add_metric([why], count)
    yield windows
    yield CounterMetricFamily(
        "tonescope_progressive_evaluations", "Model evaluations of progressive calls.", totals.evaluations
    )
    yield CounterMetricFamily(
        "tonescope_progressive_compute_seconds", "Time spent on progressive calls.", totals.compute_s
    )


def _plugins(host: PluginHost) -> Iterator[Metric]:
    """Return the metrics of plugins: those that were not loaded, and what methods did wrong."""
    yield GaugeMetricFamily(
        "tonescope_plugins_not_loaded", "Plugins that failed to load, as a whole or in part.", len(host.failures)
    )
    incidents = CounterMetricFamily(
        "tonescope_method_incidents",
        "What methods did wrong: they failed, or hung.",
        labels=["plugin", "method", "kind"],
    )
    for (plugin, method, kind), count in sorted(host.conduct.counts.copy().items()):
        incidents.add_metric([plugin, method, kind], count)
    yield incidents
    quarantined = GaugeMetricFamily(
        "tonescope_methods_quarantined", "Methods that are refused until the next start.", labels=["method"]
    )
    for method in sorted(host.conduct.quarantined.copy()):
        quarantined.add_metric([method], 1)
    yield quarantined


def serve_metrics(totals: Totals, plugins: PluginHost, host: str, port: int) -> Callable[[], None]:
    """Serve the metrics over HTTP, from a thread of their own; return what stops it.

    Raises:
        OSError: the address cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(StreamCollector(totals, plugins))
    server, thread = start_http_server(port, host, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
