"""Counters of the service and of each project, for GetStats and Prometheus (S0.6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ramify.v1.state_service_pb2 import Stats

if TYPE_CHECKING:
    from state_svc.ingest.committer import PendingBatch

_SAMPLES = 1_000
_MAX_PROJECTS = 10_000  #: projects with counters of their own; older ones are forgotten
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_FILL = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000)


@dataclass(slots=True)
class Counters:
    """What one project, or the service, has done since the service started."""

    immediate: int = 0
    mutations: int = 0
    batches: int = 0
    rejected: int = 0
    repeated: int = 0
    commits: int = 0
    compressions: int = 0
    bytes_in: int = 0
    bytes_stored: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def to_stats(self) -> Stats:
        """Return the counters as the contract shows them."""
        seconds = sorted(self.seconds)
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
            bytes_saved=self.bytes_in - self.bytes_stored,
            compression_ratio=self.bytes_in / self.bytes_stored if self.bytes_stored else 0.0,
            commit_seconds_p50=percentile(seconds, 0.50),
            commit_seconds_p99=percentile(seconds, 0.99),
        )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the ordered values lie (nearest rank); 0 if none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class ServiceMetrics:
    """Owned by the event loop; Prometheus reads it from its own thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.service = Counters()
        self._projects: dict[str, Counters] = {}
        self._commit_seconds = Histogram(
            "ramify_state_commit_seconds",
            "From handing a commit to the store until it is durable.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._fill = Histogram(
            "ramify_state_batch_fill",
            "Mutations in a commit, per project.",
            buckets=_FILL,
            registry=self.registry,
        )
        self._mutations = self._counter("mutations", "Mutations committed.")
        self._batches = self._counter("batches", "Batches committed.")
        self._rejected = self._counter("rejected_batches", "Batches refused.")
        self._repeated = self._counter("repeated_batches", "Batches acknowledged again.")
        self._bytes_in = self._counter("segment_original_bytes", "Segments before compression.")
        self._bytes_stored = self._counter("segment_stored_bytes", "Segments as stored.")
        self.failed_commits = self._counter("failed_commits", "Commits that changed nothing.")
        self.watch_messages = self._counter("watch_messages", "Messages sent to watchers.")
        self.resyncs = self._counter("watch_overflows", "Mailboxes dropped because full.")
        self.watchers = Gauge(
            "ramify_state_watchers", "Open watches.", ["state"], registry=self.registry
        )
        self.streams = Gauge(
            "ramify_state_streams", "Open mutation streams.", registry=self.registry
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"ramify_state_{name}", text, registry=self.registry)

    def project(self, project_id: str) -> Counters:
        """Return the counters of one project."""
        counters = self._projects.get(project_id)
        if counters is None:
            if len(self._projects) >= _MAX_PROJECTS:
                del self._projects[next(iter(self._projects))]
            counters = self._projects[project_id] = Counters()
        return counters

    def committed(self, seconds: float) -> None:
        """Count one commit of the store."""
        self.service.seconds.append(seconds)
        self._commit_seconds.observe(seconds)

    def segment(
        self, project_id: str, run: Sequence[PendingBatch], original: int, stored: int
    ) -> None:
        """Count one project's part of a commit."""
        mutations = sum(batch.applied.mutation_count for batch in run)
        immediate = sum(b.applied.mutation_count for b in run if b.immediate)
        for counters in (self.service, self.project(project_id)):
            counters.commits += 1
            counters.batches += len(run)
            counters.mutations += mutations
            counters.immediate += immediate
            counters.bytes_in += original
            counters.bytes_stored += stored
            counters.compressions += stored != original
        self._fill.observe(mutations)
        self._mutations.inc(mutations)
        self._batches.inc(len(run))
        self._bytes_in.inc(original)
        self._bytes_stored.inc(stored)

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
