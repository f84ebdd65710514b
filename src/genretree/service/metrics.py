"""What a service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one service; several may live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "genretree_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "genretree_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.stages = Histogram(
            "genretree_stage_seconds",
            "Decoding (with the wait for a worker), network (with the wait for other files), explaining.",
            ["stage"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.rejected = Counter(
            "genretree_rejected",
            "Requests with files, single files of several, and jobs that ended in a problem, by its kind.",
            ["kind"],
            registry=self.registry,
        )
        self.replaced = Counter(
            "genretree_workers_replaced", "Workers killed or lost.", ["pool", "reason"], registry=self.registry
        )

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for when it is read."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def count_refusal(self, kind: str) -> None:
        """Count a request with files, one file of several, or a job that ended in a problem."""
        self.rejected.labels(kind).inc()

    def text(self) -> bytes:
        """Give all in Prometheus' text format."""
        return generate_latest(self.registry)
