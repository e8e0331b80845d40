"""What the daemon says of itself: structured logs and Prometheus metrics.

Neighbours: `compose` sets both up; the figures come from the `statistics()` of each part, read when
they are asked for, so that counting costs nothing while work is done.
Invariant: an event name is a dotted constant with bound ids; never a payload, a token or a title.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

# Of every figure, for whoever looks at a dashboard.
HELP: Final = {
    "connections": "WebSocket connections that are open now.",
    "subscriptions": "Conversations that open connections follow, each counted once a connection.",
    "connections_lagging": "Connections whose peer does not read as fast as it is written to.",
    "slow_consumer_closes_total": "Connections closed because their peer had stopped reading.",
    "turns_running": "Turns that run now, in all accounts.",
    "conversations_live": "Conversations held in memory.",
    "events_total": "Events made durable since the start.",
    "commits_total": "Transactions that made events durable since the start.",
    "deliveries_total": "Events written to watchers since the start, counted once a watcher.",
    "writes_total": "Writes to watchers since the start; each may carry many events.",
    "ring_bytes": "Bytes of events kept in memory for those who watch.",
    "storage_refusing": "1 while the disk takes no more and new turns are refused, else 0.",
    "auth_refused_total": "Credentials refused since the start: unknown, expired, tried too often.",
}

Figures = Callable[[], dict[str, float]]


def configure_logging(level: str, *, pretty: bool | None = None) -> None:
    """Log to stderr: for people on a terminal, a JSON object a line otherwise."""
    pretty = sys.stderr.isatty() if pretty is None else pretty
    renderer: structlog.typing.Processor = (
        # A pretty traceback would show every local, and with them prompts and keys.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer()
    )
    exceptions: list[structlog.typing.Processor] = (
        [] if pretty else [structlog.processors.format_exc_info]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # uvicorn and asyncio speak through the standard library: only what went wrong, and in the same
    # form, so that no line of the log is anything else.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _name_library,
                *exceptions,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _name_library(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """What a library said, under an event name of ours."""
    said, record = event["event"], event["_record"]
    return {**event, "event": "library.said", "library": record.name, "message": said}


class Metrics:
    """The registry of one daemon."""

    def __init__(self) -> None:
        """Begin with the distributions; `collect_from` adds the counts."""
        self._registry = CollectorRegistry()
        self._commit_events = Histogram(
            "dispatch_journal_batch_events",
            "Events of one commit to the disk.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self._commit_seconds = Histogram(
            "dispatch_journal_commit_seconds",
            "Seconds from a commit's begin until the disk had it.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first_delta_seconds = Histogram(
            "dispatch_first_delta_seconds",
            "Seconds from a turn's start until its first text was durable.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def committed(self, events: int, seconds: float) -> None:
        """One commit."""
        self._commit_events.observe(events)
        self._commit_seconds.observe(seconds)

    def first_delta(self, seconds: float) -> None:
        """One turn's first text."""
        self._first_delta_seconds.observe(seconds)

    def collect_from(self, figures: Figures) -> None:
        """Read these figures at each scrape; a name that ends in `_total` is a counter."""
        self._registry.register(_Figures(figures))

    def text(self) -> bytes:
        """The exposition of `/metrics`."""
        return generate_latest(self._registry)


class _Figures(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        for name, value in self._figures().items():
            full, text = f"dispatch_{name}", HELP[name]
            if name.endswith("_total"):
                counter = CounterMetricFamily(full.removesuffix("_total"), text)
                counter.add_metric([], value)
                yield counter
            else:
                gauge = GaugeMetricFamily(full, text)
                gauge.add_metric([], value)
                yield gauge
