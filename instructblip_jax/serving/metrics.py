"""Counters and timings of the server, in Prometheus' format."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import jax
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's own name of the event
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters that any thread may increment, and histograms of requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, Callable[[], float]] = {}
        self._warm = False
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.first_token = Histogram(
            "serve_first_token_seconds", "From a request to its first token.", buckets=SECONDS, registry=self.registry
        )
        self.whole = Histogram(
            "serve_request_seconds", "From a request to its last token.", buckets=SECONDS, registry=self.registry
        )
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def close(self) -> None:
        """Stop listening to JAX's compiler."""
        jax.monitoring.unregister_event_duration_listener(self._heard)

    def warm(self) -> None:
        """Count compilations from now on; there should be none."""
        self._warm = True

    def answered(self, path: str, status: int) -> None:
        """Record an answered request."""
        with self._lock:
            self._requests[path, str(status)] += 1

    def add(self, name: str, count: int = 1) -> None:
        """Increment one of the counters that `collect` lists."""
        with self._lock:
            self._counts[name] += count

    def show(self, name: str, value: Callable[[], float]) -> None:
        """Add a gauge, whose function is called whenever it is read."""
        self._gauges[name] = value

    def count(self, name: str) -> int:
        """The current value of a counter."""
        return self._counts[name]

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        requests = CounterMetricFamily("serve_requests", "Answered requests.", None, ("path", "status"))
        with self._lock:
            for key, count in self._requests.items():
                requests.add_metric(key, count)
        yield requests
        for name, what in (
            ("tokens", "Tokens written."),
            ("compilations", "Programs compiled since the server was ready; any is a fault."),
            ("hang_ups", "Requests whose client went away."),
        ):
            yield CounterMetricFamily(f"serve_{name}", what, value=self._counts[name])
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(f"serve_{name}", name.replace("_", " ").capitalize() + ".", value=value())

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _heard(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED and self._warm:
            self.add("compilations")
