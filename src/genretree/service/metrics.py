"""Prometheus metrics of a service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Metrics of one service; a process may have several services."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "genretree_requests", "Responses sent.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "genretree_request_seconds",
            "From a request's headers to the end of its response.",
            ["route"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.stages = Histogram(
            "genretree_stage_seconds",
            "Decoding and explaining (including the wait for a worker), network (including the wait for other files).",
            ["stage"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.rejected = Counter(
            "genretree_rejected",
            "Uploads, single files of an upload, and jobs that ended in a problem, by its kind.",
            ["kind"],
            registry=self.registry,
        )
        self.replaced = Counter(
            "genretree_workers_replaced",
            "Workers that were killed or died.",
            ["pool", "reason"],
            registry=self.registry,
        )

    def add_gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed when the metrics are read."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def count_rejection(self, kind: str) -> None:
        """Count an upload, one file of an upload, or a job that ended in a problem."""
        self.rejected.labels(kind).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
