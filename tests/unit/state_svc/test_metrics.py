"""The counters of S0.6: of the service and of each project, in GetStats and in Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from prometheus_client import generate_latest

from ramify.v1.state_service_pb2 import Stats
from state_svc.errors import RamifyError
from state_svc.ingest.committer import PendingBatch
from state_svc.metrics import Samples, ServiceMetrics, StoredPart, percentile
from state_svc.model.apply import apply_batch
from tests.support.live import NOW, live_project
from tests.support.mutations import create


class _Nobody:
    def on_durable(self, batches: Sequence[PendingBatch]) -> None: ...
    def on_failed(self, batches: Sequence[PendingBatch], error: RamifyError) -> None: ...


def _batch(project_id: str, mutations: int, *, immediate: bool = False) -> PendingBatch:
    project = live_project(project_id=project_id)
    applied = apply_batch(project, [create(f"n{n}") for n in range(mutations)], micros=NOW)
    return PendingBatch(
        project=project, applied=applied, owner=_Nobody(), size=1, immediate=immediate
    )


def _commit(metrics: ServiceMetrics, seconds: float, *batches: PendingBatch) -> None:
    total = 0
    for batch in batches:
        part = StoredPart(original_bytes=1_000, stored_bytes=250, compressions=1)
        total += metrics.part(batch.project.project_id, [batch], part, seconds)
    metrics.committed(seconds, total)


def test_the_service_counts_commits_and_a_project_those_that_it_took_part_in() -> None:
    metrics = ServiceMetrics()
    _commit(metrics, 0.010, _batch("a", 3), _batch("b", 1, immediate=True))
    _commit(metrics, 0.030, _batch("a", 2))
    metrics.committed(0.5, 0)  # a producer's epoch: time passed, nothing was changed
    service, a = metrics.service.to_stats(), metrics.project("a").to_stats()
    assert (service.commits, service.batches, service.total_updates) == (2, 3, 6)
    assert (service.batched_updates, service.immediate_updates) == (5, 1)
    assert service.mean_batch_fill == 3.0
    assert (a.commits, a.batches, a.total_updates, a.mean_batch_fill) == (2, 2, 5, 2.5)
    b = metrics.project("b").to_stats()
    assert (b.commits, b.batched_updates, b.immediate_updates) == (1, 0, 1)
    assert (service.bytes_in, service.bytes_stored, service.bytes_saved) == (3_000, 750, 2_250)
    assert (service.compressions, service.compression_ratio) == (3, 4.0)
    assert (a.bytes_in, a.bytes_saved, a.compression_ratio, a.compressions) == (2_000, 1_500, 4, 2)


def test_commit_times_are_shown_as_percentiles_of_the_service_and_of_each_project() -> None:
    metrics = ServiceMetrics()
    for number in range(1, 101):
        _commit(metrics, number / 1_000, _batch("a", 1))
    _commit(metrics, 9.0, _batch("b", 1))
    a = metrics.project("a").to_stats()
    found = (a.commit_seconds_p50, a.commit_seconds_p90, a.commit_seconds_p99)
    assert found == pytest.approx((0.050, 0.090, 0.099))
    assert metrics.project("b").to_stats().commit_seconds_p50 == 9.0
    assert metrics.service.to_stats().commit_seconds_p99 == pytest.approx(0.1)


@pytest.mark.parametrize(
    "values, share, expected",
    [([], 0.5, 0.0), ([7.0], 0.01, 7.0), ([1.0, 2.0], 0.5, 1.0), ([1.0, 2.0], 0.51, 2.0)],
)
def test_a_percentile_is_a_value_that_was_measured(
    values: list[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


def test_only_the_latest_samples_are_kept() -> None:
    samples = Samples(3)
    for value in (9.0, 1.0, 3.0, 2.0):
        samples.add(value)
    assert samples.ordered() == [1.0, 2.0, 3.0]


def test_the_project_that_wrote_longest_ago_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("state_svc.metrics._MAX_PROJECTS", 2)
    metrics = ServiceMetrics()
    for project_id in ("a", "b", "a", "c"):
        _commit(metrics, 0.001, _batch(project_id, 1))
    assert list(metrics._projects) == ["a", "c"]
    metrics.forget("a")
    assert list(metrics._projects) == ["c"]


def test_every_counter_is_in_prometheus_for_the_service_and_the_latest_projects() -> None:
    metrics = ServiceMetrics(prometheus_projects=2)
    for project_id in ("old", "a", "b"):
        _commit(metrics, 0.004, _batch(project_id, 2, immediate=project_id == "a"))
    metrics.failed()
    text = generate_latest(metrics.registry).decode()
    value = metrics.registry.get_sample_value
    for name, expected in {
        "mutations": 6,
        "immediate_mutations": 2,
        "batches": 3,
        "commits": 3,
        "failed_commits": 1,
        "compressions": 3,
        "segment_original_bytes": 3_000,
        "segment_stored_bytes": 750,
    }.items():
        assert value(f"ramify_state_{name}_total") == expected, name
    assert value("ramify_state_batch_fill_sum") == 6
    assert value("ramify_state_commit_seconds_count") == 3
    for name, expected in {"mutations": 2, "immediate_mutations": 2, "commits": 1}.items():
        assert value(f"ramify_state_project_{name}_total", {"project": "a"}) == expected
    quantile = {"project": "b", "quantile": "0.99"}
    assert value("ramify_state_project_commit_seconds", quantile) == pytest.approx(0.004)
    assert 'project="old"' not in text


def test_no_series_of_projects_if_none_are_wanted() -> None:
    metrics = ServiceMetrics(prometheus_projects=0)
    _commit(metrics, 0.001, _batch("a", 1))
    assert "ramify_state_project_" not in generate_latest(metrics.registry).decode()


def test_the_contract_has_what_the_requirements_name() -> None:
    assert {
        "total_updates",
        "batched_updates",
        "immediate_updates",
        "commits",
        "mean_batch_fill",
        "compressions",
        "bytes_in",
        "bytes_stored",
        "bytes_saved",
        "compression_ratio",
        "commit_seconds_p50",
        "commit_seconds_p90",
        "commit_seconds_p99",
    } <= set(Stats.DESCRIPTOR.fields_by_name)
