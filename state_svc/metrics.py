"""Counters of the service and of each project, for GetStats and Prometheus (S0.6)."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ramify.v1.state_service_pb2 import Stats
from state_svc.store.payloads import PayloadTotals

if TYPE_CHECKING:
    from state_svc.ingest.committer import PendingBatch

_SAMPLES = 1_000  #: latest commits of the service whose times are kept
_PROJECT_SAMPLES = 200  #: the same for each project
_MAX_PROJECTS = 10_000  #: projects with counters of their own; the longest idle is forgotten
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_FILL = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000)


@dataclass(frozen=True, slots=True)
class StoredPart:
    """What one commit stored of one project."""

    original_bytes: int  #: of its segments before compression
    stored_bytes: int
    compressions: int  #: segments that were stored compressed


class Samples:
    """The latest of some durations, in seconds, at four bytes each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values = array("f")
        self._next = 0

    def add(self, seconds: float) -> None:
        """Note one; the oldest gives way."""
        if len(self._values) < self._most:
            self._values.append(seconds)
        else:
            self._values[self._next] = seconds
            self._next = (self._next + 1) % self._most

    def ordered(self) -> list[float]:
        """Return them, the shortest first."""
        return sorted(self._values)


@dataclass(slots=True)
class Counters:
    """What one project, or the service, has done since the service started."""

    immediate: int = 0
    mutations: int = 0
    batches: int = 0
    rejected: int = 0
    repeated: int = 0
    commits: int = 0
    failed: int = 0  #: commits that changed nothing; of the service only
    compressions: int = 0
    bytes_in: int = 0
    bytes_stored: int = 0
    # What follows is of the service only.
    payload_puts: int = 0
    payload_collections: int = 0
    payloads_collected: int = 0
    payloads: PayloadTotals = field(default_factory=PayloadTotals)
    seconds: Samples = field(default_factory=lambda: Samples(_PROJECT_SAMPLES))

    def to_stats(self) -> Stats:
        """Return the counters as the contract shows them."""
        seconds = self.seconds.ordered()
        return Stats(
            total_updates=self.mutations,
            batched_updates=self.mutations - self.immediate,
            immediate_updates=self.immediate,
            batches=self.batches,
            rejected_batches=self.rejected,
            repeated_batches=self.repeated,
            commits=self.commits,
            mean_batch_fill=self.mutations / self.commits if self.commits else 0.0,
            compressions=self.compressions,
            bytes_in=self.bytes_in,
            bytes_stored=self.bytes_stored,
            bytes_saved=max(0, self.bytes_in - self.bytes_stored),
            compression_ratio=self.bytes_in / self.bytes_stored if self.bytes_stored else 0.0,
            commit_seconds_p50=percentile(seconds, 0.50),
            commit_seconds_p90=percentile(seconds, 0.90),
            commit_seconds_p99=percentile(seconds, 0.99),
            failed_commits=self.failed,
            payload_count=self.payloads.count,
            payload_original_bytes=self.payloads.original_bytes,
            payload_stored_bytes=self.payloads.stored_bytes,
            payload_puts=self.payload_puts,
            payload_collections=self.payload_collections,
            payloads_collected=self.payloads_collected,
        )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the ordered values do not exceed; 0 if none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


class ServiceMetrics:
    """Owned by the event loop; Prometheus reads it from its own thread."""

    def __init__(self, *, prometheus_projects: int = 100) -> None:
        """Export series of their own for the `prometheus_projects` that wrote latest."""
        self.registry = CollectorRegistry()
        self.service = Counters(seconds=Samples(_SAMPLES))
        self._projects: dict[str, Counters] = {}  #: the one that wrote latest is last
        if prometheus_projects:
            self.registry.register(_ProjectSeries(self._projects, prometheus_projects))
        self._commit_seconds = Histogram(
            "ramify_state_commit_seconds",
            "From handing a commit to the store until it is durable.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._fill = Histogram(
            "ramify_state_batch_fill",
            "Mutations in a commit.",
            buckets=_FILL,
            registry=self.registry,
        )
        self._mutations = self._counter("mutations", "Mutations committed.")
        self._immediate = self._counter("immediate_mutations", "Mutations in immediate batches.")
        self._batches = self._counter("batches", "Batches committed.")
        self._commits = self._counter("commits", "Transactions of the store.")
        self._compressions = self._counter("compressions", "Segments stored compressed.")
        self._rejected = self._counter("rejected_batches", "Batches refused.")
        self._repeated = self._counter("repeated_batches", "Batches acknowledged again.")
        self._bytes_in = self._counter("segment_original_bytes", "Segments before compression.")
        self._bytes_stored = self._counter("segment_stored_bytes", "Segments as stored.")
        self._failed_commits = self._counter("failed_commits", "Commits that changed nothing.")
        self._payload_puts = self._counter("payload_puts", "Bodies put by clients.")
        self._collections = self._counter("payload_collections", "Searches for bodies to drop.")
        self._collected = self._counter("payloads_collected", "Bodies dropped.")
        self._payloads = self._gauge("payloads", "Bodies in the payload store.")
        self._original_bytes = self._gauge("payload_original_bytes", "Their bytes as put.")
        self._stored_bytes = self._gauge("payload_stored_bytes", "Their bytes as stored.")
        self.damaged_snapshots = self._counter(
            "damaged_snapshots", "Times that the log had to replace a damaged snapshot."
        )
        self._verified_ends = self._counter(
            "verified_ends", "Final states of projects that were read back from the store."
        )
        self._damaged_ends = self._counter(
            "damaged_ends", "Final states that could not be read back as they should be."
        )
        self.watch_messages = self._counter("watch_messages", "Messages sent to watchers.")
        self.resyncs = self._counter(
            "watch_overflows", "Watches that fell behind and read on from the store."
        )
        self.watchers = Gauge(
            "ramify_state_watchers", "Open watches.", ["state"], registry=self.registry
        )
        self.streams = Gauge(
            "ramify_state_streams", "Open mutation streams.", registry=self.registry
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"ramify_state_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"ramify_state_{name}", text, registry=self.registry)

    def seen(self, project_id: str) -> Counters:
        """Return the counters of one project as they are, without keeping new ones."""
        return self._projects.get(project_id) or Counters()

    def project(self, project_id: str) -> Counters:
        """Return the counters of one project, to count in them."""
        counters = self._projects.get(project_id)
        if counters is None:
            if len(self._projects) >= _MAX_PROJECTS:
                del self._projects[next(iter(self._projects))]
            counters = self._projects[project_id] = Counters()
        return counters

    def forget(self, project_id: str) -> None:
        """Drop the counters of a project that is deleted."""
        self._projects.pop(project_id, None)

    def final_state(self, sound: bool) -> None:
        """Count one final state that was read back from the store."""
        (self._verified_ends if sound else self._damaged_ends).inc()

    def committed(self, seconds: float, mutations: int) -> None:
        """Count one commit of the store with the mutations of all its projects."""
        self.service.seconds.add(seconds)
        self._commit_seconds.observe(seconds)
        if mutations:  # else it is about producers alone
            self.service.commits += 1
            self._commits.inc()
            self._fill.observe(mutations)

    def part(
        self, project_id: str, run: Sequence[PendingBatch], stored: StoredPart, seconds: float
    ) -> int:
        """Count one project's part of a commit that took so long; return its mutations."""
        mutations = immediate = 0
        for batch in run:
            mutations += batch.applied.mutation_count
            if batch.immediate:
                immediate += batch.applied.mutation_count
        project = self.project(project_id)
        # To the end: the one that has not written for longest gives way first.
        self._projects[project_id] = self._projects.pop(project_id)
        project.commits += 1
        project.seconds.add(seconds)
        for counters in (self.service, project):
            counters.batches += len(run)
            counters.mutations += mutations
            counters.immediate += immediate
            counters.bytes_in += stored.original_bytes
            counters.bytes_stored += stored.stored_bytes
            counters.compressions += stored.compressions
        self._mutations.inc(mutations)
        self._immediate.inc(immediate)
        self._batches.inc(len(run))
        self._compressions.inc(stored.compressions)
        self._bytes_in.inc(stored.original_bytes)
        self._bytes_stored.inc(stored.stored_bytes)
        return mutations

    def failed(self) -> None:
        """Count one commit that changed nothing."""
        self.service.failed += 1
        self._failed_commits.inc()

    def put_payload(self) -> None:
        """Count one body that a client has put."""
        self.service.payload_puts += 1
        self._payload_puts.inc()

    def collected(self, payloads: int) -> None:
        """Count one search for bodies to drop, and those it has dropped."""
        self.service.payload_collections += 1
        self.service.payloads_collected += payloads
        self._collections.inc()
        self._collected.inc(payloads)

    def hold(self, totals: PayloadTotals) -> None:
        """Note how much the payload store holds."""
        self.service.payloads = totals
        self._payloads.set(totals.count)
        self._original_bytes.set(totals.original_bytes)
        self._stored_bytes.set(totals.stored_bytes)

    def rejected(self, project_id: str | None) -> None:
        """Count one refused batch; None if it names no project that exists."""
        self.service.rejected += 1
        if project_id is not None:
            self.project(project_id).rejected += 1
        self._rejected.inc()

    def repeated(self, project_id: str) -> None:
        """Count one batch that was acknowledged again."""
        for counters in (self.service, self.project(project_id)):
            counters.repeated += 1
        self._repeated.inc()


class _ProjectSeries(Collector):
    """Prometheus series of single projects: those that wrote latest, a bounded number."""

    def __init__(self, projects: dict[str, Counters], most: int) -> None:
        self._projects = projects
        self._most = most

    def collect(self) -> Iterator[Metric]:
        """Yield the series; runs in the thread of Prometheus."""
        latest = list(self._projects.items())[-self._most :]
        stats = [(project_id, counters.to_stats()) for project_id, counters in latest]
        for field_name, name, text in _PROJECT_COUNTERS:
            counter = CounterMetricFamily(f"ramify_state_project_{name}", text, labels=["project"])
            for project_id, shown in stats:
                counter.add_metric([project_id], getattr(shown, field_name))
            yield counter
        seconds = GaugeMetricFamily(
            "ramify_state_project_commit_seconds",
            f"Quantiles of the latest {_PROJECT_SAMPLES} commits that the project took part in.",
            labels=["project", "quantile"],
        )
        for project_id, shown in stats:
            for quantile in ("50", "90", "99"):
                value = getattr(shown, f"commit_seconds_p{quantile}")
                seconds.add_metric([project_id, f"0.{quantile}"], value)
        yield seconds


#: Field of `Stats`, name of the series, help.
_PROJECT_COUNTERS = (
    ("total_updates", "mutations", "Mutations committed."),
    ("immediate_updates", "immediate_mutations", "Mutations in immediate batches."),
    ("batches", "batches", "Batches committed."),
    ("rejected_batches", "rejected_batches", "Batches refused."),
    ("repeated_batches", "repeated_batches", "Batches acknowledged again."),
    ("commits", "commits", "Commits that the project took part in."),
    ("compressions", "compressions", "Segments stored compressed."),
    ("bytes_in", "segment_original_bytes", "Segments before compression."),
    ("bytes_stored", "segment_stored_bytes", "Segments as stored."),
)
