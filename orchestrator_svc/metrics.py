"""Prometheus metrics of the orchestrator, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_CALL_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1200.0)


class Metrics:
    """Everything that is counted; one instance per service."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.active_projects = Gauge(
            "orchestrator_active_projects", "Projects executed now.", registry=registry
        )
        self.runner_failures = Counter(
            "orchestrator_runner_failures_total",
            "Runners that ended before their project, by exception.",
            ["error"],
            registry=registry,
        )
        self.agent_calls = Histogram(
            "orchestrator_agent_call_seconds",
            "Duration of agent calls by stage and outcome.",
            ["stage", "outcome"],
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self._call_seconds: dict[tuple[str, str], Histogram] = {}  #: by stage and outcome
        self.ack_seconds = Histogram(
            "orchestrator_ack_seconds",
            "From offering a batch to its ack.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.batch_mutations = Histogram(
            "orchestrator_batch_mutations",
            "Mutations per batch.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 500, 5000),
            registry=registry,
        )
        self.frame_batches = Histogram(
            "orchestrator_frame_batches",
            "Batches per frame.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 1000),
            registry=registry,
        )
        self.unacked_batches = Gauge(
            "orchestrator_unacked_batches", "Batches in the outbox.", registry=registry
        )
        self.spooled_bytes = Gauge(
            "orchestrator_spooled_bytes", "Size of the spool's file.", registry=registry
        )
        self.rejects = Counter(
            "orchestrator_rejected_batches_total",
            "Batches that state_svc refused, by cause.",
            ["reason"],
            registry=registry,
        )
        self.stream_connected = Gauge(
            "orchestrator_stream_connected",
            "1 while the mutation stream is open.",
            registry=registry,
        )
        self.leases_lost = Counter(
            "orchestrator_leases_lost_total", "Leases taken over by others.", registry=registry
        )

    def call_ended(self, stage: str, outcome: str, seconds: float) -> None:
        """Count an agent call."""
        known = self._call_seconds.get((stage, outcome))
        if known is None:
            known = self.agent_calls.labels(stage=stage, outcome=outcome)
            self._call_seconds[stage, outcome] = known
        known.observe(seconds)
