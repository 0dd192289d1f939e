"""Decides whether a batch is accepted (SEM 1 to 8). Pure: changes nothing.

The order of the checks: size, lease, sequence, expected revision, the mutations, then counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Mutation, MutationBatch
from ramify.v1.state_service_pb2 import CommitBatchRequest
from state_svc.errors import BatchRejected, ProducerFenced, Violation
from state_svc.ingest.counts import check_counts
from state_svc.model import validate
from state_svc.model.apply import apply_batch
from state_svc.model.limits import Limits
from state_svc.model.payload import NO_PAYLOADS, KnownPayloads
from state_svc.model.project import NO_ORIGIN, Applied, LiveProject, Origin

_INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION


def admit(
    project: LiveProject,
    batch: MutationBatch | CommitBatchRequest,
    *,
    limits: Limits,
    micros: int,
    origin: Origin = NO_ORIGIN,
    payloads: KnownPayloads = NO_PAYLOADS,
) -> Applied:
    """Return the effects of a batch whose sequence is the next one.

    `payloads` are those that are known to be stored. Raises `BatchRejected`, `ProducerFenced` or
    `LimitReached`; then nothing has changed.
    """
    mutations = batch.mutations
    check_size(len(mutations), batch.ByteSize(), limits)
    if len(batch.actor) > 0 and (problem := validate.check_name(batch.actor)):
        raise _invalid("actor", problem)
    if len(batch.traceparent) > 0 and (problem := validate.check_traceparent(batch.traceparent)):
        raise _invalid("traceparent", problem)
    check_lease(project, batch.lease_epoch, mutations)
    if batch.HasField("expected_revision") and batch.expected_revision != project.revision:
        violation = Violation(
            0,
            ErrorReason.ERROR_REASON_VERSION_CONFLICT,
            "expected_revision",
            f"the project is at revision {project.revision}, not {batch.expected_revision}",
        )
        raise BatchRejected((violation,), revision=project.revision)
    applied = apply_batch(
        project,
        mutations,
        micros=micros,
        origin=origin,
        actor=batch.actor,
        traceparent=batch.traceparent,
        max_nodes=limits.max_project_nodes,
        payloads=payloads,
    )
    check_counts(project, applied, limits)
    return applied


def check_size(mutations: int, size: int, limits: Limits) -> None:
    """Raise `BatchRejected` unless a batch has a permitted number of mutations and bytes."""
    if not mutations:
        raise _invalid("mutations", "a batch has at least one mutation")
    if mutations > limits.max_batch_mutations:
        raise _invalid(
            "mutations", f"has {mutations}, at most {limits.max_batch_mutations} are allowed"
        )
    if size > limits.max_batch_bytes:
        raise _invalid("", f"has {size} bytes, at most {limits.max_batch_bytes} are allowed")


def check_lease(project: LiveProject, lease_epoch: int, mutations: Sequence[Mutation]) -> None:
    """Raise `ProducerFenced` unless the writer may write (SEM 2).

    A leased project takes its holder's epoch only; a free one takes no epoch. Commands may be
    given and reviews decided by anyone (SEM 19).
    """
    lease = project.entity.lease
    if lease_epoch == (lease.lease_epoch if lease.holder else 0):
        return
    if not lease_epoch and all(map(_is_free, mutations)):
        return
    raise ProducerFenced(
        project_id=project.project_id, lease_epoch=lease.lease_epoch, holder=lease.holder
    )


def _is_free(mutation: Mutation) -> bool:
    """Whether a mutation may come from anyone."""
    return mutation.command.HasField("create") or mutation.review.HasField("resolve")


def _invalid(field: str, description: str) -> BatchRejected:
    return BatchRejected((Violation(0, _INVALID, field, description),))
